// When low-communication training exchanges what, and with whom. Pure: every replica finds the same from its own count of local steps.
import type { OuterSpec } from '../average-spec.ts';
import { paddedTo } from '../layer-store.ts';
import type { Unit } from '../model/units.ts';
import { randomBelow, randomWords } from '../train/random.ts';

export interface OuterPlan {
  /** Units that are exchanged together. */
  groups: readonly (readonly number[])[];
  /** Local steps from one exchange of a group to its next. */
  steps: number;
  /** One group after the other over those steps (Streaming DiLoCo), or all at their end. */
  isSpread: boolean;
}

/** Streams of random numbers that no epoch, step or averaging uses. */
const PAIR_STREAMS = 2 ** 43;

/**
 * Fragments are strided, as Streaming DiLoCo has them: what lies next to each other in the model is exchanged at different times. There are
 * more where one would be larger than `mostBytes` (f32), unless it is a single unit.
 */
export function outerPlan(spec: OuterSpec, units: readonly Unit[], mostBytes: number): OuterPlan {
  const bytes = units.map(({ count }) => paddedTo(count) * 4);
  const whole = bytes.reduce((sum, one) => sum + one, 0);
  const wanted = spec.kind === 'streaming-diloco' ? spec.fragments : 1;
  let count = Math.max(1, Math.min(units.length, Math.max(wanted, Math.ceil((2 * whole) / mostBytes))));
  // Strided groups of units of unequal size are not equal.
  while (count < units.length && largestOf(bytes, count) > mostBytes) count += 1;
  const groups = Array.from({ length: count }, (_, g) =>
    units.flatMap((_unit, unit) => (unit % count === g ? [unit] : [])),
  );
  return { groups, steps: spec.steps, isSpread: spec.kind === 'streaming-diloco' };
}

/** Bytes of the largest of so many strided groups. */
function largestOf(bytes: readonly number[], groups: number): number {
  const sums = new Array<number>(groups).fill(0);
  bytes.forEach((one, unit) => (sums[unit % groups] = (sums[unit % groups] ?? 0) + one));
  return sums.reduce((a, b) => Math.max(a, b), 0);
}

/** The exchanges that are due once so many local steps were taken, in order; exchange n is of group n mod groups. */
export function dueAfter({ groups, steps, isSpread }: OuterPlan, taken: number): number[] {
  const count = groups.length;
  const before = (step: number): number =>
    isSpread ? Math.floor((step * count) / steps) : Math.floor(step / steps) * count;
  const first = before(Math.max(0, taken - 1));
  return Array.from({ length: before(taken) - first }, (_, i) => first + i);
}

/** The exchange of a group that follows exchange `last`, and the local step after which it is due. */
export function nextExchange(
  { groups, steps, isSpread }: OuterPlan,
  group: number,
  last: number,
): { round: number; due: number } {
  const count = groups.length;
  const round = last < 0 ? group : last + count;
  const due = isSpread ? Math.ceil(((round + 1) * steps) / count) : (Math.floor(round / count) + 1) * steps;
  return { round, due };
}

/** The exchanges that bring all groups together after the last step, those left out that were exchanged in that very step. */
export function lastExchanges(plan: OuterPlan, taken: number): number[] {
  const count = plan.groups.length;
  const just = new Set(dueAfter(plan, taken).map((round) => round % count));
  const next = Array.from({ length: taken }, (_, i) => dueAfter(plan, i + 1).length).reduce((sum, due) => sum + due, 0);
  return Array.from({ length: count }, (_, i) => next + i).filter((round) => !just.has(round % count));
}

/** Who pairs with whom in exchange `round`: a random matching of these, the same wherever the same are known; one may be left alone. */
export function partnerOf(self: string, all: readonly string[], seed: number, round: number): string | null {
  const order = [...new Set([...all, self])].sort();
  const words = randomWords(seed, PAIR_STREAMS + round);
  for (let last = order.length - 1; last > 0; last -= 1) {
    const other = randomBelow(last + 1, words);
    [order[last], order[other]] = [order[other] ?? '', order[last] ?? ''];
  }
  const place = order.indexOf(self);
  return order[place % 2 === 0 ? place + 1 : place - 1] ?? null;
}
