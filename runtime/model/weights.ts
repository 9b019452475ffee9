// Sets of tensors on the GPU: the parameters of a stage, its gradients, its moments, all laid out alike in a few slabs so that
// one dispatch serves a whole slab. Writing checks first and changes nothing when a check fails; merging is merge.ts.
//
//   slab   [ layers.0.weight ···|pad][ layers.0.bias ·|pad][ … ]    each at a multiple of 256 bytes; padding is zero and stays so
import type { ParameterInfo } from '../compute.ts';
import { MeshError } from '../errors.ts';
import { STORAGE, mebibytes, type Slice } from '../gpu/buffers.ts';
import type { Gpu, Recorder } from '../gpu/gpu.ts';
import { isFinite32 } from './inputs.ts';
import { byteLength, sameShape, type Tensor, type Tensors } from '../tensor.ts';

const ALIGN = 256;

export interface Entry {
  name: string;
  shape: readonly number[];
  slab: number;
  offset: number;
  bytes: number;
}

interface Slab {
  bytes: number;
  group: string;
}

export interface Layout {
  entries: readonly Entry[];
  slabs: readonly Slab[];
  /** Bytes of a slab that a kernel sees at once, a multiple of 256. */
  maxBinding: number;
}

export interface Limits {
  maxStorageBufferBindingSize: number;
  maxBufferSize: number;
}

/** Which parameters share a slab: those of equal `group`. Which may be larger than a binding: those that kernels see in windows. */
export interface Packing {
  group?: (parameter: ParameterInfo) => string;
  isWindowed?: (parameter: ParameterInfo) => boolean;
}

/**
 * Packs parameters into slabs that one binding can hold; a parameter that is larger has a slab of its own. Throws `out-of-memory`
 * where the device cannot have or bind one.
 */
export function layoutOf(
  parameters: readonly ParameterInfo[],
  limits: Limits,
  { group = () => '', isWindowed = () => false }: Packing = {},
): Layout {
  const entries: Entry[] = [];
  const slabs: Slab[] = [];
  const maxBytes = Math.floor(limits.maxStorageBufferBindingSize / ALIGN) * ALIGN;
  for (const parameter of parameters) {
    const { name, shape } = parameter;
    const bytes = byteLength({ dtype: 'f32', shape });
    const padded = Math.ceil(bytes / ALIGN) * ALIGN;
    const most = isWindowed(parameter) ? limits.maxBufferSize : maxBytes;
    if (padded > most)
      throw new MeshError(
        'out-of-memory',
        `${name} (${shape.join(', ')}) needs ${mebibytes(bytes)} in one piece, and this GPU allows ${mebibytes(most)}.`,
        'Make this layer narrower, or host the stage on a GPU with higher limits.',
      );
    const own = group(parameter);
    let slab = slabs.findLastIndex((one) => one.group === own);
    if (slab < 0 || (slabs[slab]?.bytes ?? 0) + padded > maxBytes) slab = slabs.push({ bytes: 0, group: own }) - 1;
    const at = slabs[slab];
    if (at === undefined) continue;
    entries.push({ name, shape, slab, offset: at.bytes, bytes });
    at.bytes += padded;
  }
  return { entries, slabs, maxBinding: maxBytes };
}

/** Pieces of a range that one binding can hold each. */
export function bindable(whole: Slice, maxBinding: number): Slice[] {
  return Array.from({ length: Math.ceil(whole.bytes / maxBinding) }, (_, i) => {
    const start = i * maxBinding;
    return { buffer: whole.buffer, offset: whole.offset + start, bytes: Math.min(maxBinding, whole.bytes - start) };
  });
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
      for (const { bytes } of layout.slabs) slabs.push(gpu.pool.take(bytes, STORAGE, true));
    } catch (cause) {
      for (const slab of slabs) gpu.pool.release(slab);
      throw cause;
    }
    return new TensorSet(layout, slabs);
  }

  /** All of it in pieces that kernels can bind, cut alike in every set of this layout. */
  windows(): { slice: Slice; group: string }[] {
    return this.layout.slabs.flatMap(({ group }, i) => {
      const slab = this.slabs[i];
      return slab === undefined ? [] : bindable(slab, this.layout.maxBinding).map((slice) => ({ slice, group }));
    });
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

export const notFinite = (what: string): MeshError =>
  new MeshError(
    'not-finite',
    `${what} hold NaN or infinity; nothing was changed.`,
    'Discard them, and lower the learning rate if it recurs.',
  );

/** Tensors of a set, `suffix` added to their names. Copies: later changes do not show. */
export async function readSets(
  gpu: Gpu,
  sets: readonly { suffix: string; set: TensorSet }[],
  names?: readonly string[],
): Promise<Map<string, Tensor>> {
  if (names !== undefined) return readNamed(gpu, sets, new Set(names));
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

async function readNamed(
  gpu: Gpu,
  sets: readonly { suffix: string; set: TensorSet }[],
  names: ReadonlySet<string>,
): Promise<Map<string, Tensor>> {
  const found = sets.flatMap(({ suffix, set }) =>
    set.layout.entries
      .filter(({ name }) => names.has(name + suffix))
      .map((entry) => ({ name: entry.name + suffix, shape: entry.shape, slice: set.at(entry) })),
  );
  const known = new Set(found.map(({ name }) => name));
  const unknown = [...names].filter((name) => !known.has(name));
  if (unknown.length > 0) throw mismatch(`${list(unknown)} unknown to this stage`);
  const bytes = await gpu.submit((recorder) => found.forEach(({ slice }) => recorder.read(slice)));
  return new Map(
    found.map(({ name, shape }, i) => [name, { dtype: 'f32', shape, data: bytes[i] ?? new Uint8Array(0) }]),
  );
}

/** Replaces whole sets, or nothing: values are checked here, because on the GPU a whole model would have to lie twice. */
export async function writeSets(
  gpu: Gpu,
  sets: readonly { suffix: string; set: TensorSet }[],
  tensors: Tensors,
): Promise<void> {
  const moves = sets.flatMap(({ suffix, set }) =>
    set.layout.entries.map((entry) => {
      const tensor = tensors.get(entry.name + suffix);
      if (tensor === undefined) throw mismatch(`${entry.name}${suffix} is missing`);
      return { data: tensor.data, to: set.at(entry) };
    }),
  );
  if (!moves.every(({ data }) => isFinite32(data))) throw notFinite('The new values');
  // One at a time: all of a large model at once would lie twice in this thread's memory.
  for (const { data, to } of moves) await gpu.submit((recorder) => recorder.write(to, data));
}
