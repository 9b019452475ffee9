// The kernels that average layers, as plain loops in double precision.
import type { Values } from './kernels.ts';

const at = (values: Values, i: number): number => values[i] ?? Number.NaN;

/** Σ (a - b)² and Σ a² */
export function distance(a: Values, b: Values): [number, number] {
  let d = 0;
  let s = 0;
  for (let i = 0; i < a.length; i++) {
    d += (at(a, i) - at(b, i)) ** 2;
    s += at(a, i) ** 2;
  }
  return [d, s];
}

/** shown + Σ c (part - shown), and live moved by as much. */
export function merge(
  live: Values,
  shown: Values,
  parts: readonly Values[],
  c: readonly number[],
): { live: number[]; shown: number[] } {
  const after = Array.from(shown, (w, i) => parts.reduce((sum, part, p) => sum + at(c, p) * (at(part, i) - w), w));
  return { shown: after, live: Array.from(live, (w, i) => w + at(after, i) - at(shown, i)) };
}

/** Mean of the middle, by sorting. */
export function trimmedMean(parts: readonly Values[], trim: number): number[] {
  const [first = []] = parts;
  return Array.from(first, (_, i) => {
    const sorted = parts.map((part) => at(part, i)).sort((a, b) => a - b);
    const middle = sorted.slice(trim, sorted.length - trim);
    return middle.reduce((sum, value) => sum + value, 0) / middle.length;
  });
}

/** Blocks of 64: whole numbers, their scales, and what is lost. */
export function quantise(x: Values, e: Values, bits: 4 | 8): { q: number[]; scale: number[]; lost: number[] } {
  const top = 2 ** (bits - 1) - 1;
  const q: number[] = [];
  const scale: number[] = [];
  const lost: number[] = [];
  for (let start = 0; start < x.length; start += 64) {
    const block = Array.from({ length: 64 }, (_, i) => at(x, start + i) + at(e, start + i));
    const largest = Math.max(...block.map(Math.abs));
    const unit = largest / top;
    scale.push(unit);
    for (const value of block) {
      const whole = largest > 0 ? Math.round(value / unit) : 0;
      q.push(whole);
      lost.push(value - whole * unit);
    }
  }
  return { q, scale, lost };
}

export interface Outer {
  live: number[];
  shown: number[];
  slow: number[];
  m: number[];
}

/** DiLoCo where `centre` is null, else NoLoCo: see kernels/outer-step.wgsl. */
export function outerStep(
  { live, shown, slow, m }: Record<keyof Outer, Values>,
  g: Values,
  centre: Values | null,
  { rate, momentum, pull }: { rate: number; momentum: number; pull: number },
): Outer {
  const out: Outer = { live: [], shown: [], slow: [], m: [] };
  for (let i = 0; i < slow.length; i++) {
    const velocity = centre
      ? momentum * at(m, i) + rate * at(g, i) + pull * (at(slow, i) - at(centre, i))
      : momentum * at(m, i) + at(g, i);
    const after = at(slow, i) - (centre ? velocity : rate * (at(g, i) + momentum * velocity));
    out.m.push(velocity);
    out.slow.push(after);
    out.shown.push(after);
    out.live.push(at(live, i) + after - at(shown, i));
  }
  return out;
}
