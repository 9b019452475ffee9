// The autotuner's store in Node: one JSON file under $SKEIN_CACHE or ~/.cache/skein, replaced as a whole. A file that cannot be
// read is ignored with a warning and replaced by the next write: it only saves time.
import { mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import type { TuningStore } from '../runtime/gpu/tuning-store.ts';

export const cacheFolder = (env: NodeJS.ProcessEnv = process.env): string =>
  env.SKEIN_CACHE || join(env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'skein');

const VERSION = 1;
/** Far more devices and drivers than one machine sees; the oldest go first. */
const MAX_ENTRIES = 256;

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined; // as good as JSON of another shape
  }
}

export function tuningFile(
  folder: string = cacheFolder(),
  warn: (text: string) => void = (text) => process.emitWarning(text),
): TuningStore {
  const path = join(folder, 'tuning.json');
  let last: Promise<unknown> = Promise.resolve();

  async function entries(): Promise<Record<string, unknown>> {
    let text: string;
    try {
      text = await readFile(path, 'utf8');
    } catch (cause) {
      if (!(cause instanceof Error && 'code' in cause && cause.code === 'ENOENT'))
        warn(`${path} cannot be read, so the GPU is measured again: ${String(cause)}`);
      return {};
    }
    const held = parsed(text);
    if (isRecord(held) && held.version === VERSION && isRecord(held.entries)) return held.entries;
    warn(`${path} is not what this version writes, so it is ignored and the GPU is measured again.`);
    return {};
  }

  async function put(key: string, entry: object): Promise<void> {
    const { [key]: _, ...others } = await entries();
    const kept = Object.fromEntries([...Object.entries(others), [key, entry]].slice(-MAX_ENTRIES));
    await mkdir(folder, { recursive: true });
    // Beside the file, so that the rename stays on one disk; of this process alone.
    const draft = `${path}.${process.pid}.${Math.random().toString(36).slice(2)}`;
    try {
      await writeFile(draft, `${JSON.stringify({ version: VERSION, entries: kept })}\n`, { flag: 'wx' });
      await rename(draft, path);
    } catch (cause) {
      await rm(draft, { force: true });
      throw cause;
    }
  }

  return {
    read: async (key) => (await entries())[key],
    write(key, entry) {
      const turn = last.then(() => put(key, entry));
      last = Promise.allSettled([turn]); // the next write starts, whatever comes of this one
      return turn;
    },
  };
}
