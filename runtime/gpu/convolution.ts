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

/** Rows that `unfold` makes of a sample, and how long they are. */
export const windowsOf = ({ y }: Windows): number => y.height * y.width;
export const tapsOf = ({ x, size }: Windows): number => x.C * size * size;

/** Steps from channel to channel and from pixel to pixel. */
const stepsOf = ({ C, height, width, layout }: Images): { channel: number; pixel: number } =>
  layout === 'hwc' ? { channel: 1, pixel: C } : { channel: height * width, pixel: 1 };

const sizesOf = ({ x, size, stride, padding, y }: Windows) => ({
  ...{ height: x.height, width: x.width, ...stepsOf(x) },
  ...{ size, stride, padding, outHeight: y.height, outWidth: y.width },
});

export const unfoldUses: readonly TableUse[] = [use('unfold'), use('unfold-backward')];

/** cols (samples · windows, taps) of x, the images of the whole batch */
export function unfold(
  recorder: Recorder,
  cols: Slice,
  x: Slice,
  over: Windows,
  { first, count }: Samples,
  // On software drivers an invocation costs more than the taps of a channel; elsewhere neighbours should write side by side.
  run = recorder.description.isSoftware ? over.size : 1,
): void {
  const [M, K] = [count * windowsOf(over), tapsOf(over)];
  const sizes = { M, K, run, first: first * windowsOf(over), sample: imageSize(over.x), ...sizesOf(over) };
  recorder.dispatch('unfold', {}, [cols, x], sizes, workgroups('unfold', M * (K / run ** 2)));
}

/** Of dx, laid out as x, these samples; dcols (samples · windows, taps) */
export function unfoldBackward(
  recorder: Recorder,
  dx: Slice,
  dcols: Slice,
  over: Windows,
  { first, count: samples }: Samples,
): void {
  const count = samples * imageSize(over.x);
  const sizes = { count, first, C: over.x.C, K: tapsOf(over), ...sizesOf(over) };
  recorder.dispatch('unfold-backward', {}, [dx, dcols], sizes, workgroups('unfold-backward', count));
}

/**
 * Whether the gradients of the weights come from a kernel of their own, which shares out the long sum over all windows, or from a
 * product with unfolded rows. Of a few columns a software driver leaves most of a product's lanes idle: 6 and 16 take 0.5 and 0.8 of
 * the time this way, 64 take 3.4 times as long (lavapipe). On GPUs a product would sum over all windows in a handful of workgroups.
 */
export const hasOwnWeightsKernel = (device: Device, N: number): boolean => !device.isSoftware || N <= 16;

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
  const sizes = { M, N, K, span, sample: imageSize(over.x), ...sizesOf(over) };
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
  return { count, C: over.x.C, ...sizesOf(over), outChannel, outPixel };
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
