// The kernels as plain loops in double precision: slow, obvious, and the truth that the GPU is held against.

export type Values = ArrayLike<number>;

const at = (values: Values, i: number): number => values[i] ?? Number.NaN;

/** y (M, N) = x (M, K) · w (N, K)ᵀ + b (N) */
export function matmulNt(x: Values, w: Values, b: Values, M: number, N: number, K: number): Float64Array {
  const y = new Float64Array(M * N);
  for (let m = 0; m < M; m++)
    for (let n = 0; n < N; n++) {
      let sum = at(b, n);
      for (let k = 0; k < K; k++) sum += at(x, m * K + k) * at(w, n * K + k);
      y[m * N + n] = sum;
    }
  return y;
}

/** dx (M, N) = dy (M, K) · w (K, N) */
export function matmulNn(dy: Values, w: Values, M: number, N: number, K: number): Float64Array {
  const dx = new Float64Array(M * N);
  for (let m = 0; m < M; m++)
    for (let n = 0; n < N; n++) {
      let sum = 0;
      for (let k = 0; k < K; k++) sum += at(dy, m * K + k) * at(w, k * N + n);
      dx[m * N + n] = sum;
    }
  return dx;
}

/** dw (M, N) + dy (K, M)ᵀ · x (K, N) */
export function matmulTn(dw: Values, dy: Values, x: Values, M: number, N: number, K: number): Float64Array {
  const out = Float64Array.from(dw);
  for (let m = 0; m < M; m++)
    for (let n = 0; n < N; n++)
      for (let k = 0; k < K; k++) out[m * N + n] = at(out, m * N + n) + at(dy, k * M + m) * at(x, k * N + n);
  return out;
}

/** db (N) + column sums of dy (M, N) */
export function biasBackward(db: Values, dy: Values, M: number, N: number): Float64Array {
  const out = Float64Array.from(db);
  for (let m = 0; m < M; m++) for (let n = 0; n < N; n++) out[n] = at(out, n) + at(dy, m * N + n);
  return out;
}

/** erf by its series below 3 and a continued fraction above: better than 1e-14. */
export function erf(x: number): number {
  if (x < 0) return -erf(-x);
  if (x > 6) return 1;
  if (x < 3) {
    let term = x;
    let sum = x;
    for (let n = 1; n < 200; n++) {
      term *= (-x * x) / n;
      sum += term / (2 * n + 1);
      if (Math.abs(term) < 1e-18) break;
    }
    return (2 / Math.sqrt(Math.PI)) * sum;
  }
  let fraction = 0;
  for (let n = 60; n >= 1; n--) fraction = n / 2 / (x + fraction);
  return 1 - Math.exp(-x * x) / (Math.sqrt(Math.PI) * (x + fraction));
}

export const activations = {
  relu: (x: number): number => Math.max(x, 0),
  gelu: (x: number): number => 0.5 * x * (1 + erf(x / Math.SQRT2)),
  gelu_new: (x: number): number => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
};

/** Losses of each row of logits (M, V), unscaled; 0 where the target is negative. */
export function crossEntropy(logits: Values, targets: Values, M: number, V: number): Float64Array {
  return Float64Array.from({ length: M }, (_, m) => {
    const target = at(targets, m);
    if (target < 0) return 0;
    const row = Array.from({ length: V }, (__, v) => at(logits, m * V + v));
    const largest = Math.max(...row);
    return (
      Math.log(row.reduce((sum, value) => sum + Math.exp(value - largest), 0)) + largest - (row[target] ?? Number.NaN)
    );
  });
}

/** 1 where the first largest logit is the target. */
export function correctRows(logits: Values, targets: Values, M: number, V: number): number[] {
  return Array.from({ length: M }, (_, m) => {
    const row = Array.from({ length: V }, (__, v) => at(logits, m * V + v));
    return row.indexOf(Math.max(...row)) === at(targets, m) ? 1 : 0;
  });
}

/** Central differences of a scalar function of many values. */
export function gradientOf(f: (x: Float64Array) => number, x: Values, step = 1e-5): Float64Array {
  const point = Float64Array.from(x);
  return point.map((value, i) => {
    point[i] = value + step;
    const above = f(point);
    point[i] = value - step;
    const below = f(point);
    point[i] = value;
    return (above - below) / (2 * step);
  });
}

/** ‖a − b‖ / ‖scale‖; the plain ‖a − b‖ where that is zero. */
export function relativeError(a: Values, b: Values, scale: Values = b): number {
  if (a.length !== b.length) return Number.POSITIVE_INFINITY;
  let difference = 0;
  let norm = 0;
  for (let i = 0; i < b.length; i++) {
    difference += (at(a, i) - at(b, i)) ** 2;
    norm += at(scale, i) ** 2;
  }
  return Math.sqrt(norm === 0 ? difference : difference / norm);
}

/** Values that repeat from run to run, roughly normal. */
export function noise(count: number, seed: number, scale = 1): Float32Array<ArrayBuffer> {
  let state = (seed * 2654435761 + 12345) >>> 0;
  const next = (): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
  return Float32Array.from({ length: count }, () => (next() + next() + next() + next() - 2) * 1.7 * scale);
}
