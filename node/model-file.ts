// The model as a file: written whole or not at all, in a place that was tried before the work began.
import { access, constants, mkdir, rename, rm, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { MeshError } from '../runtime/errors.ts';
import { encode } from '../runtime/safetensors.ts';
import type { Tensors } from '../runtime/tensor.ts';

/** Makes its folder. Throws `bad-file` where nothing can be written: better now than after hours of training. */
export async function expectWritable(file: string): Promise<void> {
  const target = path.resolve(file);
  try {
    await mkdir(path.dirname(target), { recursive: true });
    await access(path.dirname(target), constants.W_OK);
    const found = await stat(target).catch(unlessAbsent);
    if (found && !found.isFile()) throw new Error('it is there and is no file');
  } catch (cause) {
    throw unwritable(file, cause);
  }
}

/** Usually it is not there yet. */
function unlessAbsent(cause: NodeJS.ErrnoException): null {
  if (cause.code === 'ENOENT') return null;
  throw cause;
}

/** Whole or not at all: written beside its place, then renamed. Layers in numeric order, as other frameworks list them. */
export async function saveModel(file: string, tensors: Tensors): Promise<string> {
  const target = path.resolve(file);
  const ordered = new Map([...tensors].sort(([a], [b]) => a.localeCompare(b, 'en', { numeric: true })));
  const part = `${target}.part`;
  try {
    await mkdir(path.dirname(target), { recursive: true });
    await writeFile(part, encode(ordered, { format: 'pt' }));
    await rename(part, target);
  } catch (cause) {
    await rm(part, { force: true }).catch(() => undefined); // the first failure is the one to report
    throw unwritable(file, cause);
  }
  return target;
}

export const unwritable = (file: string, cause: unknown): MeshError =>
  new MeshError(
    'bad-file',
    `${file} cannot be written: ${(cause as Error).message}.`,
    'Name a file in a folder that you may write to.',
    { cause },
  );
