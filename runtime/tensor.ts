// A tensor as it lies in memory, on the wire and in files: dtype, shape, raw little-endian bytes. No arithmetic here.
import { MeshError } from './errors.ts';

/** Bytes of one element. The names are those of safetensors, in lower case. */
export const DTYPE_BYTES = {
  f64: 8,
  f32: 4,
  f16: 2,
  bf16: 2,
  i64: 8,
  i32: 4,
  u32: 4,
  i16: 2,
  u16: 2,
  i8: 1,
  u8: 1,
  bool: 1,
} as const;

export type DType = keyof typeof DTYPE_BYTES;

export interface Tensor {
  readonly dtype: DType;
  readonly shape: readonly number[];
  /** Little-endian, row-major, `elements(shape) * DTYPE_BYTES[dtype]` bytes. May be a view into a larger buffer. */
  readonly data: Uint8Array<ArrayBuffer>;
}

export type Tensors = ReadonlyMap<string, Tensor>;

export const elements = (shape: readonly number[]): number => shape.reduce((product, size) => product * size, 1);

export const byteLength = (tensor: { dtype: DType; shape: readonly number[] }): number =>
  elements(tensor.shape) * DTYPE_BYTES[tensor.dtype];

const bytesOf = (array: Float32Array<ArrayBuffer> | Int32Array<ArrayBuffer>): Uint8Array<ArrayBuffer> =>
  new Uint8Array(array.buffer, array.byteOffset, array.byteLength);

export function f32Tensor(shape: readonly number[], values: Float32Array<ArrayBuffer>): Tensor {
  return checked({ dtype: 'f32', shape, data: bytesOf(values) });
}

export function i32Tensor(shape: readonly number[], values: Int32Array<ArrayBuffer>): Tensor {
  return checked({ dtype: 'i32', shape, data: bytesOf(values) });
}

/** The values of an f32 tensor; a copy only where the bytes are not aligned to 4. */
export function f32Of(tensor: Tensor): Float32Array<ArrayBuffer> {
  if (tensor.dtype !== 'f32') throw wrongDtype('f32', tensor.dtype);
  const data = aligned(tensor.data);
  return new Float32Array(data.buffer, data.byteOffset, data.byteLength / 4);
}

/** The values of an i32 tensor; a copy only where the bytes are not aligned to 4. */
export function i32Of(tensor: Tensor): Int32Array<ArrayBuffer> {
  if (tensor.dtype !== 'i32') throw wrongDtype('i32', tensor.dtype);
  const data = aligned(tensor.data);
  return new Int32Array(data.buffer, data.byteOffset, data.byteLength / 4);
}

export const sameShape = (a: readonly number[], b: readonly number[]): boolean =>
  a.length === b.length && a.every((size, i) => size === b[i]);

function checked(tensor: Tensor): Tensor {
  if (tensor.data.byteLength !== byteLength(tensor))
    throw new MeshError(
      'malformed',
      `A ${tensor.dtype} tensor of shape (${tensor.shape.join(', ')}) needs ${byteLength(tensor)} bytes, not ${tensor.data.byteLength}.`,
      'Give as many values as the shape says.',
    );
  return tensor;
}

const aligned = (data: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> =>
  data.byteOffset % 4 === 0 ? data : data.slice();

const wrongDtype = (wanted: DType, got: DType): MeshError =>
  new MeshError('malformed', `Expected a ${wanted} tensor and got ${got}.`, `Convert the tensor to ${wanted}.`);
