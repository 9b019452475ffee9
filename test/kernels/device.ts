// One real device for the tests of a file, and a way to run a recording on plain arrays.
import { installDawnPacing } from '../../node/dawn-pacing.ts';
import { platform } from '../../node/platform.ts';
import type { Slice } from '../../runtime/gpu/buffers.ts';
import { Gpu, type Recorder } from '../../runtime/gpu/gpu.ts';
import { kernelTable, kernelNames, type TableUse } from '../../runtime/gpu/kernel-table.ts';

installDawnPacing();

/** Those of attention take a software driver seconds each: their own test compiles what it needs. */
export const everyUse: TableUse[] = kernelNames
  .filter((kernel) => !kernel.startsWith('attention'))
  .flatMap((kernel) => kernelTable[kernel].variants.map((overrides) => ({ kernel, overrides })));

export async function testGpu(): Promise<Gpu> {
  const gpu = await Gpu.acquire(platform);
  await gpu.warm(everyUse);
  return gpu;
}

type Numbers = Float32Array<ArrayBuffer> | Int32Array<ArrayBuffer> | Uint32Array<ArrayBuffer>;

/** Uploads `arrays`, records, and returns the first `outputs` of them as they are afterwards. */
export async function runOn(
  gpu: Gpu,
  arrays: readonly Numbers[],
  outputs: number,
  record: (recorder: Recorder, slices: Slice[]) => void,
): Promise<Float32Array[]> {
  const slices = arrays.map((array) => gpu.pool.take(array.byteLength));
  try {
    const bytes = await gpu.submit((recorder) => {
      arrays.forEach((array, i) => {
        const slice = slices[i];
        if (slice !== undefined)
          recorder.write(slice, new Uint8Array(array.buffer, array.byteOffset, array.byteLength));
      });
      record(recorder, slices);
      for (const slice of slices.slice(0, outputs)) recorder.read(slice);
    });
    return bytes.map((read) => new Float32Array(read.buffer));
  } finally {
    for (const slice of slices) gpu.pool.release(slice);
  }
}
