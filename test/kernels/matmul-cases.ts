// One product on the device and in double precision: what the tests of every family hold against each other.
import type { Slice } from '../../runtime/gpu/buffers.ts';
import type { Gpu, Recorder } from '../../runtime/gpu/gpu.ts';
import {
  matmulNn,
  matmulNt,
  matmulTn,
  matmulUses,
  type FusedActivation,
  type MatmulExtras,
  type MatmulShape,
  type Product,
  type Tiling,
  type WeightFormat,
} from '../../runtime/gpu/matmul.ts';
import * as reference from '../reference/kernels.ts';
import { noise } from '../reference/kernels.ts';
import { runOn } from './device.ts';

export interface Case extends MatmulShape {
  product: Product;
  tiling?: Tiling;
  bias?: boolean;
  activation?: FusedActivation;
  residual?: boolean;
  accumulate?: boolean;
  weights?: WeightFormat;
  /** Columns of wider matrices: how many there are beside ours, before and after. */
  aside?: number;
}

export const caseLabel = ({ product, M, N, K, tiling, ...rest }: Case): string =>
  `${tiling?.family ?? 'chosen'} ${product} ${M}×${N}×${K} ${JSON.stringify(rest)}`;

/** Words of two 16-bit values, and the values as they then are. */
export function halves(
  values: Float32Array,
  format: 'bf16' | 'f16',
): { words: Uint32Array<ArrayBuffer>; values: Float32Array } {
  const bits = new Uint16Array(Math.ceil(values.length / 2) * 2);
  const rounded = new Float32Array(values.length);
  const view = new DataView(new ArrayBuffer(4));
  values.forEach((value, i) => {
    if (format === 'f16') {
      view.setFloat16(0, value);
      bits[i] = view.getUint16(0);
      rounded[i] = view.getFloat16(0);
    } else {
      view.setFloat32(0, value);
      bits[i] = view.getUint16(0); // cut, not rounded: any bf16 value will do
      view.setUint32(0, (bits[i] ?? 0) << 16);
      rounded[i] = view.getFloat32(0);
    }
  });
  return { words: new Uint32Array(bits.buffer), values: rounded };
}

/** Relative error of a case, the worse of that inside the result and whether its surroundings were left alone. */
export async function errorOf(gpu: Gpu, one: Case): Promise<number> {
  const { product, M, N, K, tiling, bias, activation, residual, accumulate, weights = 'f32', aside = 0 } = one;
  const [aRows, aColumns] = product === 'tn' ? [K, M] : [M, K];
  const aStride = aColumns + 2 * aside;
  const outStride = N + 2 * aside;
  const a = noise(aRows * aStride, 1);
  const b = noise(N * K, 2);
  const half = weights === 'f32' ? null : halves(b, weights);
  const biases = noise(N, 3);
  const before = noise(M * outStride, 4);
  const extra = noise(M * outStride, 5);
  const layout = aside === 0 ? {} : { aStride, outStride };
  const isAdding = accumulate ?? product === 'tn';
  const shape = { M, N, K };
  const options = {
    ...layout,
    weights,
    ...(tiling === undefined ? {} : { tiling }),
    ...(activation === undefined ? {} : { activation }),
    ...(accumulate === undefined ? {} : { accumulate }),
  };
  await gpu.warm(
    matmulUses(gpu.description, [{ product, ...shape, ...options, bias: bias ?? false, residual: residual ?? false }]),
  );
  const [got] = await runOn(gpu, [before, a, half?.words ?? b, biases, extra], 1, (recorder, slices) => {
    const [outS, aS, bS, biasS, extraS] = slices;
    if (!outS || !aS || !bS || !biasS || !extraS) return;
    const extras: MatmulExtras = {
      ...options,
      ...(aside === 0 ? {} : { aOffset: aside, outOffset: aside }),
      ...(residual === true ? { residual: extraS } : {}),
    };
    call(recorder, product, [outS, aS, bS], bias === true ? biasS : null, shape, extras);
  });
  const wanted = Float64Array.from(before);
  const compact = Float32Array.from({ length: aRows * aColumns }, (_, i) => {
    return a[Math.floor(i / aColumns) * aStride + aside + (i % aColumns)] ?? Number.NaN;
  });
  const sums = productOf(product, compact, half?.values ?? b, shape);
  for (let m = 0; m < M; m++)
    for (let n = 0; n < N; n++) {
      const at = m * outStride + aside + n;
      const sum = (sums[m * N + n] ?? Number.NaN) + (bias === true ? (biases[n] ?? 0) : 0);
      const value = activation === undefined ? sum : reference.activations[activation](sum);
      wanted[at] = (isAdding ? (before[at] ?? 0) : 0) + value + (residual === true ? (extra[at] ?? 0) : 0);
    }
  return reference.relativeError(got ?? [], wanted);
}

function call(
  recorder: Recorder,
  product: Product,
  [out, a, b]: readonly [Slice, Slice, Slice],
  bias: Slice | null,
  shape: MatmulShape,
  extras: MatmulExtras,
): void {
  if (product === 'nt') matmulNt(recorder, out, a, b, bias, shape, extras);
  else if (product === 'nn') matmulNn(recorder, out, a, b, shape, extras);
  else matmulTn(recorder, out, a, b, shape, extras);
}

function productOf(product: Product, a: Float32Array, b: Float32Array, { M, N, K }: MatmulShape): Float64Array {
  if (product === 'nt') return reference.matmulNt(a, b, new Float32Array(N), M, N, K);
  if (product === 'nn') return reference.matmulNn(a, b, M, N, K);
  return reference.matmulTn(new Float32Array(M * N), a, b, M, N, K);
}
