// Low-communication training on a stage's store, as recordings: the outer gradient that a replica gives, and the outer step that it takes.
import { MeshError } from '../errors.ts';
import type { Borrowed, Slice } from '../gpu/buffers.ts';
import type { Recorder } from '../gpu/gpu.ts';
import { outerStep, trimmedMean } from '../gpu/layers.ts';
import { weightedSum } from '../gpu/ops.ts';
import type { OuterStep } from '../layer-store.ts';
import { gather } from './packed.ts';
import { expectTrimmable, upload, type Sides } from './store-merge.ts';
import type { PackedUnits } from './unit-table.ts';
import type { TensorSet } from './weights.ts';

export interface OuterSides extends Sides {
  slow: TensorSet;
  momentum: TensorSet;
}

/** to (count) = slow - shown of these units. */
export function recordOuterGradient(
  recorder: Recorder,
  borrowed: Borrowed,
  { table, slow, shown }: OuterSides,
  packed: PackedUnits,
  to: Slice,
): void {
  const { count } = packed;
  const both = borrowed.take(count * 8);
  const factors = factorsOf(recorder, borrowed, [1, -1]);
  gather(recorder, table, packed, slow, both);
  gather(recorder, table, packed, shown, { ...both, offset: both.offset + count * 4 });
  weightedSum(recorder, false, to, both, factors, { count, parts: 2, stride: count });
}

export function recordOuterStep(recorder: Recorder, borrowed: Borrowed, sides: OuterSides, step: OuterStep): void {
  const { table, live, shown, slow, momentum } = sides;
  const { gradients, trim, rate, partner } = step;
  const packed = table.packed(step.units);
  const { count } = packed;
  const slices = gradients.map(({ part }) => wholePart(sides, part, packed));
  if (slices.length === 0) throw new MeshError('malformed', 'An outer step without gradients.', 'Give at least one.');
  const tables = table
    .tables(packed.units, ({ start, count: length, at }, _, place) => [
      ...[start, (packed.starts[place] ?? 0) + at, length, 0],
    ])
    .map((rows) => ({ ...rows, slice: upload(recorder, borrowed, rows.table) }));
  const mean = borrowed.take(count * 4);
  const all = stacked(recorder, borrowed, slices, count);
  const sizes = { count, parts: slices.length, stride: count };
  if (trim === undefined) {
    const coefficients = gradients.map(({ coefficient }) => coefficient);
    weightedSum(recorder, false, mean, all, factorsOf(recorder, borrowed, coefficients), sizes);
  } else {
    expectTrimmable(slices.length, trim);
    trimmedMean(recorder, mean, all, { ...sizes, trim });
  }
  let centre: Slice | null = null;
  if (partner) {
    const own = borrowed.take(count * 4);
    gather(recorder, table, packed, slow, own);
    const two = stacked(recorder, borrowed, [own, wholePart(sides, partner.part, packed)], count);
    centre = borrowed.take(count * 4);
    weightedSum(recorder, false, centre, two, factorsOf(recorder, borrowed, [0.5, 0.5]), { count, parts: 2, stride: count }); // prettier-ignore
  }
  const sets = [live, shown, slow, momentum].map((set) => set.windows());
  for (const { window, items, slice } of tables) {
    const [a, b, c, d] = sets.map((set) => set[window]?.slice);
    if (!a || !b || !c || !d) continue;
    const on = { live: a, shown: b, slow: c, momentum: d };
    outerStep(recorder, on, mean, centre, slice, { items, rate, momentum: step.momentum, pull: partner?.pull ?? 0 });
  }
}

function wholePart(sides: Sides, number: number, packed: PackedUnits): Slice {
  const part = sides.part(number);
  if (part.packed.units.join() !== packed.units.join())
    throw new MeshError('stale', `Part ${number} is not of units ${packed.units.join(', ')}.`, 'Receive it first.');
  return part.slice;
}

function factorsOf(recorder: Recorder, borrowed: Borrowed, factors: readonly number[]): Slice {
  const slice = borrowed.take(factors.length * 4);
  recorder.write(slice, new Uint8Array(Float32Array.from(factors).buffer));
  return slice;
}

/** Packed lists of equal length, one after the other. */
function stacked(recorder: Recorder, borrowed: Borrowed, slices: readonly Slice[], count: number): Slice {
  const all = borrowed.take(slices.length * count * 4);
  slices.forEach((slice, i) => recorder.copy(slice, { ...all, offset: all.offset + i * count * 4 }, count * 4));
  return all;
}
