// How many of the extremes a defence leaves out at either end, by how many contributions meet. Pure.
import type { Defence } from '../average-spec.ts';
import { MOST_TRIMMED } from '../layer-store.ts';

/** Contributions, the own one among them, from which on extremes may be left out: of fewer, one may be nearly all that there is. */
const TRIM_FROM = 5;

/** For a store's `trim`; nothing where contributions count with their coefficients. */
export function trimOf(defence: Defence, contributions: number): { trim?: number } {
  if (contributions < TRIM_FROM || contributions > MOST_TRIMMED) return {};
  const most = Math.floor((contributions - 1) / 2);
  if (defence.kind === 'median') return { trim: most };
  return defence.kind === 'trimmed' ? { trim: Math.min(defence.trim, most) } : {};
}
