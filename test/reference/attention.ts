// Causal self-attention and its gradients as plain loops in double precision, with the (T, T) matrix that the kernels never have.
import type { AttentionDropout, AttentionSizes } from '../../runtime/gpu/attention.ts';
import type { Values } from './kernels.ts';

const at = (values: Values, i: number): number => values[i] ?? Number.NaN;

/** A 32-bit mix, as the kernels do it. */
function hash(x: number): number {
  let h = x >>> 0;
  h = Math.imul(h ^ (h >>> 16), 0x7feb352d) >>> 0;
  h = Math.imul(h ^ (h >>> 15), 0x846ca68b) >>> 0;
  return (h ^ (h >>> 16)) >>> 0;
}

/** 0 where the weight of `key` in row (b · H + h) · T + t is dropped, else 1 / (1 - p). */
export function kept({ p, seed }: AttentionDropout, row: number, key: number): number {
  const h = hash(hash((row ^ seed) >>> 0) + Math.imul(key, 0x9e3779b9));
  return h >= Math.floor(p * 2 ** 32) ? 1 / (1 - p) : 0;
}

interface Forward {
  /** (B, T, H, D) */
  y: Float64Array;
  /** (B, H, T) */
  lse: Float64Array;
  /** (B, H, T, T) softmax of the scores, before dropout */
  p: Float64Array;
  /** (B, H, T, T) what each weight is multiplied by */
  gain: Float64Array;
}

export function attention(
  q: Values,
  k: Values,
  v: Values,
  sizes: AttentionSizes,
  dropout: AttentionDropout | null,
): Forward {
  const { B, T, H, D, scale } = sizes;
  const y = new Float64Array(B * T * H * D);
  const lse = new Float64Array(B * H * T);
  const p = new Float64Array(B * H * T * T);
  const gain = new Float64Array(B * H * T * T).fill(1);
  for (const { row, t, qAt, yAt, kAt, vAt } of rowsOf(sizes)) {
    const scores = Array.from({ length: t + 1 }, (_, s) => {
      let score = 0;
      for (let d = 0; d < D; d++) score += at(q, qAt + d) * at(k, kAt(s) + d);
      return score * scale;
    });
    const top = Math.max(...scores);
    const total = scores.reduce((sum, score) => sum + Math.exp(score - top), 0);
    lse[row] = top + Math.log(total);
    scores.forEach((score, s) => {
      const weight = Math.exp(score - top) / total;
      const factor = dropout === null ? 1 : kept(dropout, row, s);
      p[row * T + s] = weight;
      gain[row * T + s] = factor;
      for (let d = 0; d < D; d++) y[yAt + d] = at(y, yAt + d) + weight * factor * at(v, vAt(s) + d);
    });
  }
  return { y, lse, p, gain };
}

interface Gradients {
  /** As q, k and v lie, each in an array of its own; zeros between. */
  dq: Float64Array;
  dk: Float64Array;
  dv: Float64Array;
}

export function attentionBackward(
  dy: Values,
  q: Values,
  k: Values,
  v: Values,
  sizes: AttentionSizes,
  dropout: AttentionDropout | null,
): Gradients {
  const { T, D, scale } = sizes;
  const { p, gain } = attention(q, k, v, sizes, dropout);
  const [dq, dk, dv] = [q, k, v].map((values) => new Float64Array(values.length)) as [
    Float64Array,
    Float64Array,
    Float64Array,
  ];
  for (const { row, t, qAt, yAt, kAt, vAt } of rowsOf(sizes)) {
    const dp = Array.from({ length: t + 1 }, (_, s) => {
      let slope = 0;
      for (let d = 0; d < D; d++) slope += at(dy, yAt + d) * at(v, vAt(s) + d);
      return slope * at(gain, row * T + s);
    });
    const mean = dp.reduce((sum, slope, s) => sum + at(p, row * T + s) * slope, 0);
    dp.forEach((slope, s) => {
      const weight = at(p, row * T + s);
      const ds = weight * (slope - mean) * scale;
      for (let d = 0; d < D; d++) {
        dq[qAt + d] = at(dq, qAt + d) + ds * at(k, kAt(s) + d);
        dk[kAt(s) + d] = at(dk, kAt(s) + d) + ds * at(q, qAt + d);
        dv[vAt(s) + d] = at(dv, vAt(s) + d) + weight * at(gain, row * T + s) * at(dy, yAt + d);
      }
    });
  }
  return { dq, dk, dv };
}

/** Each row of each query head, and where its operands begin. */
function* rowsOf(sizes: AttentionSizes) {
  const { B, T, H, G, D } = sizes;
  for (let b = 0; b < B; b++)
    for (let h = 0; h < H; h++)
      for (let t = 0; t < T; t++) {
        const g = Math.floor(h / (H / G));
        yield {
          row: (b * H + h) * T + t,
          t,
          qAt: sizes.qOffset + (b * T + t) * sizes.qStride + h * D,
          yAt: ((b * T + t) * H + h) * D,
          kAt: (s: number): number => sizes.kOffset + (b * T + s) * sizes.kStride + g * D,
          vAt: (s: number): number => sizes.vOffset + (b * T + s) * sizes.vStride + g * D,
        };
      }
}
