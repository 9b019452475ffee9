// A stage's parameter store on the GPU: beside the live weights that training steps on lie those that are shown, a snapshot which is served
// and merged. All of a merge happens in one submit, so it is there whole or not at all. The contract is runtime/layer-store.ts.
import { MeshError } from '../errors.ts';
import { Borrowed, type Slice } from '../gpu/buffers.ts';
import type { Gpu, Recorder } from '../gpu/gpu.ts';
import { halfUses } from '../gpu/elementwise.ts';
import type { KernelUse } from '../gpu/kernel-table.ts';
import { blockUses, layerDistance, layerUses, outerUses, trimUses } from '../gpu/layers.ts';
import type { LayerFormat, OuterStep, Received, Snapshot, StoredKind, StoreMix, StoreSpec } from '../layer-store.ts';
import type { Tensors } from '../tensor.ts';
import { isFinite32 } from './inputs.ts';
import { checkEncoded, decode, encode, encodedTensors, gather, scatter } from './packed.ts';
import type { StageState } from './stage-state.ts';
import { recordMerge, startOf, upload, type Part, type Sides } from './store-merge.ts';
import { recordOuterGradient, recordOuterStep, type OuterSides } from './store-outer.ts';
import { UnitTable, type PackedUnits } from './unit-table.ts';
import type { Unit } from './units.ts';
import { notFinite, TensorSet } from './weights.ts';

export const storeUses = (spec: StoreSpec): KernelUse[] => [
  ...layerUses,
  ...trimUses,
  ...blockUses,
  ...halfUses('f16'),
  ...(spec.outer === true ? outerUses : []),
];

export class ParameterStore {
  readonly #gpu: Gpu;
  readonly #state: StageState;
  readonly #table: UnitTable;
  readonly #shown: TensorSet;
  /** Of low-communication training. */
  readonly #outer: { slow: TensorSet; momentum: TensorSet } | null;
  /** What int8 and int4 lost of weights, and of outer gradients; made when first needed. */
  readonly #lost = new Map<'weights' | 'outer', TensorSet>();
  readonly #parts = new Map<number, Part>();
  readonly #progress: Float64Array;
  readonly #squaredNorm: Float64Array;
  #lastPart = 0;
  /** Progress as the last snapshot found it; the figures of one come after those of the one before. */
  #measured: Promise<Float64Array> = Promise.resolve(new Float64Array(0));
  #version = 0;
  #isReleased = false;

  private constructor(gpu: Gpu, state: StageState, units: readonly Unit[], sets: readonly TensorSet[]) {
    const [shown, slow, momentum] = sets;
    if (shown === undefined) throw new Error('a store needs a place for what it shows');
    this.#gpu = gpu;
    this.#state = state;
    this.#table = new UnitTable(units, state.weights.layout);
    this.#shown = shown;
    this.#outer = slow && momentum ? { slow, momentum } : null;
    this.#progress = new Float64Array(units.length);
    this.#squaredNorm = new Float64Array(units.length);
  }

  /** Shows the weights as they are. */
  static async create(gpu: Gpu, state: StageState, units: readonly Unit[], spec: StoreSpec): Promise<ParameterStore> {
    const { layout } = state.weights;
    const sets: TensorSet[] = [];
    try {
      for (let i = 0; i < (spec.outer === true ? 3 : 1); i += 1) sets.push(TensorSet.take(gpu, layout));
      const [shown, slow, momentum] = sets;
      await gpu.submit((recorder) => {
        for (const set of [shown, slow]) if (set) copySet(recorder, state.weights, set);
        momentum?.clear(recorder);
      });
      return new ParameterStore(gpu, state, units, sets);
    } catch (cause) {
      for (const set of sets) set.release(gpu);
      throw cause;
    }
  }

  release(): void {
    this.#isReleased = true;
    this.drop([...this.#parts.keys()]);
    const sets = [this.#shown, this.#outer?.slow, this.#outer?.momentum, ...this.#lost.values()];
    for (const set of sets) set?.release(this.#gpu);
  }

  async snapshot(only?: readonly number[]): Promise<Snapshot> {
    const units = this.#table.packed(only ?? this.#table.every).units;
    const live = this.#state.weights;
    const reading = this.#record((recorder, borrowed) => {
      const tables = this.#table.compared(units, ({ start, count }) => [start, start, count, 0]);
      const sums = tables.map(({ items }) => borrowed.take(items * 16));
      const slices = tables.map(({ table }) => upload(recorder, borrowed, table));
      const [at, to] = [live.windows(), this.#shown.windows()];
      tables.forEach(({ window, items, isAligned }, i) => {
        const [sum, table, a, b] = [sums[i], slices[i], at[window]?.slice, to[window]?.slice];
        if (!sum || !table || !a || !b) return;
        layerDistance(recorder, sum, a, b, table, items, isAligned);
        recorder.read(sum);
      });
      if (only) for (const unit of units) this.#copyUnits(recorder, unit, live, this.#shown);
      else copySet(recorder, live, this.#shown);
      return tables;
    });
    this.#version += 1;
    const version = this.#version;
    const measured = this.#measure(units, reading.made, reading.read);
    this.#measured = measured.catch(() => this.#progress.slice()); // whoever asked for the snapshot has the error
    await measured;
    return { version, squaredNorm: [...this.#squaredNorm], progress: [...this.#progress] };
  }

  async serve(request: {
    kind: StoredKind;
    units: readonly number[];
    format: LayerFormat;
  }): Promise<{ version: number; progress: number[]; tensors: Tensors }> {
    const { kind, units, format } = request;
    const set = this.#setOf(kind);
    const lost = isCoded(format) ? await this.#lostOf('weights') : null;
    const version = this.#version;
    const measured = this.#measured;
    const packed = this.#table.packed(units);
    const tensors = await this.#encoded(packed, format, lost, (recorder, _, to) =>
      gather(recorder, this.#table, packed, set, to),
    );
    const progress = await measured;
    return { version, progress: units.map((unit) => progress[unit] ?? 0), tensors };
  }

  async receive(
    { units, format }: { units: readonly number[]; format: LayerFormat },
    tensors: Tensors,
  ): Promise<{ part: number; units: Received[] }> {
    const packed = this.#table.packed(units);
    checkEncoded(format, packed.count, tensors);
    const slice = this.#gpu.pool.take(packed.count * 4);
    try {
      const reading = this.#record((recorder, borrowed) => {
        const tables = this.#table.compared(units, ({ start, count, at }, _, place) => [
          (packed.starts[place] ?? 0) + at,
          start,
          count,
          0,
        ]);
        const slices = tables.map(({ table }) => upload(recorder, borrowed, table));
        decode(recorder, borrowed, slice, packed.count, format, tensors);
        const shown = this.#shown.windows();
        tables.forEach(({ window, items, isAligned }, i) => {
          const [table, b] = [slices[i], shown[window]?.slice];
          if (!table || !b) return;
          const sums = borrowed.take(items * 16);
          layerDistance(recorder, sums, slice, b, table, items, isAligned);
          recorder.read(sums);
        });
        return tables;
      });
      const found = this.#sumUp(reading.made, await reading.read, units.length);
      if (this.#isReleased) throw new MeshError('no-stage', 'The stage was closed meanwhile.', 'Open it again.');
      const part = (this.#lastPart += 1);
      this.#parts.set(part, { slice, packed });
      return { part, units: found };
    } catch (cause) {
      this.#gpu.pool.release(slice);
      throw cause;
    }
  }

  async merge(mixes: readonly StoreMix[]): Promise<{ version: number }> {
    this.#table.packed(mixes.map(({ unit }) => unit)); // each once
    for (const { unit, from } of mixes)
      for (const { part, coefficient } of from) {
        startOf(this.#part(part), unit);
        if (Number.isFinite(coefficient)) continue;
        throw new MeshError(
          'malformed',
          `Unit ${unit} comes with a coefficient of ${coefficient}.`,
          'Give finite ones.',
        );
      }
    const wanted = mixes.filter(({ from }) => from.length > 0);
    if (wanted.length === 0) return { version: this.#version };
    const { read } = this.#record((recorder, borrowed) => recordMerge(recorder, borrowed, this.#sides, wanted));
    return this.#changed(read);
  }

  drop(parts: readonly number[]): void {
    for (const number of parts) {
      const part = this.#parts.get(number);
      if (part) this.#gpu.pool.release(part.slice);
      this.#parts.delete(number);
    }
  }

  async outerGradient(units: readonly number[], format: LayerFormat): Promise<Tensors> {
    const sides = this.#outerSides;
    const packed = this.#table.packed(units);
    const lost = isCoded(format) ? await this.#lostOf('outer') : null;
    return this.#encoded(packed, format, lost, (recorder, borrowed, to) =>
      recordOuterGradient(recorder, borrowed, sides, packed, to),
    );
  }

  async outerStep(step: OuterStep): Promise<{ version: number }> {
    const { read } = this.#record((recorder, borrowed) => recordOuterStep(recorder, borrowed, this.#outerSides, step));
    return this.#changed(read);
  }

  async load({ kind, units }: { kind: StoredKind; units: readonly number[] }, tensors: Tensors): Promise<void> {
    const packed = this.#table.packed(units);
    checkEncoded('f32', packed.count, tensors);
    const data = tensors.get('data')?.data;
    if (!data || !isFinite32(data)) throw notFinite('The weights to take over');
    const set = this.#setOf(kind);
    const others = kind === 'weights' ? [this.#state.weights, ...(this.#outer ? [this.#outer.slow] : [])] : [];
    const reading = this.#record((recorder, borrowed) => {
      const from = borrowed.take(packed.count * 4);
      recorder.write(from, data);
      for (const to of [set, ...others]) scatter(recorder, this.#table, packed, from, to);
    });
    await this.#changed(reading.read);
  }

  async #changed(done: Promise<unknown>): Promise<{ version: number }> {
    this.#version += 1;
    this.#state.touch();
    const version = this.#version;
    await done;
    return { version };
  }

  #record<T>(record: (recorder: Recorder, borrowed: Borrowed) => T): {
    made: T;
    read: Promise<Uint8Array<ArrayBuffer>[]>;
  } {
    const borrowed = new Borrowed(this.#gpu.pool);
    const made: T[] = [];
    try {
      const read = this.#gpu.submit((recorder) => void made.push(record(recorder, borrowed)));
      return { made: made[0] as T, read };
    } finally {
      borrowed.release();
    }
  }

  async #measure(
    units: readonly number[],
    tables: readonly { owners: readonly number[] }[],
    read: Promise<Uint8Array<ArrayBuffer>[]>,
  ): Promise<Float64Array> {
    const found = this.#sumUp(tables, await read, units.length);
    if (found.some(({ isFinite }) => !isFinite)) throw notFinite('The weights of this stage');
    found.forEach(({ squaredDistance, squaredNorm }, i) => {
      const unit = units[i] ?? 0;
      this.#progress[unit] = (this.#progress[unit] ?? 0) + squaredDistance;
      this.#squaredNorm[unit] = squaredNorm;
    });
    return this.#progress.slice();
  }

  /** By the place of each unit in the list that the tables were made for. */
  #sumUp(
    tables: readonly { owners: readonly number[] }[],
    read: readonly Uint8Array<ArrayBuffer>[],
    units: number,
  ): Received[] {
    const found = Array.from({ length: units }, () => ({ isFinite: true, squaredDistance: 0, squaredNorm: 0 }));
    tables.forEach(({ owners }, t) => {
      const bytes = read[t];
      if (!bytes) return;
      const sums = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
      const flags = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
      owners.forEach((owner, i) => {
        const into = found[owner];
        if (!into) return;
        into.squaredDistance += sums[i * 4] ?? 0;
        into.squaredNorm += sums[i * 4 + 1] ?? 0;
        if (flags[i * 4 + 2] !== 0) into.isFinite = false;
      });
    });
    // Finite values whose squares are not: as far away as can be told.
    for (const into of found) {
      if (!Number.isFinite(into.squaredDistance)) into.squaredDistance = Number.MAX_VALUE;
      if (!Number.isFinite(into.squaredNorm)) into.squaredNorm = Number.MAX_VALUE;
    }
    return found;
  }

  /** Records what fills a packed list, and its encoding; `lost` is brought up to date. */
  async #encoded(
    packed: PackedUnits,
    format: LayerFormat,
    lost: TensorSet | null,
    fill: (recorder: Recorder, borrowed: Borrowed, to: Slice) => void,
  ): Promise<Tensors> {
    const { count } = packed;
    const { read } = this.#record((recorder, borrowed) => {
      const x = borrowed.take(count * 4);
      fill(recorder, borrowed, x);
      const e = lost ? borrowed.take(count * 4) : null;
      if (lost && e) gather(recorder, this.#table, packed, lost, e);
      encode(recorder, borrowed, x, count, format, e);
      if (lost && e) scatter(recorder, this.#table, packed, e, lost);
    });
    return encodedTensors(format, count, await read);
  }

  async #lostOf(what: 'weights' | 'outer'): Promise<TensorSet> {
    const known = this.#lost.get(what);
    if (known) return known;
    const made = TensorSet.take(this.#gpu, this.#state.weights.layout);
    this.#lost.set(what, made);
    await this.#gpu.submit((recorder) => made.clear(recorder));
    return made;
  }

  #copyUnits(recorder: Recorder, unit: number, from: TensorSet, to: TensorSet): void {
    for (const { name, start, count } of this.#table.places[unit] ?? []) {
      const [a, b] = [from.get(name), to.get(name)];
      const part = (slice: Slice): Slice => ({ ...slice, offset: slice.offset + start * 4, bytes: count * 4 });
      recorder.copy(part(a), part(b), count * 4);
    }
  }

  #setOf(kind: StoredKind): TensorSet {
    switch (kind) {
      case 'weights':
        return this.#shown;
      case 'slow':
        return this.#outerSides.slow;
      case 'momentum':
        return this.#outerSides.momentum;
      default:
        return kind satisfies never;
    }
  }

  get #sides(): Sides {
    const { weights: live } = this.#state;
    return { table: this.#table, live, shown: this.#shown, part: (number) => this.#part(number) };
  }

  get #outerSides(): OuterSides {
    if (this.#outer) return { ...this.#sides, ...this.#outer };
    throw new MeshError('usage', 'This stage keeps no slow weights.', 'Open it for low-communication training.');
  }

  #part(number: number): Part {
    const part = this.#parts.get(number);
    if (!part) throw new MeshError('stale', `There is no part ${number}.`, 'Receive it first.');
    return part;
  }
}

const isCoded = (format: LayerFormat): boolean => format === 'int8' || format === 'int4';

function copySet(recorder: Recorder, from: TensorSet, to: TensorSet): void {
  from.slabs.forEach((slab, i) => {
    const into = to.slabs[i];
    if (into) recorder.copy(slab, into, slab.bytes);
  });
}
