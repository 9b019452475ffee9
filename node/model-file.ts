// The model as a file: written whole or not at all, in a place that was tried before the work began.
import { access, constants, mkdir, stat } from 'node:fs/promises';
import path from 'node:path';
import { encode } from '../runtime/safetensors.ts';
import type { Tensors } from '../runtime/tensor.ts';
import { ifThere, unwritable, writeWhole } from './files.ts';

/** Makes its folder. Throws `bad-file` where nothing can be written: better now than after hours of training. */
export async function expectWritable(file: string): Promise<void> {
  const target = path.resolve(file);
  try {
    await mkdir(path.dirname(target), { recursive: true });
    await access(path.dirname(target), constants.W_OK);
    const found = await ifThere(target, (name) => stat(name)); // usually it is not there yet
    if (found && !found.isFile()) throw new Error('it is there and is no file');
  } catch (cause) {
    throw unwritable(file, cause);
  }
}

/** Whole or not at all. Layers in numeric order, as other frameworks list them. Returns the full path. */
export async function saveModel(file: string, tensors: Tensors): Promise<string> {
  const ordered = new Map([...tensors].sort(([a], [b]) => a.localeCompare(b, 'en', { numeric: true })));
  return writeWhole(file, encode(ordered, { format: 'pt' }));
}
