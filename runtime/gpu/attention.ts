// Causal self-attention and its gradients: which kernels and which grids for which device and head size. No (T, T) matrix.
import type { GpuDescription } from '../compute.ts';
import type { Slice } from './buffers.ts';
import type { Recorder } from './gpu.ts';
import { kernelTable, type KernelName, type KernelSizes, type KernelUse, type Overrides } from './kernel-table.ts';

/**
 * B sequences of T tokens, H query heads and G key/value heads of D channels; query head h reads head floor(h / (H / G)).
 * Where q, k, v lie: row strides and offsets in elements. Fused as in GPT-2: one buffer, stride 3C, offsets 0, C, 2C.
 */
export interface AttentionSizes {
  B: number;
  T: number;
  H: number;
  G: number;
  D: number;
  scale: number;
  qStride: number;
  kStride: number;
  vStride: number;
  qOffset: number;
  kOffset: number;
  vOffset: number;
}

/** Probability that an attention weight is dropped, and the seed of the mask, a u32. */
export interface AttentionDropout {
  p: number;
  seed: number;
}

type Subgroups = Pick<GpuDescription, 'subgroupMinSize'>;

/** Rows (of queries, or of keys for their gradients) that a cluster of lanes shares. */
const TILE = 8;
/** What an invocation of the kernels without subgroups sums up: so many columns of one head, of so many rows or keys. */
const PORTABLE_COLUMNS = 16;
const PORTABLE_TILE = { attention: 4, 'attention-backward-query': 4, 'attention-backward-key-value': 2 } as const;

/** Lanes of a cluster; 0: the kernels without subgroups. */
function lanesFor({ subgroupMinSize }: Subgroups, ...sizes: number[]): 0 | 4 | 8 {
  if (subgroupMinSize < 4 || sizes.some((size) => size % 4 !== 0)) return 0;
  return subgroupMinSize < 8 ? 4 : 8;
}

const isWide = (lanes: number, D: number): boolean => D > lanes * 4;

function overridesFor(lanes: number, D: number, hasDropout: boolean): Overrides {
  return lanes === 0 ? { DROPOUT: hasDropout } : { LANES: lanes, WIDE: isWide(lanes, D), DROPOUT: hasDropout };
}

const PORTABLE = ['attention', 'attention-backward-query', 'attention-backward-key-value'] as const;
const SUBGROUP = [
  'attention-subgroup',
  'attention-backward-query-subgroup',
  'attention-backward-key-value-subgroup',
] as const;

/**
 * Everything that forward and backward need for heads of D channels on the device described; with no description, on any
 * device that has subgroups. Strides and offsets are taken to be multiples of 4 where D is.
 */
export function attentionUses(hasDropout: boolean, D: number, description?: Subgroups): KernelUse[] {
  const choices = description === undefined ? ([0, 4, 8] as const) : [lanesFor(description, D)];
  const uses: KernelUse[] = [{ kernel: 'attention-delta', overrides: {} }];
  for (const lanes of choices)
    for (const kernel of lanes === 0 ? PORTABLE : SUBGROUP)
      uses.push({ kernel, overrides: overridesFor(lanes, D, hasDropout) });
  return uses;
}

/** y (B, T, H·D), and lse (B, H, T), the log-sum-exp of each row of scores, for the backward pass. */
export function attention(
  recorder: Recorder,
  y: Slice,
  lse: Slice,
  q: Slice,
  k: Slice,
  v: Slice,
  sizes: AttentionSizes,
  dropout?: AttentionDropout,
): void {
  run(recorder, ['attention', 'attention-subgroup'], [y, lse, q, k, v], sizes, sizes.H, dropout);
}

/**
 * dq, then dk and dv, of dy (B, T, H·D) and what `attention` read and wrote. dq lies as q does, dk and dv both in `dkv` as k and
 * v do; dq and dkv may be one buffer. delta (B, H, T) is scratch.
 */
export function attentionBackward(
  recorder: Recorder,
  dq: Slice,
  dkv: Slice,
  delta: Slice,
  dy: Slice,
  y: Slice,
  lse: Slice,
  q: Slice,
  k: Slice,
  v: Slice,
  sizes: AttentionSizes,
  dropout?: AttentionDropout,
): void {
  const rows = sizes.B * sizes.H * sizes.T;
  recorder.dispatch(
    'attention-delta',
    {},
    [delta, dy, y],
    kernelSizes(sizes, dropout),
    groupsOf('attention-delta', rows),
  );
  const inputs = [dy, lse, delta, q, k, v];
  run(
    recorder,
    ['attention-backward-query', 'attention-backward-query-subgroup'],
    [dq, ...inputs],
    sizes,
    sizes.H,
    dropout,
  );
  run(
    recorder,
    ['attention-backward-key-value', 'attention-backward-key-value-subgroup'],
    [dkv, ...inputs],
    sizes,
    sizes.G,
    dropout,
  );
}

type Portable = (typeof PORTABLE)[number];
type Subgroup = (typeof SUBGROUP)[number];

/** `heads`: those whose rows and columns the kernel's grid covers. */
function run(
  recorder: Recorder,
  [portable, subgroup]: readonly [Portable, Subgroup],
  slices: readonly Slice[],
  sizes: AttentionSizes,
  heads: number,
  dropout: AttentionDropout | undefined,
): void {
  const { B, T, D, qStride, kStride, vStride, qOffset, kOffset, vOffset } = sizes;
  const lanes = lanesFor(recorder.description, D, qStride, kStride, vStride, qOffset, kOffset, vOffset);
  const overrides = overridesFor(lanes, D, dropout !== undefined);
  const all = kernelSizes(sizes, dropout);
  if (lanes === 0) {
    const invocations = B * heads * Math.ceil(T / PORTABLE_TILE[portable]) * Math.ceil(D / PORTABLE_COLUMNS);
    recorder.dispatch(portable, overrides, slices, all, groupsOf(portable, invocations));
    return;
  }
  const blocks = Math.ceil(D / (lanes * (isWide(lanes, D) ? 8 : 4)));
  const perTile = groupsOf(subgroup, B * heads * blocks * lanes);
  recorder.dispatch(subgroup, overrides, slices, all, perTile * Math.ceil(T / TILE));
}

const groupsOf = (kernel: KernelName, invocations: number): number =>
  Math.ceil(invocations / kernelTable[kernel].workgroup);

/** What falls below `threshold`, of 2³² values alike, is dropped. */
function kernelSizes(sizes: AttentionSizes, dropout: AttentionDropout = { p: 0, seed: 0 }): KernelSizes<'attention'> {
  const { p, seed } = dropout;
  return { ...sizes, seed: seed >>> 0, threshold: Math.floor(p * 2 ** 32), gain: 1 / (1 - p) };
}
