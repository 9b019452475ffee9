// A Hugging Face model folder, read: config.json, the weights as safetensors (one file or shards), the tokenizer. Weights stay on disk
// until one is asked for by name, because a stage loads only its own. What the config means is not decided here.
import { open, type FileHandle } from 'node:fs/promises';
import path from 'node:path';
import { z } from 'zod';
import { MeshError, toMeshError } from '../runtime/errors.ts';
import { headerSize, readHeader, type Place } from '../runtime/safetensors.ts';
import type { DType, Tensor } from '../runtime/tensor.ts';
import type { Tokenizer } from '../runtime/text/tokenizer.ts';
import { widened } from '../runtime/widen.ts';
import { isFile } from './files.ts';
import { readUtf8, tokenizerOfFolder } from './tokenizer-files.ts';

export const CONFIG_FILE = 'config.json';
export const WEIGHTS_FILE = 'model.safetensors';
export const INDEX_FILE = 'model.safetensors.index.json';

export interface HfFolder {
  /** A JSON object; its schema is that of the model. */
  config: Record<string, unknown>;
  /** Every tensor as it is in the files: name, dtype, shape. */
  tensors: ReadonlyMap<string, { dtype: DType; shape: readonly number[] }>;
  /** Reads the bytes of this one; floating-point values become f32. Throws `bad-file` for a name that is not there. */
  tensor(name: string): Promise<Tensor>;
  /** Null where the folder has none. */
  tokenizer(): Promise<Tokenizer | null>;
}

/** Throws `bad-file`, naming the file, where it is no model folder. Reads the headers of the weights and nothing of their data. */
export async function readHfFolder(folder: string): Promise<HfFolder> {
  const config = await readObject(path.join(folder, CONFIG_FILE));
  const places = await placesOf(folder);
  return {
    config,
    tensors: places,
    tensor: async (name) => {
      const place = places.get(name);
      if (!place)
        throw new MeshError(
          'bad-file',
          `${folder} has no tensor ${name} among its ${places.size}.`,
          'Check that config.json and the weights belong to the same model.',
        );
      const { dtype, shape, begin, end, file } = place;
      const data = await withFile(file, (handle) => readSpan(handle, file, begin, end));
      return widened({ dtype, shape, data });
    },
    tokenizer: () => tokenizerOfFolder(folder),
  };
}

type FilePlace = Place & { file: string };

async function placesOf(folder: string): Promise<Map<string, FilePlace>> {
  const single = path.join(folder, WEIGHTS_FILE);
  if (await isFile(single)) return placesIn(single);
  const indexFile = path.join(folder, INDEX_FILE);
  if (await isFile(indexFile)) return placesInShards(folder, indexFile);
  throw new MeshError(
    'bad-file',
    `${folder} holds neither ${WEIGHTS_FILE} nor ${INDEX_FILE}.`,
    'Name a model folder with weights as safetensors; other formats must be converted first.',
  );
}

async function placesIn(file: string): Promise<Map<string, FilePlace>> {
  return withFile(file, async (handle) => {
    const { size } = await handle.stat();
    try {
      const start = await readSpan(handle, file, 0, Math.min(8, size));
      const header = await readSpan(handle, file, 0, headerSize(start, size));
      const { places } = readHeader(header, size);
      return new Map([...places].map(([name, place]) => [name, { ...place, file }]));
    } catch (cause) {
      const error = toMeshError(cause);
      if (error.code !== 'malformed') throw error;
      throw new MeshError('bad-file', `${file}: ${error.message}`, 'Get the file again: it may be cut short.', {
        cause,
      });
    }
  });
}

/** Only plain names, so that an index cannot point out of its folder. */
const indexSchema = z.looseObject({
  weight_map: z.record(z.string(), z.string().regex(/^[\w.-]+\.safetensors$/, 'is no name of a safetensors file')),
});

/** The shards that an index names, each once. Throws `bad-file`. */
export function shardsOf(index: unknown, file: string): { shards: string[]; weightMap: Record<string, string> } {
  const parsed = indexSchema.safeParse(index);
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    throw new MeshError(
      'bad-file',
      `${file} is no index of shards: ${issue?.path.join('.') ?? ''}: ${issue?.message ?? ''}.`,
      'Get the file again.',
    );
  }
  const weightMap = parsed.data.weight_map;
  return { shards: [...new Set(Object.values(weightMap))].sort(), weightMap };
}

async function placesInShards(folder: string, indexFile: string): Promise<Map<string, FilePlace>> {
  const { shards, weightMap } = shardsOf(await readObject(indexFile), indexFile);
  const found = new Map<string, Map<string, FilePlace>>();
  for (const shard of shards) found.set(shard, await placesIn(path.join(folder, shard)));
  return new Map(
    Object.entries(weightMap).map(([name, shard]) => {
      const place = found.get(shard)?.get(name);
      if (place) return [name, place];
      throw new MeshError(
        'bad-file',
        `${indexFile} says that ${name} is in ${shard}, which does not hold it.`,
        'Get the index and its shards again: they are not of one model.',
      );
    }),
  );
}

/** One read takes less than 2 GiB. */
const READ_BYTES = 256 * 2 ** 20;

async function readSpan(
  handle: FileHandle,
  file: string,
  begin: number,
  end: number,
): Promise<Uint8Array<ArrayBuffer>> {
  const data = new Uint8Array(end - begin);
  for (let at = 0; at < data.byteLength;) {
    const { bytesRead } = await handle.read(data, at, Math.min(READ_BYTES, data.byteLength - at), begin + at);
    if (bytesRead === 0)
      throw new MeshError('bad-file', `${file} ends before byte ${end}: it has become shorter.`, 'Get the file again.');
    at += bytesRead;
  }
  return data;
}

async function withFile<T>(file: string, work: (handle: FileHandle) => Promise<T>): Promise<T> {
  const handle = await open(file).catch((cause: Error) => {
    throw new MeshError('bad-file', `${file} cannot be read: ${cause.message}.`, 'Check the path.', { cause });
  });
  try {
    return await work(handle);
  } finally {
    await handle.close();
  }
}

async function readObject(file: string): Promise<Record<string, unknown>> {
  const text = await readUtf8(file);
  const parsed = z.record(z.string(), z.unknown()).safeParse(parsedJson(text));
  if (parsed.success) return parsed.data;
  throw new MeshError('bad-file', `${file} is no JSON object.`, 'Give the file as Hugging Face writes it.');
}

function parsedJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null; // no object either: the caller says so
  }
}
