// The products of GPT-2 124M with one sequence of 128 tokens, and those of one token: cases of the roofline.
import type { GpuDescription } from '../../../runtime/compute.ts';
import {
  matmulNn,
  matmulNt,
  matmulTn,
  matmulUses,
  type MatmulShape,
  type Product,
  type WeightFormat,
} from '../../../runtime/gpu/matmul.ts';
import { C, LAYERS, T, V, WINDOW, type Case } from './cases.ts';

const HEAD = V / WINDOW;

export const productCases = (device: GpuDescription): Case[] => {
  const of = (product: Product, M: number, N: number, K: number, perStep: number): Case =>
    productCase(device, 'matmul', product, { M, N, K }, perStep);
  const vector = (N: number, K: number, weights: WeightFormat): Case =>
    productCase(device, 'gemv', 'nt', { M: 1, N, K }, 0, weights);
  return [
    of('nt', T, 3 * C, C, LAYERS),
    of('nt', T, C, C, LAYERS),
    of('nt', T, 4 * C, C, LAYERS),
    of('nt', T, C, 4 * C, LAYERS),
    of('nt', T, WINDOW, C, HEAD),
    of('nn', T, C, 3 * C, LAYERS),
    of('nn', T, C, C, LAYERS),
    of('nn', T, C, 4 * C, LAYERS),
    of('nn', T, 4 * C, C, LAYERS),
    of('nn', T, C, WINDOW, HEAD),
    of('tn', 3 * C, C, T, LAYERS),
    of('tn', C, C, T, LAYERS),
    of('tn', 4 * C, C, T, LAYERS),
    of('tn', C, 4 * C, T, LAYERS),
    of('tn', WINDOW, C, T, HEAD),
    ...(['f32', 'bf16'] as const).flatMap((weights) => [
      vector(3 * C, C, weights),
      vector(C, C, weights),
      vector(4 * C, C, weights),
      vector(C, 4 * C, weights),
      vector(WINDOW, C, weights),
    ]),
  ];
};

function productCase(
  device: GpuDescription,
  group: string,
  product: Product,
  shape: MatmulShape,
  perStep: number,
  weights: WeightFormat = 'f32',
): Case {
  const { M, N, K } = shape;
  const isHalf = weights !== 'f32';
  const [a, b, out] = [M * K * 4, N * K * (isHalf ? 2 : 4), M * N * 4];
  return {
    group,
    name: `${product} ${M}×${N}×${K}${isHalf ? ` ${weights}` : ''}`,
    flops: 2 * M * N * K,
    // tn adds to what is there.
    bytes: a + b + out * (product === 'tn' ? 2 : 1),
    perStep,
    uses: matmulUses(device, [{ product, ...shape, weights }]),
    buffers: [{ bytes: out }, { bytes: a }, { bytes: b, contents: isHalf ? 'halves' : 'numbers' }],
    record(recorder, at) {
      if (product === 'nt') matmulNt(recorder, at(0), at(1), at(2), null, shape, { weights });
      else if (product === 'nn') matmulNn(recorder, at(0), at(1), at(2), shape, { weights });
      else matmulTn(recorder, at(0), at(1), at(2), shape);
    },
  };
}
