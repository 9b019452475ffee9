// Two channels over a pair of pipes, and what the suites say over them: bytes of a given size, counted settlements, measured memory.
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { MeshError } from '../../runtime/errors.ts';
import type { Tensor, Tensors } from '../../runtime/tensor.ts';
import { Channel, type Answer, type Context, type Handlers } from '../../runtime/wire/channel.ts';
import { peerIdSchema } from '../../runtime/wire/ids.ts';
import type { MuxOptions } from '../../runtime/wire/mux.ts';
import type { Pair } from './pipes.ts';

export const MB = 1 << 20;
export const A = peerIdSchema.parse('a'.repeat(43));
export const B = peerIdSchema.parse('b'.repeat(43));

export interface End {
  channel: Channel;
  closed: MeshError[];
  rejected: string[];
}

export interface EndOptions {
  handler?: Probe;
  mux?: Partial<MuxOptions>;
  maxConcurrent?: number;
}

export type Probe = (tensors: Tensors, context: Context) => Promise<Answer<'link.probe'>>;

const nothing: Probe = () => Promise.resolve({ body: {} });

export function endOf(pipe: Pair['a'], peer: typeof A, options: EndOptions = {}): End {
  const { handler = nothing, mux, maxConcurrent } = options;
  const closed: MeshError[] = [];
  const rejected: string[] = [];
  const handlers: Handlers = { 'link.probe': (_body, tensors, context) => handler(tensors, context) };
  const channel = new Channel(pipe, {
    peer,
    handlers,
    onClosed: (error) => closed.push(error),
    onRejected: (reason) => rejected.push(reason),
    ...(mux ? { mux } : {}),
    ...(maxConcurrent === undefined ? {} : { maxConcurrent }),
  });
  return { channel, closed, rejected };
}

export const bytesTensor = (data: Uint8Array<ArrayBuffer>): Tensors =>
  new Map<string, Tensor>([['bytes', { dtype: 'u8', shape: [data.byteLength], data }]]);

export const dataOf = (tensors: Tensors): Uint8Array<ArrayBuffer> => tensors.get('bytes')?.data ?? new Uint8Array(0);

/** Bytes that look random and are the same in every run (xorshift32). */
export function noise(length: number, seed = 1): Uint8Array<ArrayBuffer> {
  const words = new Uint32Array(Math.ceil(length / 4));
  let x = seed | 1;
  for (let i = 0; i < words.length; i += 1) {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    words[i] = x;
  }
  return new Uint8Array(words.buffer, 0, length);
}

export const equal = (a: Uint8Array, b: Uint8Array): boolean => Buffer.compare(a, b) === 0;

/** Settlements of each promise as they come; exactly one each is what a caller may rely on. */
export function settlements(promises: readonly Promise<unknown>[]): Promise<string>[] {
  return promises.map((promise) =>
    promise.then(
      () => 'answered',
      (cause: unknown) => (cause instanceof MeshError ? cause.code : String(cause)),
    ),
  );
}

/** Resolves when the signal fires. */
export const aborted = (signal: AbortSignal): Promise<void> => {
  const { promise, resolve } = Promise.withResolvers<void>();
  if (signal.aborted) resolve();
  else signal.addEventListener('abort', () => resolve(), { once: true });
  return promise;
};

export const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

export async function until(what: string, condition: () => boolean, withinMs = 10_000): Promise<void> {
  const endsAt = performance.now() + withinMs;
  while (!condition()) {
    if (performance.now() > endsAt) throw new Error(`not within ${withinMs} ms: ${what}`);
    await sleep(2);
  }
}

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

/** Bytes of array buffers that are in use, after a collection. */
export function bufferBytes(): number {
  collect();
  return process.memoryUsage().arrayBuffers;
}
