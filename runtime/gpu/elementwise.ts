// What a transformer does to each element or pair of elements, as recordings: sums, gates, rotary positions, dropout and halves.
// Slices may be of any length; kernels work in fours and keep to `count`.
import type { Slice } from './buffers.ts';
import type { Recorder } from './gpu.ts';
import type { TableUse } from './kernel-table.ts';
import { fours, stretchGroups, use } from './ops.ts';

export const addUses: readonly TableUse[] = [use('add')];

/** y (count) += x (count) */
export function add(recorder: Recorder, y: Slice, x: Slice, count: number): void {
  recorder.dispatch('add', {}, [fours(y), fours(x)], { count }, stretchGroups(recorder, count));
}

export const siluGateUses: readonly TableUse[] = [use('silu-gate'), use('silu-gate-backward')];

/** y = silu(gate) · up, all (count) */
export function siluGate(recorder: Recorder, y: Slice, gate: Slice, up: Slice, count: number): void {
  const slices = [fours(y), fours(gate), fours(up)];
  recorder.dispatch('silu-gate', {}, slices, { count }, stretchGroups(recorder, count));
}

/** dgate, dup of dy, gate, up, all (count) */
export function siluGateBackward(
  recorder: Recorder,
  dgate: Slice,
  dup: Slice,
  dy: Slice,
  gate: Slice,
  up: Slice,
  count: number,
): void {
  const slices = [dgate, dup, dy, gate, up].map(fours);
  recorder.dispatch('silu-gate-backward', {}, slices, { count }, stretchGroups(recorder, count));
}

export const ropeUses: readonly TableUse[] = [use('rope')];

export interface RopeShape {
  rows: number;
  T: number;
  heads: number;
  D: number;
  /** Elements from row to row of x, and from a row's begin to its first head. */
  stride: number;
  offset: number;
  /** Position of each sequence's first token; 0 where it is left out. */
  start?: number;
  /** -1 rotates back: the backward pass. */
  direction: 1 | -1;
}

/** Rotates heads · D columns of x (rows, stride) in place; cosSin (start + T or more, D / 2, 2) is a ropeTable. */
export function rope(recorder: Recorder, x: Slice, cosSin: Slice, shape: RopeShape): void {
  const { rows, T, heads, D, stride, offset, start = 0, direction } = shape;
  const split = recorder.description.isSoftware ? 1 : heads;
  const sizes = { rows, T, heads, D, stride, offset, start, split, direction };
  recorder.dispatch('rope', {}, [x, cosSin], sizes, rows * split);
}

export const dropoutUses: readonly TableUse[] = [use('dropout'), use('dropout-in-place')];

export interface Dropping {
  count: number;
  /** Share that is dropped, 0 to 1. */
  p: number;
  /** A 32-bit number: another one for each layer and each step. */
  seed: number;
}

const dropoutSizes = ({
  count,
  p,
  seed,
}: Dropping): { count: number; seed: number; threshold: number; gain: number } => ({
  count,
  seed: seed >>> 0,
  threshold: Math.min(2 ** 32 - 1, Math.round(p * 2 ** 32)),
  gain: p < 1 ? 1 / (1 - p) : 0,
});

/** y (count) = x (count) / (1 - p), or 0 with probability p; the gradient is the same call on dy. */
export function dropout(recorder: Recorder, y: Slice, x: Slice, dropping: Dropping): void {
  const sizes = dropoutSizes(dropping);
  recorder.dispatch('dropout', {}, [fours(y), fours(x)], sizes, stretchGroups(recorder, dropping.count));
}

/** `dropout` of x onto itself, bit for bit */
export function dropoutInPlace(recorder: Recorder, x: Slice, dropping: Dropping): void {
  const sizes = dropoutSizes(dropping);
  recorder.dispatch('dropout-in-place', {}, [fours(x)], sizes, stretchGroups(recorder, dropping.count));
}

export type HalfFormat = 'f16' | 'bf16';

export const halfUses = (format: HalfFormat): TableUse[] => [
  use('to-half', { BRAIN: format === 'bf16' }),
  use('from-half', { BRAIN: format === 'bf16' }),
];

/** Bytes of `count` halves: whole words, the last half 0 where the count is odd. */
export const halfBytes = (count: number): number => Math.ceil(count / 2) * 4;

const pairs = (slice: Slice): Slice => ({ ...slice, bytes: Math.ceil(slice.bytes / 8) * 8 });

/** y (halfBytes(count)) = x (count) f32, rounded to the nearest, ties to even; too large becomes infinite */
export function toHalf(
  recorder: Recorder,
  y: Slice,
  x: Slice,
  { count, format }: { count: number; format: HalfFormat },
): void {
  const overrides = { BRAIN: format === 'bf16' };
  recorder.dispatch('to-half', overrides, [pairs(y), fours(x)], { count }, stretchGroups(recorder, count));
}

/** y (count) f32 = x (halfBytes(count)), exactly */
export function fromHalf(
  recorder: Recorder,
  y: Slice,
  x: Slice,
  { count, format }: { count: number; format: HalfFormat },
): void {
  const overrides = { BRAIN: format === 'bf16' };
  recorder.dispatch('from-half', overrides, [fours(y), pairs(x)], { count }, stretchGroups(recorder, count));
}
