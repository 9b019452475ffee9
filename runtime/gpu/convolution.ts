// What a convolution and a pooling layer run beside products, as recordings: windows of images unfolded into rows and folded back,
// the gradients of the weights, pooling. The products, and where pieces are cut, are the layer's (model/convolution-layer.ts).
import type { GpuDescription } from '../compute.ts';
import type { Slice } from './buffers.ts';
import type { Recorder } from './gpu.ts';
import type { KernelSizes, TableUse } from './kernel-table.ts';
import { biasBackward, biasBackwardUse, stretchGroups, use, workgroups } from './ops.ts';

type Device = Pick<GpuDescription, 'isSoftware'>;

/** Images of one size, and how those of a batch lie: (B, C, height, width), or channels last, (B, height, width, C). */
export interface Images {
  C: number;
  height: number;
  width: number;
  layout: 'chw' | 'hwc';
}

/** Windows that go over the images `x`, size × size every `stride` pixels, and what comes of them: an image with a pixel for each. */
export interface Windows {
  x: Images;
  size: number;
  stride: number;
  /** Zeros round the images; pooling has none. */
  padding: number;
  y: Images;
}

/** Samples `first` to `first + count` of a batch. */
export interface Samples {
  first: number;
  count: number;
}

/** Values of one image. */
export const imageSize = ({ C, height, width }: Images): number => C * height * width;

/** Windows of one sample, and what each sees. */
export const windowsOf = ({ y }: Windows): number => y.height * y.width;
export const tapsOf = ({ x, size }: Windows): number => x.C * size * size;

/** Windows as rows of taps: `across` neighbours in a line, of which it is a divisor, share one, which is as wide as all of them. */
export interface Unfolding extends Windows {
  across: number;
}

const widthOf = ({ size, stride, across }: Unfolding): number => size + (across - 1) * stride;

/** Rows of one sample, and their length. */
export const rowsOf = (over: Unfolding): number => windowsOf(over) / over.across;
export const widthsOf = (over: Unfolding): number => over.x.C * over.size * widthOf(over);

/** Columns that a software driver's products compute at once. To unfold a value and fold it back costs it as much as one more time. */
const PRODUCT_COLUMNS = 32;

/**
 * Neighbours that share a row, so that a product's columns are full where a convolution has few: the two of LeNet-5 take 0.3 and
 * 0.6 of the time (lavapipe; 6 and 16 columns, 4 and 2 neighbours). Each adds taps that the others multiply with 0.
 */
export function neighboursOf({ y, size, stride }: Windows): number {
  const costOf = (across: number): number => {
    const columns = Math.ceil((across * y.C) / PRODUCT_COLUMNS) * PRODUCT_COLUMNS;
    return ((size + (across - 1) * stride) * (columns + PRODUCT_COLUMNS)) / across;
  };
  let best = 1;
  for (let across = 2; across <= Math.min(PRODUCT_COLUMNS, y.width); across += 1)
    if (y.width % across === 0 && costOf(across) < costOf(best)) best = across;
  return best;
}

/** Steps from channel to channel and from pixel to pixel. */
const stepsOf = ({ C, height, width, layout }: Images): { channel: number; pixel: number } =>
  layout === 'hwc' ? { channel: 1, pixel: C } : { channel: height * width, pixel: 1 };

const imageSizes = ({ x }: Windows) => ({ height: x.height, width: x.width, ...stepsOf(x) });
const outSizes = ({ padding, y }: Windows) => ({ padding, outHeight: y.height, outWidth: y.width });

const unfoldSizes = (over: Unfolding) => ({
  ...imageSizes(over),
  ...outSizes(over),
  ...{ sizeY: over.size, sizeX: widthOf(over), strideY: over.stride, strideX: over.across * over.stride },
  outWidth: over.y.width / over.across,
});

export const unfoldUses: readonly TableUse[] = [use('unfold'), use('unfold-backward')];

/** cols (samples · rows, widths) of x, the images of the whole batch */
export function unfold(
  recorder: Recorder,
  cols: Slice,
  x: Slice,
  over: Unfolding,
  { first, count }: Samples,
  // On software drivers an invocation costs more than the taps of a channel; elsewhere neighbours should write side by side.
  isByChannel = recorder.description.isSoftware,
): void {
  const [M, K] = [count * rowsOf(over), widthsOf(over)];
  const sizes = unfoldSizes(over);
  const [runY, runX] = isByChannel ? [sizes.sizeY, sizes.sizeX] : [1, 1];
  const invocations = (M * K) / (runY * runX);
  recorder.dispatch(
    'unfold',
    {},
    [cols, x],
    { M, K, runY, runX, first: first * rowsOf(over), sample: imageSize(over.x), ...sizes },
    workgroups('unfold', invocations),
  );
}

/** Of dx, laid out as x, these samples; dcols (samples · rows, widths) */
export function unfoldBackward(
  recorder: Recorder,
  dx: Slice,
  dcols: Slice,
  over: Unfolding,
  { first, count: samples }: Samples,
): void {
  const count = samples * imageSize(over.x);
  const sizes = { count, first, C: over.x.C, K: widthsOf(over), ...unfoldSizes(over) };
  recorder.dispatch('unfold-backward', {}, [dx, dcols], sizes, workgroups('unfold-backward', count));
}

export const spreadUses: readonly TableUse[] = [use('spread-weights'), use('spread-weights-backward')];

const spreadSizes = ({ x, y, size, stride, across }: Unfolding): KernelSizes<'spread-weights'> => ({
  ...{ N: y.C, lines: x.C * size, size, stride, across },
});

/** w (across · N, widths) and b (across · N) of w (N, taps) and b (N) */
export function spreadWeights(
  recorder: Recorder,
  wide: { w: Slice; b: Slice },
  { w, b }: { w: Slice; b: Slice },
  over: Unfolding,
): void {
  const count = over.across * over.y.C * widthsOf(over);
  const groups = workgroups('spread-weights', count);
  recorder.dispatch('spread-weights', {}, [wide.w, wide.b, w, b], spreadSizes(over), groups);
}

/** dw (N, taps) is added to, of dwide (across · N, widths) */
export function spreadWeightsBackward(recorder: Recorder, dw: Slice, dwide: Slice, over: Unfolding): void {
  const groups = workgroups('spread-weights-backward', over.y.C * tapsOf(over));
  recorder.dispatch('spread-weights-backward', {}, [dw, dwide], spreadSizes(over), groups);
}

/**
 * Whether the gradients of the weights come from a kernel of their own, which shares out the long sum over all windows: on GPUs a
 * product would leave it to the few workgroups that its small result has. A software driver has few cores, and its products are quick.
 */
export const hasOwnWeightsKernel = ({ isSoftware }: Device): boolean => !isSoftware;

export const weightsUses: readonly TableUse[] = [use('convolution-backward-weights'), biasBackwardUse];

/** Invocations that keep a device busy. */
const busy = (device: Device): number => (device.isSoftware ? 1024 : 32_768);
/** Windows that are worth an invocation. */
const LEAST_SPAN = 16;

export interface WeightParts {
  /** Windows to a partial sum, and how many such sums there are. */
  span: number;
  parts: number;
}

/** M windows in all, for weights (N, K). */
export function weightParts(device: Device, M: number, N: number, K: number): WeightParts {
  const each = Math.ceil(N / 8) * Math.ceil((K + 1) / 4);
  const span = Math.max(LEAST_SPAN, Math.ceil(M / Math.ceil(busy(device) / each)));
  return { span, parts: Math.ceil(M / span) };
}

/** dw (N, taps) and db (N) are added to; dz (B · windows, N). The scratch has room for `parts` of each. */
export function convolutionBackwardWeights(
  recorder: Recorder,
  { dw, db }: { dw: Slice; db: Slice },
  dz: Slice,
  x: Slice,
  over: Windows,
  B: number,
  { span, parts, ...scratch }: WeightParts & { dw: Slice; db: Slice },
): void {
  const [M, N, K] = [B * windowsOf(over), over.y.C, tapsOf(over)];
  const { size, stride } = over;
  const sizes = { M, N, K, span, sample: imageSize(over.x), size, stride, ...imageSizes(over), ...outSizes(over) };
  const invocations = parts * Math.ceil(N / 8) * Math.ceil((K + 1) / 4);
  recorder.dispatch(
    'convolution-backward-weights',
    {},
    [scratch.dw, scratch.db, dz, x],
    sizes,
    workgroups('convolution-backward-weights', invocations),
  );
  biasBackward(recorder, dw, scratch.dw, { M: parts, N: N * K });
  biasBackward(recorder, db, scratch.db, { M: parts, N });
}

export type Pooling = 'max' | 'average';

const overridesOf = (kind: Pooling): { MAX: boolean } => ({ MAX: kind === 'max' });

/** Windows that do not overlap have a quicker way back. */
const backwardOf = ({ size, stride }: Windows): 'pool-backward' | 'pool-backward-apart' =>
  stride < size ? 'pool-backward' : 'pool-backward-apart';

export const poolUses = (kind: Pooling, over: Windows): TableUse[] => [
  use('pool', overridesOf(kind)),
  use(backwardOf(over), overridesOf(kind)),
];

const poolSizes = (over: Windows, count: number): KernelSizes<'pool'> => {
  const { channel: outChannel, pixel: outPixel } = stepsOf(over.y);
  const { size, stride } = over;
  return { count, C: over.x.C, size, stride, ...imageSizes(over), ...outSizes(over), outChannel, outPixel };
};

/** y (B images) of x (B images), each in its layout */
export function pool(recorder: Recorder, kind: Pooling, y: Slice, x: Slice, over: Windows, B: number): void {
  const count = B * imageSize(over.y);
  const groups = stretchGroups(recorder, count * 4);
  recorder.dispatch('pool', overridesOf(kind), [y, x], poolSizes(over, count), groups);
}

/** dx of dy and of x, which is read for `max` only; each in its layout */
export function poolBackward(
  recorder: Recorder,
  kind: Pooling,
  dx: Slice,
  dy: Slice,
  x: Slice,
  over: Windows,
  B: number,
): void {
  const { C, height, width } = over.x;
  const kernel = backwardOf(over);
  const each = kernel === 'pool-backward' ? 1 : over.stride; // pixels that an invocation writes, down and across
  const count = B * C * Math.ceil(height / each) * Math.ceil(width / each);
  const slices = [dx, dy, kind === 'max' ? x : dy];
  const groups = stretchGroups(recorder, count * 4);
  recorder.dispatch(kernel, overridesOf(kind), slices, poolSizes(over, count), groups);
}
