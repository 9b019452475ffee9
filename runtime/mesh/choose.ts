// Which transport carries a link: measured, compared, explained. Pure.
import type { TransportKind } from '../events.ts';

export interface Measurement {
  transport: TransportKind;
  rttMs: number;
  bytesPerSecond: number;
}

export interface Choice {
  index: number;
  reason: string;
}

/** The message that a link must carry soonest: an activation of a small model. */
const TYPICAL_BYTES = 256 * 1024;

/** Seconds for a typical message and its answer. */
export const expectedSeconds = (m: Measurement): number =>
  m.rttMs / 1_000 + TYPICAL_BYTES / Math.max(m.bytesPerSecond, 1);

/** The quickest of the measured ways; `failures` says why the others are no ways at all. */
export function chooseTransport(
  measured: readonly Measurement[],
  failures: ReadonlyMap<TransportKind, string>,
): Choice | null {
  if (measured.length === 0) return null;
  const order = measured.map((m, index) => ({ m, index })).sort((a, b) => expectedSeconds(a.m) - expectedSeconds(b.m));
  const [best] = order;
  if (!best) return null;
  const rivals = order.slice(1).map(({ m }) => `${m.transport} ${figures(m)}`);
  const lost = [...failures].map(([transport, why]) => `${transport}: ${why}`);
  const reason = [
    `${best.m.transport} ${figures(best.m)}`,
    ...(rivals.length ? [`quicker than ${rivals.join(', ')}`] : []),
    ...lost,
  ].join('; ');
  return { index: best.index, reason };
}

const figures = (m: Measurement): string => `${m.rttMs.toFixed(2)} ms, ${(m.bytesPerSecond / 1e6).toFixed(0)} MB/s`;
