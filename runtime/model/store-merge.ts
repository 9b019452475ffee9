// Merging contributions of other replicas into what a stage shows and trains on, as recordings: the self-centred mean, and the trimmed one.
import { MeshError } from '../errors.ts';
import type { Borrowed, Slice } from '../gpu/buffers.ts';
import type { Recorder } from '../gpu/gpu.ts';
import { layerApply, layerMerge, trimmedMean } from '../gpu/layers.ts';
import { MOST_TRIMMED, paddedTo, type StoreMix } from '../layer-store.ts';
import { copyUnit, gather } from './packed.ts';
import type { PackedUnits, UnitTable } from './unit-table.ts';
import type { TensorSet } from './weights.ts';

/** Contributions that one call of the merging kernel takes. */
const PARTS = 4;

/** What came from another replica, packed. */
export interface Part {
  slice: Slice;
  packed: PackedUnits;
}

/** What a recording works on. */
export interface Sides {
  table: UnitTable;
  live: TensorSet;
  shown: TensorSet;
  part(number: number): Part;
}

/** Where a unit begins in a part. Throws `stale` where it is not in it. */
export function startOf({ packed }: Part, unit: number): number {
  const start = packed.startOf.get(unit);
  if (start === undefined) throw new MeshError('stale', `A part holds no unit ${unit}.`, 'Receive it first.');
  return start;
}

export function upload(recorder: Recorder, borrowed: Borrowed, table: Uint32Array<ArrayBuffer>): Slice {
  const slice = borrowed.take(table.byteLength);
  recorder.write(slice, new Uint8Array(table.buffer));
  return slice;
}

export function recordMerge(recorder: Recorder, borrowed: Borrowed, sides: Sides, mixes: readonly StoreMix[]): void {
  const clipped = mixes.filter(({ trim }) => trim === undefined);
  const merges = mergeTables(sides, clipped).map((merge) => ({
    ...merge,
    slice: upload(recorder, borrowed, merge.table),
  }));
  const [live, shown] = [sides.live.windows(), sides.shown.windows()];
  for (const { window, items, parts, slice } of merges) {
    const [a, b] = [live[window]?.slice, shown[window]?.slice];
    if (a && b) layerMerge(recorder, { live: a, shown: b }, parts, slice, items);
  }
  const trimmed = mixes.filter(({ trim }) => trim !== undefined);
  const most = recorder.description.maxStorageBufferBindingSize;
  for (const alike of Map.groupBy(trimmed, ({ from, trim }) => `${from.length} ${trim}`).values())
    for (const some of batchesOf(alike, sides.table, most)) recordTrimmed(recorder, borrowed, sides, some);
}

/** Mixes whose contributions, one after the other, fit into one binding; or single ones. */
function batchesOf(mixes: readonly StoreMix[], { units }: UnitTable, mostBytes: number): StoreMix[][] {
  const batches: StoreMix[][] = [];
  let room = 0;
  for (const mix of mixes) {
    const bytes = (mix.from.length + 1) * paddedTo(units[mix.unit]?.count ?? 0) * 4;
    if (batches.length === 0 || bytes > room) {
      batches.push([]);
      room = mostBytes;
    }
    batches.at(-1)?.push(mix);
    room -= bytes;
  }
  return batches;
}

interface MergeCall {
  window: number;
  items: number;
  table: Uint32Array<ArrayBuffer>;
  parts: Slice[];
}

/** Four parts at a time; what a unit keeps of itself counts in the first call that concerns it. */
function mergeTables(sides: Sides, mixes: readonly StoreMix[]): MergeCall[] {
  const numbers = [...new Set(mixes.flatMap(({ from }) => from.map(({ part }) => part)))];
  const begun = new Set<number>();
  const calls: MergeCall[] = [];
  for (let first = 0; first < numbers.length; first += PARTS) {
    const four = numbers.slice(first, first + PARTS);
    const byUnit = new Map(
      mixes.filter(({ from }) => from.some(({ part }) => four.includes(part))).map((mix) => [mix.unit, mix]),
    );
    const keeps = new Map(
      [...byUnit.values()].map(({ unit, from }) => [
        unit,
        begun.has(unit) ? 1 : 1 - from.reduce((sum, { coefficient }) => sum + coefficient, 0),
      ]),
    );
    for (const unit of byUnit.keys()) begun.add(unit);
    const tables = sides.table.tables([...byUnit.keys()], ({ start, count, at }, unit) => {
      const from = byUnit.get(unit)?.from ?? [];
      const entries = four.map((number) => from.find(({ part }) => part === number));
      const four4 = Array.from({ length: PARTS }, (_, p) => entries[p]);
      return [
        ...[start, count, bitsOf(keeps.get(unit) ?? 1), 0],
        ...four4.map((entry) => (entry ? startOf(sides.part(entry.part), unit) + at : 0)),
        ...four4.map((entry) => bitsOf(entry?.coefficient ?? 0)),
      ];
    });
    const parts = four.map((number) => sides.part(number).slice);
    calls.push(...tables.map((table) => ({ ...table, parts })));
  }
  return calls;
}

/** Of units to which equally many contribute, their own weights among them. */
function recordTrimmed(recorder: Recorder, borrowed: Borrowed, sides: Sides, mixes: readonly StoreMix[]): void {
  const { table, live, shown } = sides;
  const packed = table.packed(mixes.map(({ unit }) => unit));
  const { count } = packed;
  const parts = (mixes[0]?.from.length ?? 0) + 1;
  const trim = mixes[0]?.trim ?? 0;
  expectTrimmable(parts, trim);
  const all = borrowed.take(parts * count * 4);
  recorder.clear(all);
  gather(recorder, table, packed, shown, all);
  mixes.forEach(({ unit, from }, i) => {
    const length = table.units[unit]?.count ?? 0;
    from.forEach(({ part }, p) => {
      const found = sides.part(part);
      const to = { slice: all, start: (p + 1) * count + (packed.starts[i] ?? 0) };
      copyUnit(recorder, length, { slice: found.slice, start: startOf(found, unit) }, to);
    });
  });
  const mean = borrowed.take(count * 4);
  trimmedMean(recorder, mean, all, { count, parts, stride: count, trim });
  const [a, b] = [live.windows(), shown.windows()];
  const tables = table.tables(packed.units, ({ start, count: length, at }, _, place) => [
    ...[start, (packed.starts[place] ?? 0) + at, length, 0],
  ]);
  for (const { window, items, table: rows } of tables) {
    const [to, before] = [a[window]?.slice, b[window]?.slice];
    if (to && before) layerApply(recorder, { live: to, shown: before }, mean, upload(recorder, borrowed, rows), items);
  }
}

export function expectTrimmable(parts: number, trim: number): void {
  if (parts <= MOST_TRIMMED && trim >= 0 && 2 * trim < parts) return;
  throw new MeshError(
    'usage',
    `A trimmed mean of ${parts} contributions without ${trim} at either end was asked for.`,
    `Give at most ${MOST_TRIMMED}, and leave at least one.`,
  );
}

const scratch = new DataView(new ArrayBuffer(4));
function bitsOf(value: number): number {
  scratch.setFloat32(0, value);
  return scratch.getUint32(0);
}
