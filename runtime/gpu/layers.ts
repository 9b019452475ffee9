// What the averaging of layers runs on the GPU, as recordings: comparing, merging, trimming, quantising. Items are stretches of units, at
// most ITEM elements each, listed in a table that the kernels read.
import { BLOCK } from '../layer-store.ts';
import type { Slice } from './buffers.ts';
import type { Recorder } from './gpu.ts';
import type { TableUse } from './kernel-table.ts';
import { fours, use, workgroups } from './ops.ts';

/** Elements of an item: enough to be worth a workgroup, few enough that there are many. */
export const ITEM = 4096;

export const layerUses: readonly TableUse[] = [
  use('layer-distance'),
  use('layer-distance-vec4'),
  use('layer-merge'),
  use('layer-apply'),
];
export const trimUses: readonly TableUse[] = [use('trimmed-mean')];
export const outerUses: readonly TableUse[] = [use('outer-step', { PAIR: false }), use('outer-step', { PAIR: true })];
export const blockUses: readonly TableUse[] = ([8, 4] as const).flatMap((BITS) => [
  use('block-quantise', { BITS }),
  use('block-dequantise', { BITS }),
]);

/** sums (items, 4 u32) of a, b and table (items, 4 u32): see the kernel. `isAligned`: all items begin at multiples of 4. */
export function layerDistance(
  recorder: Recorder,
  sums: Slice,
  a: Slice,
  b: Slice,
  table: Slice,
  items: number,
  isAligned = false,
): void {
  if (isAligned) recorder.dispatch('layer-distance-vec4', {}, [sums, fours(a), fours(b), table], { items }, items);
  else recorder.dispatch('layer-distance', {}, [sums, a, b, table], { items }, items);
}

/** live and shown move towards up to four parts, as the table (items, 12 u32) says. */
export function layerMerge(
  recorder: Recorder,
  on: { live: Slice; shown: Slice },
  parts: readonly Slice[],
  table: Slice,
  items: number,
): void {
  const [first] = parts;
  if (first === undefined) return;
  const four = [0, 1, 2, 3].map((p) => parts[p] ?? first); // one that is not there is not read
  recorder.dispatch('layer-merge', {}, [on.live, on.shown, ...four, table], { items }, items);
}

/** live += s - shown, shown = s; table (items, 4 u32). */
export function layerApply(
  recorder: Recorder,
  on: { live: Slice; shown: Slice },
  s: Slice,
  table: Slice,
  items: number,
): void {
  recorder.dispatch('layer-apply', {}, [on.live, on.shown, s, table], { items }, items);
}

/** y (count) of parts (parts, stride). */
export function trimmedMean(
  recorder: Recorder,
  y: Slice,
  parts: Slice,
  sizes: { count: number; parts: number; stride: number; trim: number },
): void {
  recorder.dispatch('trimmed-mean', {}, [y, parts], sizes, workgroups('trimmed-mean', sizes.count));
}

export interface OuterSizes {
  items: number;
  rate: number;
  momentum: number;
  pull: number;
}

/** `mean`: of the pair's slow weights; null: DiLoCo. */
export function outerStep(
  recorder: Recorder,
  on: { live: Slice; shown: Slice; slow: Slice; momentum: Slice },
  gradient: Slice,
  mean: Slice | null,
  table: Slice,
  sizes: OuterSizes,
): void {
  const slices = [on.live, on.shown, on.slow, on.momentum, gradient, mean ?? gradient, table];
  recorder.dispatch('outer-step', { PAIR: mean !== null }, slices, sizes, sizes.items);
}

export type BlockBits = 8 | 4;

const blockSizes = (blocks: number): { blocks: number; fours: number } => ({ blocks, fours: BLOCK / 4 });

/** q (blocks · 64 values of `bits`), scale (blocks), e and x (blocks · 64). */
export function blockQuantise(
  recorder: Recorder,
  outputs: { q: Slice; scale: Slice; e: Slice },
  x: Slice,
  blocks: number,
  bits: BlockBits,
): void {
  const slices = [outputs.q, outputs.scale, outputs.e, x];
  recorder.dispatch('block-quantise', { BITS: bits }, slices, blockSizes(blocks), workgroups('block-quantise', blocks));
}

export function blockDequantise(
  recorder: Recorder,
  x: Slice,
  q: Slice,
  scale: Slice,
  blocks: number,
  bits: BlockBits,
): void {
  recorder.dispatch(
    'block-dequantise',
    { BITS: bits },
    [x, q, scale],
    blockSizes(blocks),
    workgroups('block-dequantise', blocks),
  );
}
