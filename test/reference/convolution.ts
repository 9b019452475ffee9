// Convolutions and pooling as plain loops in double precision. Gradients are not here: tests take them from these by central
// differences.
import {
  imageSize,
  rowsOf,
  tapsOf,
  widthsOf,
  windowsOf,
  type Images,
  type Pooling,
  type Unfolding,
  type Windows,
} from '../../runtime/gpu/convolution.ts';
import type { Values } from './kernels.ts';

/** Where a value lies. */
export const placeOf = (
  { C, height, width, layout }: Images,
  sample: number,
  c: number,
  row: number,
  col: number,
): number =>
  layout === 'chw' ? ((sample * C + c) * height + row) * width + col : ((sample * height + row) * width + col) * C + c;

function* windows({ y }: Windows, B: number): Generator<{ sample: number; v: number; u: number; m: number }> {
  let m = 0;
  for (let sample = 0; sample < B; sample++)
    for (let v = 0; v < y.height; v++) for (let u = 0; u < y.width; u++) yield { sample, v, u, m: m++ };
}

/** cols (B · rows, widths) */
export function unfold(x: Values, over: Unfolding, B: number): Float64Array {
  const { size, stride, padding, across } = over;
  const width = size + (across - 1) * stride;
  const K = widthsOf(over);
  const cols = new Float64Array(B * rowsOf(over) * K);
  for (const { sample, v, u, m } of windows(over, B)) {
    if (u % across !== 0) continue;
    for (let c = 0; c < over.x.C; c++)
      for (let i = 0; i < size; i++)
        for (let j = 0; j < width; j++) {
          const [row, col] = [v * stride + i - padding, u * stride + j - padding];
          const isInside = row >= 0 && row < over.x.height && col >= 0 && col < over.x.width;
          const value = isInside ? (x[placeOf(over.x, sample, c, row, col)] ?? NaN) : 0;
          cols[(m / across) * K + (c * size + i) * width + j] = value;
        }
  }
  return cols;
}

/** (across · N, widths) of w (N, taps) */
export function spreadWeights(w: Values, over: Unfolding): Float64Array {
  const { size, stride, across } = over;
  const [N, lines, width] = [over.y.C, over.x.C * size, size + (across - 1) * stride];
  const wide = new Float64Array(across * N * lines * width);
  for (let p = 0; p < across; p++)
    for (let n = 0; n < N; n++)
      for (let line = 0; line < lines; line++)
        for (let j = 0; j < size; j++)
          wide[((p * N + n) * lines + line) * width + p * stride + j] = w[(n * lines + line) * size + j] ?? NaN;
  return wide;
}

/** z (B · windows, N) of x, w (N, taps), b (N) */
export function convolution(x: Values, w: Values, b: Values, over: Windows, B: number): Float64Array {
  const [N, K] = [over.y.C, tapsOf(over)];
  const cols = unfold(x, { ...over, across: 1 }, B);
  return Float64Array.from({ length: B * windowsOf(over) * N }, (_, i) => {
    const [m, n] = [Math.floor(i / N), i % N];
    let sum = b[n] ?? NaN;
    for (let k = 0; k < K; k++) sum += (cols[m * K + k] ?? NaN) * (w[n * K + k] ?? NaN);
    return sum;
  });
}

/** y (B images) of x (B images) */
export function pool(x: Values, kind: Pooling, over: Windows, B: number): Float64Array {
  const { size, stride } = over;
  const y = new Float64Array(B * imageSize(over.y));
  for (const { sample, v, u } of windows(over, B))
    for (let c = 0; c < over.x.C; c++) {
      const seen: number[] = [];
      for (let i = 0; i < size; i++)
        for (let j = 0; j < size; j++) seen.push(x[placeOf(over.x, sample, c, v * stride + i, u * stride + j)] ?? NaN);
      const sum = seen.reduce((a, b) => a + b, 0);
      y[placeOf(over.y, sample, c, v, u)] = kind === 'max' ? Math.max(...seen) : sum / size ** 2;
    }
  return y;
}
