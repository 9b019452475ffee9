// Checkpoints as folders: written whole or not at all, checked by their hashes before a byte of them is believed. What is in them is
// runtime/train/checkpoint.ts.
import { createHash, type Hash } from 'node:crypto';
import { mkdir, open, readdir, readFile, rename, rm, type FileHandle } from 'node:fs/promises';
import path from 'node:path';
import { MeshError, toMeshError } from '../runtime/errors.ts';
import { encodeHeader, headerSize, readHeader } from '../runtime/safetensors.ts';
import type { Tensor, Tensors } from '../runtime/tensor.ts';
import {
  checkpointName,
  LATEST_FILE,
  newestFirst,
  OPTIMIZER_FILE,
  parseCheckpointName,
  RUN_FILE,
  runFileSchema,
  surplus,
  WEIGHTS_FILE,
  type RunFile,
  type Snapshot,
} from '../runtime/train/checkpoint.ts';
import { giveUp, ifThere, isFile, unwritable } from './files.ts';

const PIECE_BYTES = 64 * 2 ** 20;
const PART = '.part-';

export interface CheckpointFolder {
  folder: string;
  keep: number;
  config: Record<string, unknown>;
  tokenizer: RunFile['tokenizer'];
}

/** Returns the checkpoint's path. Older ones beyond `keep` go once it is safe. */
export async function writeCheckpoint(
  { folder, keep, config, tokenizer }: CheckpointFolder,
  { step, steps, weights, optimizer, lossScale }: Snapshot,
): Promise<string> {
  const root = path.resolve(folder);
  const part = path.join(root, `${PART}${process.pid}-${step}`);
  try {
    await mkdir(root, { recursive: true });
    await rm(part, { recursive: true, force: true });
    await mkdir(part);
    const files = {
      [WEIGHTS_FILE]: await writeTensors(path.join(part, WEIGHTS_FILE), weights),
      [OPTIMIZER_FILE]: await writeTensors(path.join(part, OPTIMIZER_FILE), optimizer),
    } as const;
    const run: RunFile = { format: 1, step, steps, config, tokenizer, lossScale, files };
    const text = `${JSON.stringify(run, null, 2)}\n`;
    await writeSynced(path.join(part, RUN_FILE), text);
    const name = checkpointName(step, createHash('sha256').update(text).digest('hex'));
    await place(part, path.join(root, name));
    await writeSynced(path.join(root, `${LATEST_FILE}.part`), `${JSON.stringify({ checkpoint: name })}\n`);
    await rename(path.join(root, `${LATEST_FILE}.part`), path.join(root, LATEST_FILE));
    await syncFolder(root);
    for (const old of surplus(await readdir(root), keep, name))
      await rm(path.join(root, old), { recursive: true, force: true });
    return path.join(root, name);
  } catch (cause) {
    return await giveUp(folder, cause, () => rm(part, { recursive: true, force: true }));
  }
}

/** The same state may have been kept before: its name says that it is the same. */
async function place(part: string, target: string): Promise<void> {
  const isThere = await verify(target).then(
    () => true,
    () => false,
  );
  if (isThere) return rm(part, { recursive: true });
  await rm(target, { recursive: true, force: true });
  await syncFolder(part);
  await rename(part, target);
  await syncFolder(path.dirname(target));
}

/** Makes the folder, and clears away what a writer that died has left there. */
export async function prepareFolder(folder: string): Promise<void> {
  const root = path.resolve(folder);
  try {
    await mkdir(root, { recursive: true });
    for (const name of await readdir(root))
      if (name.startsWith(PART) && !isAlive(Number(name.slice(PART.length).split('-')[0])))
        await rm(path.join(root, name), { recursive: true, force: true });
  } catch (cause) {
    throw unwritable(folder, cause);
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (cause) {
    return (cause as NodeJS.ErrnoException).code === 'EPERM';
  }
}

export interface Checkpoint {
  /** Full path of the folder. */
  path: string;
  run: RunFile;
  weights(names: readonly string[]): Promise<Map<string, Tensor>>;
  optimizer(names: readonly string[]): Promise<Map<string, Tensor>>;
}

/**
 * A checkpoint, or the one that a folder of them calls its latest. Throws `bad-file`, naming the file, where it is not what its hashes
 * say; and names an older one that is.
 */
export async function openCheckpoint(given: string): Promise<Checkpoint> {
  const at = path.resolve(given);
  const target = (await isFile(path.join(at, RUN_FILE))) ? at : path.join(at, await latestOf(at));
  let run: RunFile;
  try {
    run = await verify(target);
  } catch (cause) {
    const error = toMeshError(cause);
    const other = await olderGood(target);
    throw new MeshError(
      'bad-file',
      error.message,
      other
        ? `Go on from the one before it: --resume ${other}`
        : 'There is no older checkpoint beside it: start again.',
      { cause },
    );
  }
  return {
    path: target,
    run,
    weights: (names) => readTensors(path.join(target, WEIGHTS_FILE), names),
    optimizer: (names) => readTensors(path.join(target, OPTIMIZER_FILE), names),
  };
}

async function latestOf(folder: string): Promise<string> {
  const names = newestFirst((await ifThere(folder, (name) => readdir(name))) ?? []);
  const text = await ifThere(path.join(folder, LATEST_FILE), (name) => readFile(name, 'utf8'));
  if (text === null) {
    const [newest] = names;
    if (newest !== undefined) return newest;
    throw new MeshError(
      'bad-file',
      `${folder} is no checkpoint, and holds none.`,
      'Give the folder named in `checkpoints` of the configuration, or a step-… folder in it.',
    );
  }
  const name = /"checkpoint"\s*:\s*"([^"/\\]+)"/.exec(text)?.[1] ?? '';
  if (parseCheckpointName(name)) return name;
  throw new MeshError(
    'bad-file',
    `${path.join(folder, LATEST_FILE)} names no checkpoint.`,
    names[0] === undefined ? 'Start again.' : `Name one yourself: --resume ${path.join(folder, names[0])}`,
  );
}

async function olderGood(bad: string): Promise<string | null> {
  const folder = path.dirname(bad);
  const names = newestFirst((await ifThere(folder, (name) => readdir(name))) ?? []);
  for (const name of names.slice(names.indexOf(path.basename(bad)) + 1)) {
    const other = path.join(folder, name);
    const isGood = await verify(other).then(
      () => true,
      () => false,
    );
    if (isGood) return other;
  }
  return null;
}

/** Throws `bad-file` unless every file is what the hashes say. */
async function verify(folder: string): Promise<RunFile> {
  const file = path.join(folder, RUN_FILE);
  const text = await readFile(file, 'utf8').catch((cause: Error) => {
    throw bad(file, `it cannot be read: ${cause.message}`);
  });
  const expected = parseCheckpointName(path.basename(folder))?.hash;
  const found = createHash('sha256').update(text).digest('hex');
  if (expected !== undefined && !found.startsWith(expected))
    throw bad(file, `its sha256 begins with ${found.slice(0, 12)}, and the folder's name says ${expected}`);
  const run = parseRunFile(file, text);
  for (const name of [WEIGHTS_FILE, OPTIMIZER_FILE] as const) {
    const sha256 = await hashOf(path.join(folder, name));
    if (sha256 !== run.files[name])
      throw bad(path.join(folder, name), `its sha256 is ${sha256}, and ${RUN_FILE} says ${run.files[name]}`);
  }
  return run;
}

function parseRunFile(file: string, text: string): RunFile {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw bad(file, `it is not JSON (${(cause as Error).message})`);
  }
  const parsed = runFileSchema.safeParse(value);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  throw bad(file, `${issue?.path.join('.') ?? ''}: ${issue?.message ?? ''}`);
}

const bad = (file: string, why: string): MeshError =>
  new MeshError('bad-file', `${file} is not as it was written: ${why}.`, 'Go on from another checkpoint.');

/** Tensor by tensor, without a second copy in memory. Returns the sha256 of the file. */
async function writeTensors(file: string, tensors: Tensors): Promise<string> {
  const ordered = new Map([...tensors].sort(([a], [b]) => a.localeCompare(b, 'en', { numeric: true })));
  const hash = createHash('sha256');
  const handle = await open(file, 'wx');
  try {
    await writePiece(handle, hash, encodeHeader(ordered, { format: 'pt' }));
    for (const { data } of ordered.values())
      for (let at = 0; at < data.byteLength; at += PIECE_BYTES)
        await writePiece(handle, hash, data.subarray(at, at + PIECE_BYTES));
    await handle.sync();
  } finally {
    await handle.close();
  }
  return hash.digest('hex');
}

async function writePiece(handle: FileHandle, hash: Hash, piece: Uint8Array): Promise<void> {
  hash.update(piece);
  await handle.writeFile(piece);
}

async function readTensors(file: string, names: readonly string[]): Promise<Map<string, Tensor>> {
  const handle = await open(file);
  try {
    const { size } = await handle.stat();
    const begin = await readSpan(handle, 0, Math.min(8, size));
    const { places } = readHeader(await readSpan(handle, 0, headerSize(begin, size)), size);
    const tensors = new Map<string, Tensor>();
    for (const name of names) {
      const found = places.get(name);
      if (!found)
        throw new MeshError('bad-file', `${file} has no tensor ${name}.`, 'Use the model that it was written with.');
      const { dtype, shape } = found;
      tensors.set(name, { dtype, shape, data: await readSpan(handle, found.begin, found.end) });
    }
    return tensors;
  } finally {
    await handle.close();
  }
}

/** One read takes less than 2 GiB. */
async function readSpan(handle: FileHandle, begin: number, end: number): Promise<Uint8Array<ArrayBuffer>> {
  const data = new Uint8Array(end - begin);
  for (let at = 0; at < data.byteLength;) {
    const { bytesRead } = await handle.read(data, at, Math.min(PIECE_BYTES, data.byteLength - at), begin + at);
    if (bytesRead === 0)
      throw new MeshError('bad-file', `A checkpoint ends before byte ${end}.`, 'Go on from another one.');
    at += bytesRead;
  }
  return data;
}

async function hashOf(file: string): Promise<string> {
  const hash = createHash('sha256');
  const handle = await open(file).catch((cause: Error) => {
    throw bad(file, `it cannot be read: ${cause.message}`);
  });
  try {
    const pieces = handle.createReadStream({ highWaterMark: 2 ** 20, autoClose: false });
    for await (const piece of pieces) hash.update(piece as Buffer);
  } finally {
    await handle.close();
  }
  return hash.digest('hex');
}

async function writeSynced(file: string, text: string): Promise<void> {
  const handle = await open(file, 'w');
  try {
    await handle.writeFile(text);
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** What a system says that has no such thing for folders: Windows, and some network file systems. */
const NO_FOLDER_SYNC: readonly unknown[] = ['EISDIR', 'EPERM', 'EINVAL', 'ENOTSUP', 'ENOSYS'];

/** So that a name outlives a crash of the machine, where the system can do that for folders. */
async function syncFolder(folder: string): Promise<void> {
  let handle: FileHandle | undefined;
  try {
    handle = await open(folder);
    await handle.sync();
  } catch (cause) {
    if (!NO_FOLDER_SYNC.includes((cause as NodeJS.ErrnoException).code)) throw cause;
  } finally {
    await handle?.close();
  }
}
