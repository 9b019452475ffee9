// Time of a dispatch on buffers of its own: many in one submit, the wall clock up to a small readback, the best of a few batches.
import { performance } from 'node:perf_hooks';
import type { Slice } from '../../../runtime/gpu/buffers.ts';
import type { Gpu, Recorder } from '../../../runtime/gpu/gpu.ts';
import type { KernelUse } from '../../../runtime/gpu/kernel-table.ts';

/** What a buffer begins with. halves: two 16-bit numbers a word, whatever their format. */
export type Contents = 'numbers' | 'halves' | 'zeros' | Int32Array<ArrayBuffer>;

export interface BufferSpec {
  bytes: number;
  contents?: Contents;
}

export interface Work {
  uses: readonly KernelUse[];
  buffers: readonly BufferSpec[];
  record: (recorder: Recorder, at: (index: number) => Slice) => void;
}

export interface Pace {
  batches: number;
  batchMs: number;
}

const CHUNK_BYTES = 4 * 2 ** 20;
// Positive, and far from what is denormal: neither square roots nor slow numbers disturb.
const NUMBERS = new Uint8Array(Float32Array.from({ length: CHUNK_BYTES / 4 }, (_, i) => ((i % 17) + 1) / 34).buffer);
const HALVES = new Uint8Array(new Uint32Array(CHUNK_BYTES / 4).fill(0x3e003e00).buffer);

/** Milliseconds of one recording of the work. */
export async function timed(gpu: Gpu, { uses, buffers, record }: Work, { batches, batchMs }: Pace): Promise<number> {
  await gpu.warm(uses);
  const slices: Slice[] = [];
  const at = (index: number): Slice => {
    const slice = slices[index];
    if (slice === undefined) throw new Error(`there is no buffer ${index}`);
    return slice;
  };
  const run = async (repeats: number): Promise<number> => {
    const startMs = performance.now();
    await gpu.submit((recorder) => {
      for (let i = 0; i < repeats; i++) record(recorder, at);
      recorder.read({ ...at(0), bytes: 4 });
    });
    return (performance.now() - startMs) / repeats;
  };
  try {
    for (const { bytes } of buffers) slices.push(gpu.pool.take(bytes));
    await gpu.submit((recorder) => {
      slices.forEach((slice, i) => fill(recorder, slice, buffers[i]?.contents ?? 'numbers'));
      recorder.read({ ...at(0), bytes: 4 });
    });
    const firstMs = await run(1);
    const repeats = Math.max(1, Math.min(200, Math.round(batchMs / Math.min(firstMs, await run(1)))));
    let best = firstMs;
    for (let i = 0; i < batches; i++) best = Math.min(best, await run(repeats));
    return best;
  } finally {
    for (const slice of slices) gpu.pool.release(slice);
    gpu.pool.trim(0);
  }
}

function fill(recorder: Recorder, slice: Slice, contents: Contents): void {
  if (contents === 'zeros') {
    recorder.clear(slice);
    return;
  }
  if (contents instanceof Int32Array) {
    recorder.write(slice, new Uint8Array(contents.buffer));
    return;
  }
  const pattern = contents === 'halves' ? HALVES : NUMBERS;
  for (let offset = 0; offset < slice.bytes; offset += CHUNK_BYTES) {
    const bytes = Math.min(CHUNK_BYTES, slice.bytes - offset);
    recorder.write({ ...slice, offset: slice.offset + offset, bytes }, pattern.subarray(0, bytes));
  }
}
