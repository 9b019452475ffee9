// How fast a pull policy brings workers together, in two measures: λ2 of E[DᵀD], a bound that NetMax optimises, and the rate itself, which
// also holds where workers do not act equally often and the bound says nothing. Both by power iteration. Pure arithmetic.

export type Matrix = readonly (readonly number[])[];

const MAX_ITERATIONS = 300;
const LEAST_ITERATIONS = 10;
/** Relative to the value. */
const PRECISION = 1e-6;

/**
 * (N, N): Y = E[DᵀD] for D = I − c_im e_i (e_i − e_m)ᵀ, where worker i acts with chance 1/N and pulls from m with chance p[i][m]. Doubly
 * stochastic where p · c is symmetric, as in NetMax.
 */
export function mixingMatrix(p: Matrix, weight: Matrix): number[][] {
  const y = p.map((_, i) => p.map((__, m): number => (i === m ? 1 : 0)));
  const add = (i: number, m: number, value: number): void => {
    const row = y[i];
    if (row) row[m] = (row[m] ?? 0) + value;
  };
  for (const [i, row] of p.entries())
    for (const [m, chance] of row.entries()) {
      const c = weight[i]?.[m] ?? 0;
      if (m === i || chance === 0 || c === 0) continue;
      const rate = chance / p.length;
      add(i, m, rate * (c - c * c));
      add(m, i, rate * (c - c * c));
      add(i, i, rate * (-2 * c + c * c));
      add(m, m, rate * c * c);
    }
  return y;
}

/**
 * 1 − λ2 of Y: after an action the expected squared distance of the workers from their mean is smaller at least by this share. The
 * iteration is on I + s (Y − I), which has the same vectors and tells them apart sooner.
 */
export function spectralGap(p: Matrix, weight: Matrix): number {
  const count = p.length;
  const y = mixingMatrix(p, weight);
  const flat = Float64Array.from(y.flat());
  const most = y.reduce((largest, row, i) => Math.max(largest, 1 - (row[i] ?? 1)), 0);
  if (most <= 0 || count < 2) return 0;
  const scale = 1 / (2 * most); // Gershgorin: no eigenvalue of I − Y is above 2·most
  // Any start that is orthogonal to no vector in particular.
  let vector = centred(
    Float64Array.from({ length: count }, (_, i) => ((i * 7919 + 104_729) % 1009) / 1009 + i / count),
  );
  let gap = 0;
  for (let iteration = 0; iteration < MAX_ITERATIONS; iteration += 1) {
    const next = new Float64Array(count);
    let along = 0;
    for (let i = 0; i < count; i += 1) {
      const own = vector[i] ?? 0;
      let change = -own;
      for (let m = 0; m < count; m += 1) change += (flat[i * count + m] ?? 0) * (vector[m] ?? 0);
      next[i] = own + scale * change;
      along -= change * own;
    }
    const before = gap;
    gap = along;
    vector = centred(next);
    if (iteration >= LEAST_ITERATIONS && Math.abs(gap - before) <= PRECISION * gap) break;
  }
  return Math.max(0, gap);
}

/** Its part orthogonal to (1 … 1), at length one. */
function centred(vector: Float64Array<ArrayBuffer>): Float64Array<ArrayBuffer> {
  let mean = 0;
  for (const value of vector) mean += value / vector.length;
  let square = 0;
  for (const value of vector) square += (value - mean) * (value - mean);
  const length = Math.sqrt(square) || 1;
  for (let i = 0; i < vector.length; i += 1) vector[i] = ((vector[i] ?? 0) - mean) / length;
  return vector;
}

/**
 * By what share an action shrinks E(x_i − x_m)² in the long run, where worker i acts with chance acting[i]; 0 where they never agree. It
 * follows the matrix V of these, V_ii = 0: when i pulls from m, (x_i − x_j)² becomes (1 − c) V_ij + c V_mj − c (1 − c) V_im. The step is
 * V + G(V); the iteration is on V + s G(V) with the s that
 * still has every part of V decay without changing sign.
 */
export function shrinkageOf(p: Matrix, weight: Matrix, acting: readonly number[]): number {
  const count = p.length;
  const pulls = pullsOf(p, weight, acting);
  const strongest = pulls.reduce((most, row) => Math.max(most, row.reduce((sum, { strength }) => sum + strength, 0)), 0); // prettier-ignore
  if (strongest === 0 || count < 2) return 0;
  const scale = 1 / (4 * strongest);
  let v = new Float64Array(count * count).fill(1 / (count * (count - 1)));
  for (let i = 0; i < count; i += 1) v[i * count + i] = 0;
  let rate = 0;
  for (let iteration = 0; iteration < MAX_ITERATIONS; iteration += 1) {
    const change = changeOf(v, pulls);
    const next = new Float64Array(count * count);
    let total = 0;
    for (let i = 0; i < count; i += 1)
      for (let j = 0; j < count; j += 1) {
        const both = (change[i * count + j] ?? 0) + (change[j * count + i] ?? 0);
        const value = (v[i * count + j] ?? 0) + scale * both;
        next[i * count + j] = value;
        total += value;
      }
    if (total <= 0) return 1;
    for (let k = 0; k < next.length; k += 1) next[k] = (next[k] ?? 0) / total;
    v = next;
    const before = rate;
    rate = (1 - total) / scale;
    if (iteration >= LEAST_ITERATIONS && Math.abs(rate - before) <= PRECISION * Math.abs(rate)) break;
  }
  return Math.min(1, Math.max(0, rate));
}

interface Approach {
  readonly m: number;
  readonly strength: number;
  /** strength · (1 − c) */
  readonly nearer: number;
}

const pullsOf = (p: Matrix, weight: Matrix, acting: readonly number[]): Approach[][] =>
  p.map((row, i) =>
    row.flatMap((chance, m) => {
      const c = weight[i]?.[m] ?? 0;
      const strength = (acting[i] ?? 0) * chance * c;
      return m === i || strength === 0 ? [] : [{ m, strength, nearer: strength * (1 - c) }];
    }),
  );

/** (N, N): what row i's own actions change of V. */
function changeOf(v: Float64Array, pulls: readonly (readonly Approach[])[]): Float64Array {
  const count = pulls.length;
  const change = new Float64Array(count * count);
  for (const [i, row] of pulls.entries())
    for (const { m, strength, nearer } of row) {
      const off = nearer * (v[i * count + m] ?? 0);
      for (let j = 0; j < count; j += 1) {
        const toM = (v[m * count + j] ?? 0) - (v[i * count + j] ?? 0);
        if (j !== i) change[i * count + j] = (change[i * count + j] ?? 0) + strength * toM - off;
      }
    }
  return change;
}
