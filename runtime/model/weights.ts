// Sets of tensors on the GPU: the parameters of a stage, its gradients, its moments, all laid out alike in a few slabs so that
// one dispatch serves a whole slab. Writing and merging check first and change nothing when a check fails.
//
//   slab   [ layers.0.weight ···|pad][ layers.0.bias ·|pad][ … ]    each at a multiple of 256 bytes; padding is zero and stays so
import type { ParameterInfo } from '../compute.ts';
import { MeshError } from '../errors.ts';
import { Borrowed, mebibytes, type Slice } from '../gpu/buffers.ts';
import type { Gpu, Recorder } from '../gpu/gpu.ts';
import { finiteCheck, weightedSum } from '../gpu/ops.ts';
import { byteLength, sameShape, type Tensor, type Tensors } from '../tensor.ts';

const ALIGN = 256;
/** Parts of a merge that lie on the GPU at once. */
const MERGE_BYTES = 32 * 2 ** 20;

export interface Entry {
  name: string;
  shape: readonly number[];
  slab: number;
  offset: number;
  bytes: number;
}

export interface Layout {
  entries: readonly Entry[];
  /** Bytes of each slab. */
  slabs: readonly number[];
}

/** Packs parameters into slabs of at most `maxBytes`. Throws `out-of-memory` where one parameter alone is larger. */
export function layoutOf(parameters: readonly ParameterInfo[], maxBytes: number): Layout {
  const entries: Entry[] = [];
  const slabs: number[] = [];
  for (const { name, shape } of parameters) {
    const bytes = byteLength({ dtype: 'f32', shape });
    const padded = Math.ceil(bytes / ALIGN) * ALIGN;
    if (padded > maxBytes)
      throw new MeshError(
        'out-of-memory',
        `${name} (${shape.join(', ')}) needs ${mebibytes(bytes)} in one piece, and this GPU binds at most ${mebibytes(maxBytes)}.`,
        'Make this layer narrower, or host the stage on a GPU with higher limits.',
      );
    const used = slabs.at(-1);
    if (used === undefined || used + padded > maxBytes) slabs.push(0);
    const slab = slabs.length - 1;
    const offset = slabs[slab] ?? 0;
    entries.push({ name, shape, slab, offset, bytes });
    slabs[slab] = offset + padded;
  }
  return { entries, slabs };
}

/** One value for each parameter. */
export class TensorSet {
  readonly layout: Layout;
  readonly slabs: readonly Slice[];
  readonly #byName = new Map<string, Slice>();

  constructor(layout: Layout, slabs: readonly Slice[]) {
    this.layout = layout;
    this.slabs = slabs;
    for (const entry of layout.entries) this.#byName.set(entry.name, this.at(entry));
  }

  /** Zeroed by the caller, before first use. */
  static take(gpu: Gpu, layout: Layout): TensorSet {
    const slabs: Slice[] = [];
    try {
      for (const bytes of layout.slabs) slabs.push(gpu.pool.take(bytes));
    } catch (cause) {
      for (const slab of slabs) gpu.pool.release(slab);
      throw cause;
    }
    return new TensorSet(layout, slabs);
  }

  at({ slab, offset, bytes }: Entry): Slice {
    const whole = this.slabs[slab];
    if (whole === undefined) throw new MeshError('internal', `There is no slab ${slab}.`, 'Please report this defect.');
    return { buffer: whole.buffer, offset: whole.offset + offset, bytes };
  }

  get(name: string): Slice {
    const slice = this.#byName.get(name);
    if (slice === undefined)
      throw new MeshError('internal', `There is no parameter ${name}.`, 'Please report this defect.');
    return slice;
  }

  clear(recorder: Recorder): void {
    for (const slab of this.slabs) recorder.clear(slab);
  }

  release(gpu: Gpu): void {
    for (const slab of this.slabs) gpu.pool.release(slab);
  }
}

/** Throws `malformed` unless `tensors` holds exactly the named f32 tensors. */
export function checkTensors(expected: readonly { name: string; shape: readonly number[] }[], tensors: Tensors): void {
  const known = new Set(expected.map(({ name }) => name));
  const missing = expected.filter(({ name }) => !tensors.has(name)).map(({ name }) => name);
  const unknown = [...tensors.keys()].filter((name) => !known.has(name));
  if (missing.length > 0) throw mismatch(`${list(missing)} missing`);
  if (unknown.length > 0) throw mismatch(`${list(unknown)} unknown to this stage`);
  for (const { name, shape } of expected) {
    const tensor = tensors.get(name);
    if (tensor !== undefined) checkTensor(name, tensor, shape);
  }
}

export function checkTensor(
  name: string,
  tensor: Tensor,
  shape: readonly number[],
  dtype: 'f32' | 'i32' = 'f32',
): void {
  if (tensor.dtype !== dtype) throw mismatch(`${name} is ${tensor.dtype}, not ${dtype}`);
  if (!sameShape(tensor.shape, shape))
    throw mismatch(`${name} is (${tensor.shape.join(', ')}), not (${shape.join(', ')})`);
  if (tensor.data.byteLength !== byteLength(tensor))
    throw mismatch(`${name} holds ${tensor.data.byteLength} bytes, its shape needs ${byteLength(tensor)}`);
}

const list = (names: readonly string[]): string =>
  `${names.slice(0, 3).join(', ')}${names.length > 3 ? ` and ${names.length - 3} more` : ''} ${names.length === 1 ? 'is' : 'are'}`;

const mismatch = (what: string): MeshError =>
  new MeshError(
    'malformed',
    `The tensors do not fit: ${what}.`,
    'Send the tensors of this very stage: same model, same span of layers.',
  );

const notFinite = (what: string): MeshError =>
  new MeshError(
    'not-finite',
    `${what} hold NaN or infinity; nothing was changed.`,
    'Discard them, and lower the learning rate if it recurs.',
  );

/** Tensors of a set, `suffix` added to their names. Copies: later changes do not show. */
export async function readSets(
  gpu: Gpu,
  sets: readonly { suffix: string; set: TensorSet }[],
): Promise<Map<string, Tensor>> {
  const bytes = await Promise.all(
    sets.flatMap(({ set }) => set.slabs.map((slab) => gpu.submit((recorder) => recorder.read(slab)))),
  );
  const slabs = bytes.flat();
  const tensors = new Map<string, Tensor>();
  let first = 0;
  for (const { suffix, set } of sets) {
    for (const { name, shape, slab, offset, bytes: length } of set.layout.entries) {
      const whole = slabs[first + slab];
      if (whole !== undefined)
        tensors.set(name + suffix, { dtype: 'f32', shape, data: whole.subarray(offset, offset + length) });
    }
    first += set.slabs.length;
  }
  return tensors;
}

/** Replaces whole sets, or nothing: the new values are checked on the GPU before they are copied into place. */
export async function writeSets(
  gpu: Gpu,
  sets: readonly { suffix: string; set: TensorSet }[],
  tensors: Tensors,
): Promise<void> {
  const borrowed = new Borrowed(gpu.pool);
  try {
    const moves: { from: Slice; to: Slice }[] = [];
    const flag = borrowed.take(4);
    const [found] = await gpu.submit((recorder) => {
      recorder.clear(flag);
      for (const { suffix, set } of sets) {
        for (const entry of set.layout.entries) {
          const tensor = tensors.get(entry.name + suffix);
          if (tensor === undefined) throw mismatch(`${entry.name}${suffix} is missing`);
          const from = borrowed.take(entry.bytes);
          recorder.write(from, tensor.data);
          finiteCheck(recorder, flag, from, entry.bytes / 4);
          moves.push({ from, to: set.at(entry) });
        }
      }
      recorder.read(flag);
    });
    if (found?.[0] !== 0) throw notFinite('The new values');
    await gpu.submit((recorder) => {
      for (const { from, to } of moves) recorder.copy(from, to, to.bytes);
    });
  } finally {
    borrowed.release();
  }
}

/** set = [set +] Σ c[p] · parts[p], or nothing where a part or the result is not finite. */
export async function combineInto(
  gpu: Gpu,
  set: TensorSet,
  parts: readonly Tensors[],
  coefficients: readonly number[],
  isAdding: boolean,
): Promise<void> {
  const borrowed = new Borrowed(gpu.pool);
  try {
    const flag = borrowed.take(4);
    const factors = borrowed.take(parts.length * 4);
    const results = set.slabs.map((slab) => borrowed.take(slab.bytes));
    const next = new TensorSet(set.layout, results);
    await gpu.submit((recorder) => {
      recorder.clear(flag);
      recorder.write(factors, new Uint8Array(Float32Array.from(coefficients).buffer));
      results.forEach((result, i) => {
        const slab = set.slabs[i];
        if (slab !== undefined) recorder.copy(slab, result, slab.bytes);
      });
    });
    // Pieces of a parameter, short enough for all parts of a piece to lie on the GPU together.
    const stride = Math.max(64, Math.floor(MERGE_BYTES / 4 / parts.length / 64) * 64);
    for (const entry of set.layout.entries) {
      for (let start = 0; start < entry.bytes / 4; start += stride) {
        const count = Math.min(stride, entry.bytes / 4 - start);
        const packed = borrowed.take(count * parts.length * 4);
        const whole = next.at(entry);
        const target = { ...whole, offset: whole.offset + start * 4, bytes: count * 4 };
        const merged = gpu.submit((recorder) => {
          parts.forEach((part, p) => {
            const data = part.get(entry.name)?.data.subarray(start * 4, (start + count) * 4);
            if (data !== undefined) recorder.write({ ...packed, offset: p * count * 4 }, data);
          });
          finiteCheck(recorder, flag, packed, count * parts.length);
          weightedSum(recorder, isAdding, target, packed, factors, { count, parts: parts.length, stride: count });
          finiteCheck(recorder, flag, target, count);
        });
        borrowed.give(packed);
        await merged;
      }
    }
    const [found] = await gpu.submit((recorder) => recorder.read(flag));
    if (found?.[0] !== 0) throw notFinite('The parts of this merge, or its result,');
    await gpu.submit((recorder) => {
      results.forEach((result, i) => {
        const slab = set.slabs[i];
        if (slab !== undefined) recorder.copy(result, slab, slab.bytes);
      });
    });
  } finally {
    borrowed.release();
  }
}
