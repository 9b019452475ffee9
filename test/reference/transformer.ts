// The kernels of a transformer, products and attention aside, as plain loops in double precision. Gradients are not here: tests
// take them from these by central differences.
import type { Values } from './kernels.ts';

const at = (values: Values, i: number): number => values[i] ?? Number.NaN;

const rowOf = (x: Values, row: number, C: number): Float64Array =>
  Float64Array.from({ length: C }, (_, c) => at(x, row * C + c));

const mean = (values: Float64Array): number => values.reduce((sum, value) => sum + value, 0) / values.length;

/** y (M, C) and stats (M, 2) */
export function layernorm(x: Values, w: Values, b: Values | null, M: number, C: number, eps: number): Float64Array[] {
  const y = new Float64Array(M * C);
  const stats = new Float64Array(M * 2);
  for (let m = 0; m < M; m++) {
    const row = rowOf(x, m, C);
    const middle = mean(row);
    const rstd = 1 / Math.sqrt(mean(row.map((v) => (v - middle) ** 2)) + eps);
    stats.set([middle, rstd], m * 2);
    row.forEach((v, c) => (y[m * C + c] = (v - middle) * rstd * at(w, c) + (b === null ? 0 : at(b, c))));
  }
  return [y, stats];
}

/** y (M, C) and stats (M) */
export function rmsnorm(x: Values, w: Values, M: number, C: number, eps: number): Float64Array[] {
  const y = new Float64Array(M * C);
  const stats = new Float64Array(M);
  for (let m = 0; m < M; m++) {
    const row = rowOf(x, m, C);
    const r = 1 / Math.sqrt(mean(row.map((v) => v * v)) + eps);
    stats[m] = r;
    row.forEach((v, c) => (y[m * C + c] = v * r * at(w, c)));
  }
  return [y, stats];
}

/** (rows, C) of a whole table w, plus `positions` of sequences of T where given */
export function embed(ids: Values, w: Values, C: number, positions: Values | null = null, T = 1): Float64Array {
  const y = new Float64Array(ids.length * C);
  for (let i = 0; i < ids.length; i++)
    for (let c = 0; c < C; c++)
      y[i * C + c] = at(w, at(ids, i) * C + c) + (positions === null ? 0 : at(positions, (i % T) * C + c));
  return y;
}

export const siluGate = (gate: Values, up: Values): Float64Array =>
  Float64Array.from({ length: gate.length }, (_, i) => (at(gate, i) / (1 + Math.exp(-at(gate, i)))) * at(up, i));

/** Rotates x (rows, stride) by complex multiplication of the pairs (i, i + D / 2) of each head. */
export function rope(
  x: Values,
  frequencies: Values,
  shape: { rows: number; T: number; heads: number; D: number; stride: number; offset: number; start?: number },
): Float64Array {
  const y = Float64Array.from(x);
  const { rows, T, heads, D, stride, offset, start = 0 } = shape;
  for (let row = 0; row < rows; row++)
    for (let h = 0; h < heads; h++)
      for (let i = 0; i < D / 2; i++) {
        const first = row * stride + offset + h * D + i;
        const angle = (start + (row % T)) * at(frequencies, i);
        y[first] = at(x, first) * Math.cos(angle) - at(x, first + D / 2) * Math.sin(angle);
        y[first + D / 2] = at(x, first + D / 2) * Math.cos(angle) + at(x, first) * Math.sin(angle);
      }
  return y;
}

/** The bits of the half nearest to a number, ties to even, found by search: 16 bits, `exponentBits` of them exponent. */
export function halfBits(value: number, exponentBits: 5 | 8): number {
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0;
  const infinite = exponentBits === 5 ? 0x7c00 : 0x7f80;
  if (Number.isNaN(value)) return infinite + 1;
  const size = Math.abs(value);
  // Bits of non-negative halves are in the order of their values; infinity stands for the next power of two.
  let [low, high] = [0, infinite];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (halfValue(middle, exponentBits) <= size) low = middle;
    else high = middle;
  }
  if (size >= halfValue(infinite, exponentBits)) return sign | infinite;
  const below = size - halfValue(low, exponentBits);
  const above = halfValue(high, exponentBits) - size;
  return sign | (below < above || (below === above && low % 2 === 0) ? low : high);
}

/** The value of a half's bits; infinity as the power of two that it follows on. */
export function halfValue(bits: number, exponentBits: 5 | 8): number {
  const mantissaBits = 15 - exponentBits;
  const bias = 2 ** (exponentBits - 1) - 1;
  const exponent = (bits & 0x7fff) >> mantissaBits;
  const mantissa = (bits & (2 ** mantissaBits - 1)) / 2 ** mantissaBits;
  const size = exponent === 0 ? mantissa * 2 ** (1 - bias) : (1 + mantissa) * 2 ** (exponent - bias);
  return (bits & 0x8000) === 0 ? size : -size;
}
