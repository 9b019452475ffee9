// Activations and their gradients on the wire in fewer bytes: f16 with one power of two for the tensor, or int8 with one scale for each
// 64 values. Pure. What is lost is bounded: see `encodeActivation`. Integers, targets and weights travel as they are.
import { z } from 'zod';
import { MeshError } from '../errors.ts';
import { elements, f32Of, f32Tensor, type Tensor, type Tensors } from '../tensor.ts';

export const wireFormatSchema = z.enum(['f32', 'f16', 'int8']);
export type WireFormat = z.infer<typeof wireFormatSchema>;

/** Values that share a scale. A row of 128 to 512 normal values, as one block, has 1.1 to 1.3 times the error for 3 to 5 % fewer bytes. */
export const BLOCK = 64;
const INT8_MAX = 127;
/** The largest value of an f16 tensor is scaled to lie in 2^14 … 2^15, half of what f16 holds. */
const TOP_EXPONENT = 14;
/** Bits of f16, 13 places up, are an f32 that is this much smaller: subnormals too. */
const REBIAS = 2 ** 112;
const INFINITE_BITS = 0x7f800000;
/** Values to a pass over scratch memory that stays in the cache. */
const CHUNK = 1024;
/** Added and taken away again it rounds a double to the nearest whole number, ties to even. */
const ROUND = 1.5 * 2 ** 52;

const scaleName = (name: string): string => `${name}.scale`;

/**
 * The tensors that stand for `name` on the wire: f32 itself; or `name` in f16 or i8, and `name.scale` f32, (1) or (blocks), by which its
 * values are multiplied. Let m be the largest magnitude of the tensor, or of a value's block of 64, in row-major order. Error of a
 * value: f16 at most 2^-11 of it, or 2^-39 · m where that is more; int8 at most m / 254 (both but for the rounding of f32 itself, which
 * makes infinity of what lies above 2^127). Throws `not-finite`; f32 is not looked at, because the stage that gets it does so.
 */
export function encodeActivation(name: string, tensor: Tensor, format: WireFormat): [string, Tensor][] {
  if (format === 'f32') return [[name, tensor]];
  const values = f32Of(tensor);
  const { data, scales } = format === 'f16' ? toF16(name, values) : toInt8(name, values);
  return [
    [name, { dtype: format === 'f16' ? 'f16' : 'i8', shape: tensor.shape, data }],
    [scaleName(name), f32Tensor([scales.length], scales)],
  ];
}

/** What came as `name`, as f32 in memory of its own; f32 and integers as they came. Throws `malformed` or `not-finite`. */
export function decodeActivation(name: string, tensors: Tensors): Tensor | undefined {
  const tensor = tensors.get(name);
  if (tensor?.dtype !== 'f16' && tensor?.dtype !== 'i8') return tensor;
  const scale = tensors.get(scaleName(name));
  const count = elements(tensor.shape);
  const blocks = tensor.dtype === 'f16' ? 1 : Math.ceil(count / BLOCK);
  if (scale?.dtype !== 'f32' || scale.shape.length !== 1 || scale.shape[0] !== blocks)
    throw new MeshError(
      'malformed',
      `Tensor ${name} is ${tensor.dtype} of ${count} values, and its scales are ${scale?.dtype ?? 'missing'} (${scale?.shape.join(', ') ?? ''}), not f32 (${blocks}).`,
      'Check that both peers run the same version.',
    );
  const scales = f32Of(scale);
  if (!scales.every(Number.isFinite)) throw notFinite(name);
  const values = tensor.dtype === 'f16' ? fromF16(name, tensor, scales[0] ?? 1) : fromInt8(tensor, scales);
  return f32Tensor(tensor.shape, values);
}

interface Encoded {
  data: Uint8Array<ArrayBuffer>;
  scales: Float32Array<ArrayBuffer>;
}

function toF16(name: string, values: Float32Array<ArrayBuffer>): Encoded {
  const bits = new Int32Array(values.buffer, values.byteOffset, values.length);
  let largest = 0;
  for (let i = 0; i < bits.length; i += 1) {
    const magnitude = (bits[i] ?? 0) & 0x7fffffff;
    if (magnitude > largest) largest = magnitude;
  }
  if (largest >= INFINITE_BITS) throw notFinite(name);
  const exponent = (largest >>> 23) - 127;
  const factor = 2 ** (TOP_EXPONENT - exponent) / REBIAS;
  const words = new Uint16Array(values.length);
  const scaled = new Float32Array(CHUNK);
  const scaledBits = new Uint32Array(scaled.buffer);
  for (let start = 0; start < values.length; start += CHUNK) {
    const count = Math.min(CHUNK, values.length - start);
    for (let i = 0; i < count; i += 1) scaled[i] = (values[start + i] ?? 0) * factor;
    for (let i = 0; i < count; i += 1) {
      const v = scaledBits[i] ?? 0;
      // Half of the last place, less one where it is even: to nearest, ties to even.
      words[start + i] = ((v >>> 16) & 0x8000) | (((v & 0x7fffffff) + 0xfff + ((v >>> 13) & 1)) >>> 13);
    }
  }
  return { data: new Uint8Array(words.buffer), scales: Float32Array.of(2 ** (exponent - TOP_EXPONENT)) };
}

function fromF16(name: string, tensor: Tensor, scale: number): Float32Array<ArrayBuffer> {
  const data = tensor.data.byteOffset % 2 === 0 ? tensor.data : tensor.data.slice();
  const words = new Uint16Array(data.buffer, data.byteOffset, data.byteLength / 2);
  const values = new Float32Array(words.length);
  const bits = new Uint32Array(values.buffer);
  let largest = 0;
  for (let i = 0; i < words.length; i += 1) {
    const word = words[i] ?? 0;
    const magnitude = (word & 0x7fff) << 13;
    if (magnitude > largest) largest = magnitude;
    bits[i] = ((word & 0x8000) << 16) | magnitude;
  }
  if (largest >= 0x7c00 << 13) throw notFinite(name);
  const factor = scale * REBIAS;
  for (let i = 0; i < values.length; i += 1) values[i] = (values[i] ?? 0) * factor;
  return values;
}

function toInt8(name: string, values: Float32Array<ArrayBuffer>): Encoded {
  const whole = new Int8Array(values.length);
  const scales = new Float32Array(Math.ceil(values.length / BLOCK));
  for (let start = 0, block = 0; start < values.length; start += BLOCK, block += 1) {
    const end = Math.min(start + BLOCK, values.length);
    let largest = 0;
    for (let i = start; i < end; i += 1) {
      const magnitude = Math.abs(values[i] ?? 0);
      if (!(magnitude < Infinity)) throw notFinite(name); // NaN is not less than anything
      if (magnitude > largest) largest = magnitude;
    }
    scales[block] = largest / INT8_MAX;
    const factor = largest > 0 ? INT8_MAX / largest : 0;
    for (let i = start; i < end; i += 1) whole[i] = (values[i] ?? 0) * factor + ROUND - ROUND;
  }
  return { data: new Uint8Array(whole.buffer), scales };
}

function fromInt8({ data }: Tensor, scales: Float32Array): Float32Array<ArrayBuffer> {
  const whole = new Int8Array(data.buffer, data.byteOffset, data.byteLength);
  const values = new Float32Array(whole.length);
  for (let start = 0, block = 0; start < whole.length; start += BLOCK, block += 1) {
    const scale = scales[block] ?? 0;
    const end = Math.min(start + BLOCK, whole.length);
    for (let i = start; i < end; i += 1) values[i] = (whole[i] ?? 0) * scale;
  }
  return values;
}

const notFinite = (name: string): MeshError =>
  new MeshError('not-finite', `${name} holds NaN or infinity.`, 'Discard this microbatch; its sender has diverged.');
