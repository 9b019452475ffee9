// Files that may not be there. Whatever else keeps one from being looked at is an error, and says so.
import { stat } from 'node:fs/promises';
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
