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

export const matmulUses: readonly KernelUse[] = (['matmul-nt', 'matmul-nn', 'matmul-tn'] as const).map((kernel) => ({
  kernel,
  overrides: {},
}));

const tiles = ({ M, N }: MatmulShape): number => Math.ceil(M / TILE) * Math.ceil(N / TILE);

/** y (M, N) = x (M, K) · wᵀ + b, w (N, K), b (N) */
export function matmulNt(recorder: Recorder, y: Slice, x: Slice, w: Slice, b: Slice, shape: MatmulShape): void {
  recorder.dispatch('matmul-nt', {}, [y, x, w, b], shape, tiles(shape));
}

/** dx (M, N) = dy (M, K) · w (K, N) */
export function matmulNn(recorder: Recorder, dx: Slice, dy: Slice, w: Slice, shape: MatmulShape): void {
  recorder.dispatch('matmul-nn', {}, [dx, dy, w], shape, tiles(shape));
}

/** dw (M, N) += dyᵀ · x, dy (K, M), x (K, N) */
export function matmulTn(recorder: Recorder, dw: Slice, dy: Slice, x: Slice, shape: MatmulShape): void {
  recorder.dispatch('matmul-tn', {}, [dw, dy, x], shape, tiles(shape));
}
