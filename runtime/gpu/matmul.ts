// The three products of a linear layer, and what can be fused into them. Kernels are generated (matmul/), compiled by `matmulUses`
// before they are needed, and chosen here for each call.
import type { Slice } from './buffers.ts';
import type { Recorder } from './gpu.ts';
import type { KernelUse } from './kernel-table.ts';
import { alignmentOf, possibleTilings, rankTilings, UNALIGNED, type MatmulDevice } from './matmul/choose.ts';
import { generate, generatedName, gridOf } from './matmul/generate.ts';
import type {
  Alignment,
  FusedActivation,
  MatmulShape,
  MatmulVariant,
  Product,
  Tiling,
  WeightFormat,
} from './matmul/spec.ts';

export type { FusedActivation, MatmulShape, Product, Tiling, WeightFormat } from './matmul/spec.ts';

export interface MatmulExtras {
  activation?: FusedActivation;
  /** (M, N), laid out as the result; added after the activation. Another buffer than the result: else use `accumulate`. */
  residual?: Slice;
  /** Add to what the result holds. */
  accumulate?: boolean;
  /** Format of w, or of x in matmulTn: 16-bit values lie two to a word, K (N) of them a row without padding. */
  weights?: WeightFormat;
  /** Elements from one row of the first factor to the next, and before its first: to read columns of a wider matrix. */
  aStride?: number;
  aOffset?: number;
  /** The same of the result: to write columns of a wider matrix. */
  outStride?: number;
  outOffset?: number;
  /** Instead of the one that suits the device and shape: for tests, benchmarks and tuning. */
  tiling?: Tiling;
}

/** What a caller will ask for. The more is known of the sizes, strides included, the fewer kernels are compiled for it. */
export interface MatmulNeed extends Partial<MatmulShape> {
  product: Product;
  bias?: boolean;
  activation?: FusedActivation;
  residual?: boolean;
  accumulate?: boolean;
  weights?: WeightFormat;
  aStride?: number;
  outStride?: number;
  tiling?: Tiling;
}

/** Kernels for `Gpu.warm`. Sizes that a need does not give may be any, so it gets a kernel for fours and one for all else. */
export function matmulUses(device: MatmulDevice, needs: readonly MatmulNeed[]): KernelUse[] {
  const uses = new Map<string, KernelUse>();
  for (const need of needs) {
    const tilings = need.tiling === undefined ? possibleTilings(device, need.product, need) : [need.tiling];
    for (const tiling of tilings)
      for (const alignment of alignmentsOf(need)) {
        const variant = { ...variantOf(need), alignment };
        const name = generatedName(variant, tiling); // many layers need the same kernel, and its text is long
        if (!uses.has(name)) uses.set(name, { generated: generate(variant, tiling) });
      }
  }
  return [...uses.values()];
}

const variantOf = ({ product, bias, activation, residual, accumulate, weights }: MatmulNeed): MatmulVariant => ({
  product,
  weights: weights ?? 'f32',
  bias: bias ?? false,
  activation: activation ?? null,
  residual: residual ?? false,
  accumulate: accumulate ?? product === 'tn',
  alignment: UNALIGNED,
});

/** The alignments that a need may meet: one where what decides it is known. */
function alignmentsOf({ product, M, N, K, aStride, outStride }: MatmulNeed): Alignment[] {
  const isKnown = N !== undefined && (product === 'tn' ? M : K) !== undefined;
  const shape = { M: M ?? 4, N: N ?? 4, K: K ?? 4 };
  const layout = {
    aStride: aStride ?? (product === 'tn' ? shape.M : shape.K),
    aOffset: 0,
    outStride: outStride ?? shape.N,
    outOffset: 0,
  };
  const alignment = alignmentOf(product, shape, layout);
  return isKnown ? [alignment] : [alignment, UNALIGNED];
}

/** y (M, N) = activation(x (M, K) · wᵀ + b) + residual, w (N, K), b (N) or null */
export function matmulNt(
  recorder: Recorder,
  y: Slice,
  x: Slice,
  w: Slice,
  b: Slice | null,
  shape: MatmulShape,
  extras: MatmulExtras = {},
): void {
  record(recorder, { product: 'nt' }, [y, x, w], b, shape, extras);
}

/** dx (M, N) = dy (M, K) · w (K, N) */
export function matmulNn(
  recorder: Recorder,
  dx: Slice,
  dy: Slice,
  w: Slice,
  shape: MatmulShape,
  extras: MatmulExtras = {},
): void {
  record(recorder, { product: 'nn' }, [dx, dy, w], null, shape, extras);
}

/** dw (M, N) += dyᵀ · x, dy (K, M), x (K, N); = with `accumulate` false */
export function matmulTn(
  recorder: Recorder,
  dw: Slice,
  dy: Slice,
  x: Slice,
  shape: MatmulShape,
  extras: MatmulExtras = {},
): void {
  record(recorder, { product: 'tn' }, [dw, dy, x], null, shape, extras);
}

function record(
  recorder: Recorder,
  { product }: Pick<MatmulNeed, 'product'>,
  operands: readonly Slice[],
  bias: Slice | null,
  shape: MatmulShape,
  extras: MatmulExtras,
): void {
  if (shape.M === 0 || shape.N === 0) return;
  const { residual, tiling, ...rest } = extras;
  const layout = {
    aStride: extras.aStride ?? (product === 'tn' ? shape.M : shape.K),
    aOffset: extras.aOffset ?? 0,
    outStride: extras.outStride ?? shape.N,
    outOffset: extras.outOffset ?? 0,
  };
  const need = { ...rest, product, bias: bias !== null, residual: residual !== undefined };
  const variant = { ...variantOf(need), alignment: alignmentOf(product, shape, layout) };
  const slices = [...operands, ...(bias === null ? [] : [bias]), ...(residual === undefined ? [] : [residual])];
  const sizes = { ...shape, ...layout };
  const tilings = tiling === undefined ? rankTilings(recorder.description, product, shape, variant.weights) : [tiling];
  for (const choice of tilings)
    for (const candidate of [variant, { ...variant, alignment: UNALIGNED }]) {
      const pipeline = recorder.compiled(`generated/${generatedName(candidate, choice)}`);
      if (pipeline === undefined) continue;
      recorder.run(pipeline, slices, sizes, gridOf(choice, shape));
      return;
    }
  const [best] = tilings;
  // Names the kernel that `matmulUses` was not asked for.
  if (best !== undefined) recorder.dispatchGenerated(generate(variant, best), slices, sizes, gridOf(best, shape));
}
