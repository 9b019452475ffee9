// Where units lie: in the slabs of a set of tensors, and one after the other in a packed list. Tables for the kernels of gpu/layers.ts.
import { MeshError } from '../errors.ts';
import { ITEM } from '../gpu/layers.ts';
import { paddedTo } from '../layer-store.ts';
import type { Unit } from './units.ts';
import type { Layout } from './weights.ts';

/** A stretch of a unit within one window of a set (weights.ts), counted in elements. */
export interface Stretch {
  /** Index among the set's `windows()`. */
  window: number;
  start: number;
  count: number;
  /** Where it begins within the unit. */
  at: number;
}

/** A consecutive piece of a unit within one parameter. */
export interface Place {
  name: string;
  start: number;
  count: number;
  at: number;
}

export interface PackedUnits {
  units: readonly number[];
  /** Where each begins, by its place in the list. */
  starts: readonly number[];
  /** By the unit's number. */
  startOf: ReadonlyMap<number, number>;
  /** Elements in all, padding included. */
  count: number;
}

/** Rows for the stretches in one window; `owners`: of each, the place of its unit in the list. */
export interface WindowTable {
  window: number;
  items: number;
  table: Uint32Array<ArrayBuffer>;
  owners: number[];
}

export class UnitTable {
  readonly units: readonly Unit[];
  /** By unit. */
  readonly stretches: readonly (readonly Stretch[])[];
  readonly places: readonly (readonly Place[])[];
  readonly windows: number;

  constructor(units: readonly Unit[], layout: Layout) {
    this.units = units;
    const entries = new Map(layout.entries.map((entry) => [entry.name, entry]));
    const firstWindow: number[] = [];
    let windows = 0;
    for (const { bytes } of layout.slabs) {
      firstWindow.push(windows);
      windows += Math.ceil(bytes / layout.maxBinding);
    }
    this.windows = windows;
    const perWindow = layout.maxBinding / 4;
    this.places = units.map(({ ranges }) => {
      let at = 0;
      return ranges.map((range) => {
        const place = { ...range, at };
        at += range.count;
        return place;
      });
    });
    this.stretches = this.places.map((places) =>
      places.flatMap(({ name, start, count, at }) => {
        const entry = entries.get(name);
        if (!entry) throw new MeshError('internal', `There is no parameter ${name}.`, 'Please report this defect.');
        const found: Stretch[] = [];
        const first = entry.offset / 4 + start; // within the slab
        for (let done = 0; done < count;) {
          const from = first + done;
          const inWindow = from % perWindow;
          const length = Math.min(ITEM, count - done, perWindow - inWindow);
          const window = (firstWindow[entry.slab] ?? 0) + Math.floor(from / perWindow);
          found.push({ window, start: inWindow, count: length, at: at + done });
          done += length;
        }
        return found;
      }),
    );
  }

  get every(): number[] {
    return this.units.map((_, unit) => unit);
  }

  /** Throws `malformed` for a unit that there is not, or twice the same. */
  packed(units: readonly number[]): PackedUnits {
    const seen = new Set(units);
    if (seen.size !== units.length || units.some((unit) => this.units[unit] === undefined))
      throw new MeshError(
        'malformed',
        `Units ${units.slice(0, 8).join(', ')} were named, and there are ${this.units.length}, each once.`,
        'Check that both replicas are of the same model, cut into units of the same size.',
      );
    let count = 0;
    const starts = units.map((unit) => {
      const start = count;
      count += paddedTo(this.units[unit]?.count ?? 0);
      return start;
    });
    const startOf = new Map(units.map((unit, i) => [unit, starts[i] ?? 0]));
    return { units, starts, startOf, count };
  }

  /**
   * Tables for comparing, whose rows begin with two places; what begins at multiples of 4 in both is apart from what does not, because loads of
   * four take a third of the time.
   */
  compared(
    units: readonly number[],
    row: (stretch: Stretch, unit: number, place: number) => readonly [number, number, number, number],
  ): (WindowTable & { isAligned: boolean })[] {
    return [true, false].flatMap((isAligned) =>
      this.tables(units, (...of) => {
        const made = row(...of);
        return (made[0] % 4 === 0 && made[1] % 4 === 0) === isAligned ? made : null;
      }).map((table) => ({ ...table, isAligned })),
    );
  }

  /** Rows of a table for each window that holds any of these units; `row` makes one of a stretch, or leaves it out. */
  tables(
    units: readonly number[],
    row: (stretch: Stretch, unit: number, place: number) => readonly number[] | null,
  ): WindowTable[] {
    const byWindow = new Map<number, { rows: number[]; owners: number[] }>();
    units.forEach((unit, place) => {
      for (const stretch of this.stretches[unit] ?? []) {
        const made = row(stretch, unit, place);
        if (made === null) continue;
        const into = byWindow.get(stretch.window) ?? { rows: [], owners: [] };
        into.rows.push(...made);
        into.owners.push(place);
        byWindow.set(stretch.window, into);
      }
    });
    return [...byWindow].map(([window, { rows, owners }]) => ({
      window,
      items: owners.length,
      table: Uint32Array.from(rows),
      owners,
    }));
  }
}
