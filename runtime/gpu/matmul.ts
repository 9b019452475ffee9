// The three products of a linear layer: which kernel and which grid for which shape. The only place that knows.
import type { Slice } from './buffers.ts';
import type { Recorder } from './gpu.ts';
import type { KernelUse } from './kernel-table.ts';

export interface MatmulShape {
  M: number;
  N: number;
  K: number;
}

/** Rows and columns of the result that one workgroup computes. */
const TILE = 32;

const use = (kernel: KernelUse['kernel']): KernelUse => ({ kernel, overrides: {} });

/** Both kernels of each product: which one runs depends on the batch too, so both are ready. */
export const matmulUses: readonly KernelUse[] = [
  use('matmul-nt'),
  use('matmul-nt-vec4'),
  use('matmul-nn'),
  use('matmul-nn-vec4'),
  use('matmul-tn'),
  use('matmul-tn-vec4'),
];

const tiles = ({ M, N }: MatmulShape): number => Math.ceil(M / TILE) * Math.ceil(N / TILE);

const areFours = (...sizes: number[]): boolean => sizes.every((size) => size % 4 === 0);

/** y (M, N) = x (M, K) · wᵀ + b, w (N, K), b (N) */
export function matmulNt(recorder: Recorder, y: Slice, x: Slice, w: Slice, b: Slice, shape: MatmulShape): void {
  recorder.dispatch(areFours(shape.K) ? 'matmul-nt-vec4' : 'matmul-nt', {}, [y, x, w, b], shape, tiles(shape));
}

/** dx (M, N) = dy (M, K) · w (K, N) */
export function matmulNn(recorder: Recorder, dx: Slice, dy: Slice, w: Slice, shape: MatmulShape): void {
  recorder.dispatch(areFours(shape.N, shape.K) ? 'matmul-nn-vec4' : 'matmul-nn', {}, [dx, dy, w], shape, tiles(shape));
}

/** dw (M, N) += dyᵀ · x, dy (K, M), x (K, N) */
export function matmulTn(recorder: Recorder, dw: Slice, dy: Slice, x: Slice, shape: MatmulShape): void {
  recorder.dispatch(areFours(shape.M, shape.N) ? 'matmul-tn-vec4' : 'matmul-tn', {}, [dw, dy, x], shape, tiles(shape));
}
