// What the tests of a transformer's kernels share: a device that has only their kernels, and comparisons. Not a test itself.
import assert from 'node:assert/strict';
import { platform } from '../../node/platform.ts';
import type { Slice } from '../../runtime/gpu/buffers.ts';
import { Gpu, type Recorder } from '../../runtime/gpu/gpu.ts';
import type { KernelUse } from '../../runtime/gpu/kernel-table.ts';
import { relativeError, type Values } from '../reference/kernels.ts';
import { runOn } from './device.ts';

export const zeros = (count: number): Float32Array<ArrayBuffer> => new Float32Array(count);

/** Sizes about the kernels' workgroups and fours. */
export const COUNTS = [1, 2, 3, 4, 5, 511, 512, 513, 1030];

export async function gpuWith(uses: (gpu: Gpu) => readonly KernelUse[]): Promise<Gpu> {
  const gpu = await Gpu.acquire(platform);
  await gpu.warm(uses(gpu));
  return gpu;
}

type Numbers = Float32Array<ArrayBuffer> | Int32Array<ArrayBuffer> | Uint32Array<ArrayBuffer>;

/** Uploads `arrays`, records on their slices, and returns the first `outputs` of them as they are afterwards. */
export const run = (
  gpu: Gpu,
  arrays: readonly Numbers[],
  outputs: number,
  record: (recorder: Recorder, ...slices: Slice[]) => void,
): Promise<Float32Array[]> => runOn(gpu, arrays, outputs, (recorder, slices) => record(recorder, ...slices));

/** Relative to the norm of `scale`. */
export function close(
  got: Values | undefined,
  wanted: Values,
  tolerance: number,
  what: string,
  scale: Values = wanted,
): void {
  const error = relativeError(got ?? [], wanted, scale);
  assert.ok(error <= tolerance, `${what}: relative error ${error} > ${tolerance}`);
}

export const dot = (a: Values, b: Values): number => {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += (a[i] ?? NaN) * (b[i] ?? NaN);
  return sum;
};

export const bitsOf = (values: Float32Array | undefined): number[] => [
  ...new Uint32Array(values?.buffer ?? new ArrayBuffer(0)),
];
