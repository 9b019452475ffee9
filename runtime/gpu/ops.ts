// Every kernel but the products as a typed function that knows its grid. Outputs first, then inputs, then sizes.
import type { Slice } from './buffers.ts';
import type { Recorder } from './gpu.ts';
import { kernelTable, type KernelName, type KernelSizes, type KernelUse } from './kernel-table.ts';

const workgroups = (kernel: KernelName, invocations: number): number =>
  Math.ceil(invocations / kernelTable[kernel].workgroup);

const use = (kernel: KernelName, overrides: KernelUse['overrides'] = {}): KernelUse => ({ kernel, overrides });

export type Activation = 'relu' | 'gelu' | 'gelu_new';

const activationUse = (activation: Activation, backward: boolean): KernelUse =>
  activation === 'relu'
    ? use(backward ? 'relu-backward' : 'relu')
    : use(backward ? 'gelu-backward' : 'gelu', { TANH: activation === 'gelu_new' });

export const activationUses = (activation: Activation): KernelUse[] => [
  activationUse(activation, false),
  activationUse(activation, true),
];

/** y (count) = activation of x (count) */
export function activate(recorder: Recorder, activation: Activation, y: Slice, x: Slice, count: number): void {
  const { kernel, overrides } = activationUse(activation, false);
  recorder.dispatch(kernel, overrides, [y, x], { count } as KernelSizes<typeof kernel>, workgroups(kernel, count));
}

/** dx (count) = dy (count) times the slope of the activation at x (count) */
export function activateBackward(
  recorder: Recorder,
  activation: Activation,
  dx: Slice,
  dy: Slice,
  x: Slice,
  count: number,
): void {
  const { kernel, overrides } = activationUse(activation, true);
  recorder.dispatch(kernel, overrides, [dx, dy, x], { count } as KernelSizes<typeof kernel>, workgroups(kernel, count));
}

export const biasBackwardUse = use('bias-backward');

/** db (N) += column sums of dy (M, N) */
export function biasBackward(recorder: Recorder, db: Slice, dy: Slice, sizes: { M: number; N: number }): void {
  recorder.dispatch('bias-backward', {}, [db, dy], sizes, workgroups('bias-backward', sizes.N));
}

export const crossEntropyUse = use('softmax-cross-entropy');

/** dlogits (M, V), loss (M), correct (M) u32 of logits (M, V), targets (M) i32 */
export function crossEntropy(
  recorder: Recorder,
  outputs: { dlogits: Slice; loss: Slice; correct: Slice },
  logits: Slice,
  targets: Slice,
  sizes: { M: number; V: number; scale: number },
): void {
  const slices = [outputs.dlogits, outputs.loss, outputs.correct, logits, targets];
  recorder.dispatch('softmax-cross-entropy', {}, slices, sizes, workgroups('softmax-cross-entropy', sizes.M));
}

export const sgdUse = (hasMomentum: boolean): KernelUse => use('sgd', { MOMENTUM: hasMomentum });

/** One step on w, m, dw (count each, a multiple of 4) unless flag (1) is set; `m` is any buffer where there is no momentum. */
export function sgd(
  recorder: Recorder,
  state: { w: Slice; m: Slice; dw: Slice },
  flag: Slice,
  sizes: KernelSizes<'sgd'>,
): void {
  const { kernel, overrides } = sgdUse(sizes.momentum !== 0);
  recorder.dispatch(
    kernel,
    overrides,
    [state.w, state.m, state.dw, flag],
    sizes as KernelSizes<typeof kernel>,
    workgroups(kernel, sizes.count),
  );
}

export const adamwUse = use('adamw');

/** One step on w, m, v, dw (count each, a multiple of 4) unless flag (1) is set. */
export function adamw(
  recorder: Recorder,
  state: { w: Slice; m: Slice; v: Slice; dw: Slice },
  flag: Slice,
  sizes: KernelSizes<'adamw'>,
): void {
  recorder.dispatch(
    'adamw',
    {},
    [state.w, state.m, state.v, state.dw, flag],
    sizes,
    workgroups('adamw', sizes.count / 4),
  );
}

export const weightedSumUses = [use('weighted-sum', { ADD: false }), use('weighted-sum', { ADD: true })];

/** y (count) = [y +] Σ c[p] · packed[p], packed (parts, stride), c (parts) */
export function weightedSum(
  recorder: Recorder,
  isAdding: boolean,
  y: Slice,
  packed: Slice,
  c: Slice,
  sizes: KernelSizes<'weighted-sum'>,
): void {
  recorder.dispatch('weighted-sum', { ADD: isAdding }, [y, packed, c], sizes, workgroups('weighted-sum', sizes.count));
}

export const squaredNormUse = use('squared-norm');

/** Partial sums of a squared norm: enough for many cores, few enough to read back every step. */
export const normLanes = (count: number): number => Math.min(1024, Math.ceil(count / 64) * 64);

/** partial (normLanes(count)) of x (count) */
export function squaredNorm(recorder: Recorder, partial: Slice, x: Slice, count: number): void {
  const lanes = normLanes(count);
  recorder.dispatch('squared-norm', {}, [partial, x], { count, lanes }, workgroups('squared-norm', lanes));
}

export const finiteCheckUse = use('finite-check');

/** flag (1) becomes 1 where any of x (count) is NaN or infinite */
export function finiteCheck(recorder: Recorder, flag: Slice, x: Slice, count: number): void {
  // Beyond 256 workgroups each invocation takes more: a workgroup costs more than the few elements it would check.
  recorder.dispatch('finite-check', {}, [flag, x], { count }, Math.min(256, workgroups('finite-check', count)));
}
