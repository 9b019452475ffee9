// Where the autotuner keeps what it found: a file in Node, IndexedDB in a browser. What comes out of a store is not trusted.
import { z } from 'zod';

/** A value that cannot be read is as good as none; what could not be written is measured again next time. */
export interface TuningStore {
  /** `undefined` where there is nothing. */
  read(key: string): Promise<unknown>;
  write(key: string, entry: TuningEntry): Promise<void>;
}

const tuningEntrySchema = z.strictObject({
  /** The candidate that won. */
  name: z.string().min(1).max(200),
  /** What it reached, in 1e9 operations a second. */
  gflops: z.number().positive(),
});
export type TuningEntry = z.infer<typeof tuningEntrySchema>;

export function parseTuningEntry(value: unknown): TuningEntry | null {
  const parsed = tuningEntrySchema.safeParse(value);
  return parsed.success ? parsed.data : null;
}

/** For devices that remember nothing, and for tests. */
export function memoryStore(): TuningStore {
  const entries = new Map<string, TuningEntry>();
  return {
    read: (key) => Promise.resolve(entries.get(key)),
    write: (key, entry) => {
      entries.set(key, entry);
      return Promise.resolve();
    },
  };
}

/** Everything that a measurement depends on. A change in any of it is another key, so another search. */
export interface TuningKey {
  readonly vendor: string;
  readonly architecture: string;
  readonly device: string;
  /** Holds the driver's version where the browser tells it. */
  readonly description: string;
  readonly isFallbackAdapter: boolean;
  readonly subgroupMinSize: number;
  readonly subgroupMaxSize: number;
  readonly features: readonly string[];
  /** Of all candidates' kernels: what the generators write today. */
  readonly code: string;
  readonly precision: 'f32' | 'half';
  /** Rounded logarithms of M, N and K. */
  readonly bucket: readonly number[];
}

export const shapeBucket = ({ M, N, K }: { M: number; N: number; K: number }): number[] =>
  [M, N, K].map((size) => Math.round(Math.log2(size)));

/** 53 bits of the text as base 36: enough to notice a change, no protection against one made on purpose. */
export function fingerprint(text: string): string {
  let [h1, h2] = [0xdeadbeef, 0x41c6ce57];
  for (let i = 0; i < text.length; i++) {
    const c = text.charCodeAt(i);
    h1 = Math.imul(h1 ^ c, 2654435761);
    h2 = Math.imul(h2 ^ c, 1597334677);
  }
  h1 = Math.imul(h1 ^ (h1 >>> 16), 2246822507) ^ Math.imul(h2 ^ (h2 >>> 13), 3266489909);
  h2 = Math.imul(h2 ^ (h2 >>> 16), 2246822507) ^ Math.imul(h1 ^ (h1 >>> 13), 3266489909);
  return (4294967296 * (2097151 & h2) + (h1 >>> 0)).toString(36);
}

export const tuningKey = (key: TuningKey): string =>
  fingerprint(
    JSON.stringify([
      key.vendor,
      key.architecture,
      key.device,
      key.description,
      key.isFallbackAdapter,
      key.subgroupMinSize,
      key.subgroupMaxSize,
      key.features.toSorted(),
      key.code,
      key.precision,
      key.bucket,
    ]),
  );
