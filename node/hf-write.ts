// A Hugging Face model folder, written: everything beside its place first, then renamed, so that a reader never takes half a model for
// a whole one. Files in the folder that are no part of a model stay.
import { mkdir, open, readdir, rename, rm, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { z } from 'zod';
import { MeshError } from '../runtime/errors.ts';
import { encodeHeader } from '../runtime/safetensors.ts';
import type { Tensor, Tensors } from '../runtime/tensor.ts';
import type { Tokenizer } from '../runtime/text/tokenizer.ts';
import { CONFIG_FILE, INDEX_FILE, WEIGHTS_FILE } from './hf-folder.ts';
import { giveUp, ifThere } from './files.ts';
import { TOKENIZER_FILE, tokenizerText } from './tokenizer-files.ts';

export interface HfModel {
  /** With `model_type` and `architectures`, by which others know what to build. */
  config: Readonly<Record<string, unknown>>;
  tensors: Tensors;
  tokenizer?: Tokenizer | null;
  /** Weights beyond it go to several files; Hugging Face's own default. */
  maxShardBytes?: number;
}

const MAX_SHARD_BYTES = 5_000_000_000;
const WRITE_BYTES = 64 * 2 ** 20;
/** What a save replaces: weights of either layout. */
const WEIGHTS = /^model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?$/;
const configSchema = z.looseObject({ model_type: z.string().min(1), architectures: z.array(z.string()).min(1) });

/** Returns the full path. Throws `bad-file` where it cannot be written, `usage` for a config that names no model. */
export async function writeHfFolder(folder: string, model: HfModel): Promise<string> {
  if (!configSchema.safeParse(model.config).success)
    throw new MeshError(
      'usage',
      'The config has no model_type and architectures, without which nobody could load the model.',
      'Give both, such as "gpt2" and ["GPT2LMHeadModel"].',
    );
  const target = path.resolve(folder);
  const part = `${target}.part-${crypto.randomUUID().slice(0, 8)}`;
  try {
    await mkdir(path.dirname(target), { recursive: true });
    await mkdir(part);
    await writeParts(part, model);
    await moveIn(part, target);
    await rm(part, { recursive: true, force: true });
  } catch (cause) {
    return await giveUp(folder, cause, () => rm(part, { recursive: true, force: true }));
  }
  return target;
}

async function writeParts(part: string, { config, tensors, tokenizer, maxShardBytes }: HfModel): Promise<void> {
  const sorted = [...tensors].sort(([a], [b]) => a.localeCompare(b, 'en', { numeric: true }));
  const shards = shared(sorted, maxShardBytes ?? MAX_SHARD_BYTES);
  const [only] = shards;
  if (only && shards.length === 1) await writeWeights(path.join(part, WEIGHTS_FILE), only);
  else {
    const number = (n: number): string => String(n).padStart(5, '0');
    const weightMap: Record<string, string> = {};
    for (const [i, shard] of shards.entries()) {
      const name = `model-${number(i + 1)}-of-${number(shards.length)}.safetensors`;
      await writeWeights(path.join(part, name), shard);
      for (const tensor of shard.keys()) weightMap[tensor] = name;
    }
    const total = sorted.reduce((sum, [, { data }]) => sum + data.byteLength, 0);
    await writeJson(path.join(part, INDEX_FILE), { metadata: { total_size: total }, weight_map: weightMap });
  }
  if (tokenizer) await writeFile(path.join(part, TOKENIZER_FILE), tokenizerText(tokenizer));
  await writeJson(path.join(part, CONFIG_FILE), config);
}

/** In order; a tensor larger than the limit has a shard to itself. Always at least one shard. */
function shared(tensors: readonly (readonly [string, Tensor])[], limit: number): Map<string, Tensor>[] {
  let shard = new Map<string, Tensor>();
  const shards = [shard];
  let bytes = 0;
  for (const [name, tensor] of tensors) {
    if (shard.size > 0 && bytes + tensor.data.byteLength > limit) {
      shard = new Map();
      shards.push(shard);
      bytes = 0;
    }
    shard.set(name, tensor);
    bytes += tensor.data.byteLength;
  }
  return shards;
}

/** Tensor by tensor, without a second copy of the weights in memory. */
async function writeWeights(file: string, tensors: Tensors): Promise<void> {
  const handle = await open(file, 'wx');
  try {
    await handle.writeFile(encodeHeader(tensors, { format: 'pt' }));
    for (const { data } of tensors.values())
      for (let at = 0; at < data.byteLength; at += WRITE_BYTES)
        await handle.writeFile(data.subarray(at, at + WRITE_BYTES));
    await handle.sync();
  } finally {
    await handle.close();
  }
}

const writeJson = (file: string, value: unknown): Promise<void> =>
  writeFile(file, `${JSON.stringify(value, null, 2)}\n`);

/** A folder that is there loses its config.json first and gets the other one last: in between it is no model folder. */
async function moveIn(part: string, target: string): Promise<void> {
  const found = await ifThere(target, (name) => stat(name));
  if (!found) return rename(part, target);
  if (!found.isDirectory()) throw new Error('it is there and is no folder');
  await rm(path.join(target, CONFIG_FILE), { force: true });
  for (const name of await readdir(target)) if (WEIGHTS.test(name)) await rm(path.join(target, name));
  const names = (await readdir(part)).filter((name) => name !== CONFIG_FILE);
  for (const name of [...names, CONFIG_FILE]) await rename(path.join(part, name), path.join(target, name));
}
