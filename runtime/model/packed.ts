// Packed lists of units on the GPU: gathered from sets of tensors and scattered back, and in the formats in which they travel.
import { MeshError } from '../errors.ts';
import type { Borrowed, Slice } from '../gpu/buffers.ts';
import { fromHalf, toHalf } from '../gpu/elementwise.ts';
import type { Recorder } from '../gpu/gpu.ts';
import { blockDequantise, blockQuantise, type BlockBits } from '../gpu/layers.ts';
import { BLOCK, type LayerFormat } from '../layer-store.ts';
import { sameShape, type DType, type Tensor, type Tensors } from '../tensor.ts';
import type { PackedUnits, UnitTable } from './unit-table.ts';
import type { TensorSet } from './weights.ts';

const within = (slice: Slice, start: number, count: number): Slice => ({
  buffer: slice.buffer,
  offset: slice.offset + start * 4,
  bytes: count * 4,
});

/** to (count) = the units of a set, padding zero. `to` may be part of a larger buffer. */
export function gather(recorder: Recorder, table: UnitTable, packed: PackedUnits, from: TensorSet, to: Slice): void {
  recorder.clear(within(to, 0, packed.count));
  packed.units.forEach((unit, i) => {
    const base = packed.starts[i] ?? 0;
    for (const { name, start, count, at } of table.places[unit] ?? [])
      recorder.copy(within(from.get(name), start, count), within(to, base + at, count), count * 4);
  });
}

/** The other way. */
export function scatter(recorder: Recorder, table: UnitTable, packed: PackedUnits, from: Slice, to: TensorSet): void {
  packed.units.forEach((unit, i) => {
    const base = packed.starts[i] ?? 0;
    for (const { name, start, count, at } of table.places[unit] ?? [])
      recorder.copy(within(from, base + at, count), within(to.get(name), start, count), count * 4);
  });
}

/** Copies one unit between packed buffers. */
export function copyUnit(
  recorder: Recorder,
  count: number,
  from: { slice: Slice; start: number },
  to: { slice: Slice; start: number },
): void {
  recorder.copy(within(from.slice, from.start, count), within(to.slice, to.start, count), count * 4);
}

const bitsOf = (format: LayerFormat): BlockBits | null => (format === 'int8' ? 8 : format === 'int4' ? 4 : null);

interface Parts {
  data: { dtype: DType; shape: number[] };
  scale: { dtype: DType; shape: number[] } | null;
}

/** The tensors of `count` packed values (a multiple of 64) in a format. */
function partsOf(format: LayerFormat, count: number): Parts {
  const scale = { dtype: 'f32' as const, shape: [count / BLOCK] };
  switch (format) {
    case 'f32':
      return { data: { dtype: 'f32', shape: [count] }, scale: null };
    case 'f16':
      return { data: { dtype: 'f16', shape: [count] }, scale: null };
    case 'int8':
      return { data: { dtype: 'i8', shape: [count] }, scale };
    case 'int4':
      return { data: { dtype: 'u8', shape: [count / 2] }, scale };
    default:
      return format satisfies never;
  }
}

/** Records the encoding of x (count) and its reading; `e` (count) is what was lost before, of int8 and int4. */
export function encode(
  recorder: Recorder,
  borrowed: Borrowed,
  x: Slice,
  count: number,
  format: LayerFormat,
  e: Slice | null,
): void {
  const bits = bitsOf(format);
  if (format === 'f32') recorder.read(within(x, 0, count));
  else if (bits === null) {
    const half = borrowed.take(count * 2);
    toHalf(recorder, half, x, { count, format: 'f16' });
    recorder.read(half);
  } else if (e !== null) {
    const q = borrowed.take((count * bits) / 8);
    const scale = borrowed.take((count / BLOCK) * 4);
    blockQuantise(recorder, { q, scale, e }, x, count / BLOCK, bits);
    recorder.read(q);
    recorder.read(scale);
  }
}

/** What was read of `encode`, as tensors. */
export function encodedTensors(
  format: LayerFormat,
  count: number,
  read: readonly Uint8Array<ArrayBuffer>[],
): Map<string, Tensor> {
  const { data, scale } = partsOf(format, count);
  const [bytes, scales] = read;
  const tensors = new Map<string, Tensor>([['data', { ...data, data: bytes ?? new Uint8Array(0) }]]);
  if (scale !== null) tensors.set('scale', { ...scale, data: scales ?? new Uint8Array(0) });
  return tensors;
}

/** Throws `malformed` unless the tensors are those of `count` packed values in this format. */
export function checkEncoded(format: LayerFormat, count: number, tensors: Tensors): void {
  const wanted = partsOf(format, count);
  const names = wanted.scale === null ? ['data'] : ['data', 'scale'];
  const found = [...tensors.keys()].filter((name) => !names.includes(name));
  for (const name of names) {
    const part = name === 'data' ? wanted.data : wanted.scale;
    const tensor = tensors.get(name);
    if (part && (tensor?.dtype !== part.dtype || !sameShape(tensor.shape, part.shape)))
      throw malformed(
        `${name} is ${tensor ? `${tensor.dtype} (${tensor.shape.join(', ')})` : 'missing'}, not ${part.dtype} (${part.shape.join(', ')})`,
      );
  }
  if (found.length > 0) throw malformed(`${found.slice(0, 3).join(', ')} is no part of it`);
}

/** Records the upload of checked tensors and their decoding into x (count). Uploads are the first thing in the recording. */
export function decode(
  recorder: Recorder,
  borrowed: Borrowed,
  x: Slice,
  count: number,
  format: LayerFormat,
  tensors: Tensors,
): void {
  const data = tensors.get('data')?.data ?? new Uint8Array(0);
  const bits = bitsOf(format);
  if (format === 'f32') {
    recorder.write(x, data);
    return;
  }
  const coded = borrowed.take(data.byteLength);
  recorder.write(coded, data);
  if (bits === null) {
    fromHalf(recorder, x, coded, { count, format: 'f16' });
    return;
  }
  const scales = tensors.get('scale')?.data ?? new Uint8Array(0);
  const scale = borrowed.take(scales.byteLength);
  recorder.write(scale, scales);
  blockDequantise(recorder, x, coded, scale, count / BLOCK, bits);
}

const malformed = (what: string): MeshError =>
  new MeshError(
    'malformed',
    `The layers do not fit: ${what}.`,
    'Check that both replicas are of the same model, cut into units of the same size.',
  );
