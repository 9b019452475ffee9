// Every kernel but the products as a typed function that knows its grid. Outputs first, then inputs, then sizes.
import type { Slice } from './buffers.ts';
import type { Recorder } from './gpu.ts';
import { kernelTable, type KernelName, type KernelSizes, type Overrides, type TableUse } from './kernel-table.ts';

export const workgroups = (kernel: KernelName, invocations: number): number =>
  Math.ceil(invocations / kernelTable[kernel].workgroup);

export const use = (kernel: KernelName, overrides: Overrides = {}): TableUse => ({ kernel, overrides });

/**
 * The same slice as whole fours, for kernels that load four elements at once. What lies between is the padding of the slice:
 * slices begin at multiples of 256 bytes, and the pool's buffers end at one of 64.
 */
export const fours = (slice: Slice): Slice => ({ ...slice, bytes: Math.ceil(slice.bytes / 16) * 16 });

/**
 * Workgroups for kernels that go through `count` elements in fours, each workgroup one stretch of them: on software drivers an
 * invocation costs as much as a few fours, so each takes many; elsewhere one each, up to what fills any GPU.
 */
export function stretchGroups({ description }: Recorder, count: number): number {
  const most = Math.ceil(count / 256); // one four each, 64 invocations a workgroup
  return description.isSoftware
    ? Math.min(Math.max(Math.min(most, 16), Math.ceil(most / 16)), SOFTWARE_GROUPS)
    : Math.min(most, 8192);
}

/** More than any software driver has threads, and few enough that each goes through memory in one long stretch. */
const SOFTWARE_GROUPS = 64;

export type Activation = 'relu' | 'gelu' | 'gelu_new';

const activationUse = (activation: Activation, backward: boolean): TableUse =>
  activation === 'relu'
    ? use(backward ? 'relu-backward' : 'relu')
    : use(backward ? 'gelu-backward' : 'gelu', { TANH: activation === 'gelu_new' });

export const activationUses = (activation: Activation): TableUse[] => [
  activationUse(activation, false),
  activationUse(activation, true),
];

/** y (count) = activation of x (count) */
export function activate(recorder: Recorder, activation: Activation, y: Slice, x: Slice, count: number): void {
  const { kernel, overrides } = activationUse(activation, false);
  recorder.dispatch(
    kernel,
    overrides,
    [fours(y), fours(x)],
    { count } as KernelSizes<typeof kernel>,
    stretchGroups(recorder, count),
  );
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
  recorder.dispatch(
    kernel,
    overrides,
    [fours(dx), fours(dy), fours(x)],
    { count } as KernelSizes<typeof kernel>,
    stretchGroups(recorder, count),
  );
}

export const biasBackwardUse = use('bias-backward');

/** Invocations that share the rows of a column: where lanes are free, as many as leave each a few rows. */
const columnParts = ({ description }: Recorder, M: number): number =>
  description.isSoftware || M < 16 ? 1 : M < 128 ? 8 : 32;

/** db (N) += column sums of dy (M, N) */
export function biasBackward(
  recorder: Recorder,
  db: Slice,
  dy: Slice,
  sizes: { M: number; N: number },
  parts = columnParts(recorder, sizes.M),
): void {
  const groups = workgroups('bias-backward', Math.ceil(sizes.N / 4) * parts);
  recorder.dispatch('bias-backward', {}, [db, dy], { ...sizes, parts }, groups);
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

export const sgdUse = (hasMomentum: boolean): TableUse => use('sgd', { MOMENTUM: hasMomentum });

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
    stretchGroups(recorder, sizes.count),
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
    stretchGroups(recorder, sizes.count),
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
  const groups = workgroups('weighted-sum', Math.ceil(sizes.count / 4));
  recorder.dispatch('weighted-sum', { ADD: isAdding }, [y, packed, c], sizes, groups);
}

/** Partial sums of a squared norm: enough for many cores, few enough to read back every step. */
export const normLanes = (count: number): number => Math.min(count < 2 ** 20 ? 1024 : 8192, Math.ceil(count / 64) * 64);

export const finiteCheckUse = use('finite-check');

/** flag (1) becomes 1 where any of x (count) is NaN or infinite */
export function finiteCheck(recorder: Recorder, flag: Slice, x: Slice, count: number): void {
  // Beyond 256 workgroups each invocation takes more: a workgroup costs more than the few elements it would check.
  recorder.dispatch('finite-check', {}, [flag, x], { count }, Math.min(256, workgroups('finite-check', count)));
}

export const normAndCheckUse = use('norm-and-check');

/** partial (normLanes(count)): partial sums of the squares of x (count); flag (1) becomes 1 where any of x is NaN or infinite */
export function normAndCheck(
  recorder: Recorder,
  outputs: { partial: Slice; flag: Slice },
  x: Slice,
  count: number,
): void {
  const lanes = normLanes(count);
  const slices = [outputs.partial, outputs.flag, fours(x)];
  recorder.dispatch('norm-and-check', {}, slices, { count, lanes }, workgroups('norm-and-check', lanes));
}
