// Files that may not be there, and files that are written whole. Whatever else keeps one from being looked at is an error, and says so.
import { mkdir, rename, rm, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { MeshError } from '../runtime/errors.ts';

const ABSENT: readonly unknown[] = ['ENOENT', 'ENOTDIR'];

/** What `look` finds, or null where there is nothing at `file`. Throws `bad-file` for any other failure. */
export async function ifThere<T>(file: string, look: (file: string) => Promise<T>): Promise<T | null> {
  try {
    return await look(file);
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    if (ABSENT.includes(code)) return null;
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
