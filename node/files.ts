// Files that may not be there, and files that are written whole. Whatever else keeps one from being looked at is an error, and says so.
import { mkdir, rename, rm, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { MeshError } from '../runtime/errors.ts';

const ABSENT: readonly unknown[] = ['ENOENT', 'ENOTDIR'];
const isAbsence = (cause: unknown): boolean => ABSENT.includes((cause as NodeJS.ErrnoException).code);

/** What `look` finds, or null where there is nothing at `file`. Throws `bad-file` for any other failure. */
export async function ifThere<T>(file: string, look: (file: string) => Promise<T>): Promise<T | null> {
  try {
    return await look(file);
  } catch (cause) {
    if (isAbsence(cause)) return null;
    const { message } = cause as Error;
    throw new MeshError('bad-file', `${file} cannot be read: ${message}.`, 'Check the path and its permissions.', {
      cause,
    });
  }
}

export const isFile = async (file: string): Promise<boolean> =>
  (await ifThere(file, (name) => stat(name)))?.isFile() ?? false;

/** Bytes of a file; 0 where there is none. */
export const sizeOf = async (file: string): Promise<number> => (await ifThere(file, (name) => stat(name)))?.size ?? 0;

/** Whole or not at all: written beside its place, then renamed. Makes the folder. Returns the full path; throws `bad-file`. */
export async function writeWhole(file: string, content: string | Uint8Array): Promise<string> {
  const target = path.resolve(file);
  const part = `${target}.part`;
  try {
    await mkdir(path.dirname(target), { recursive: true });
    await writeFile(part, content);
    await rename(part, target);
  } catch (cause) {
    return await giveUp(file, cause, () => rm(part, { force: true }));
  }
  return target;
}

/**
 * For a write of `file` that failed with `cause`: calls `clear`, which removes what it had made beside its place, and throws `bad-file`, with
 * both reasons where that fails too.
 */
export async function giveUp(file: string, cause: unknown, clear: () => Promise<void>): Promise<never> {
  try {
    await clear();
  } catch (left) {
    if (isAbsence(left)) throw unwritable(file, cause);
    const text = `${(cause as Error).message}; and what was written cannot be removed: ${(left as Error).message}`;
    throw unwritable(file, new AggregateError([cause, left], text));
  }
  throw unwritable(file, cause);
}

export const unwritable = (file: string, cause: unknown): MeshError =>
  new MeshError(
    'bad-file',
    `${file} cannot be written: ${(cause as Error).message}.`,
    'Name a file in a folder that you may write to.',
    { cause },
  );
