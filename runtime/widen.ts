// Floating-point tensors of other widths as f32, which is what is computed in. Exact from f16 and bf16, rounded to nearest from f64.
import { elements, f32Tensor, type Tensor } from './tensor.ts';

/** f32 for every floating-point tensor; integers come back as they are. Bytes that need no change are not copied. */
export function widened(tensor: Tensor): Tensor {
  const { dtype, shape } = tensor;
  switch (dtype) {
    case 'bf16':
      return f32Tensor(shape, fromBf16(wordsOf(tensor)));
    case 'f16':
      return f32Tensor(shape, fromF16(wordsOf(tensor)));
    case 'f64':
      return f32Tensor(shape, Float32Array.from(new Float64Array(tensor.data.slice().buffer)));
    default:
      return tensor;
  }
}

/** The 16-bit words of it, copied where they are not aligned. */
function wordsOf({ shape, data }: Tensor): Uint16Array<ArrayBuffer> {
  const { buffer, byteOffset } = data.byteOffset % 2 === 0 ? data : data.slice();
  return new Uint16Array(buffer, byteOffset, elements(shape));
}

/** bf16 is the upper half of an f32. */
function fromBf16(words: Uint16Array): Float32Array<ArrayBuffer> {
  const bits = new Uint32Array(words.length);
  for (let i = 0; i < words.length; i += 1) bits[i] = (words[i] ?? 0) << 16;
  return new Float32Array(bits.buffer);
}

function fromF16(words: Uint16Array): Float32Array<ArrayBuffer> {
  const values = new Float32Array(words.length);
  if (words.length < TABLE_SIZE) {
    for (let i = 0; i < words.length; i += 1) values[i] = halfValue(words[i] ?? 0);
    return values;
  }
  const table = Float32Array.from({ length: TABLE_SIZE }, (_, word) => halfValue(word));
  for (let i = 0; i < words.length; i += 1) values[i] = table[words[i] ?? 0] ?? 0;
  return values;
}

/** As many as there are different halves: from so many values on, a table is cheaper. */
const TABLE_SIZE = 2 ** 16;

/** 1 bit of sign, 5 of exponent (bias 15), 10 of fraction. */
function halfValue(word: number): number {
  const sign = word & 0x8000 ? -1 : 1;
  const exponent = (word >> 10) & 0x1f;
  const fraction = word & 0x3ff;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}
