// What the planners share: which peers can be asked at all and at what rate, and how an assignment becomes a plan.
import type { Mixing, PeerView, Plan, PlanInput } from '../planner.ts';

export interface Usable {
  /** By id, so that no result depends on the order in which peers are told of. */
  readonly peers: readonly PeerView[];
  /** Bytes a second from each: what was measured, or the median of those for a link that was not (1 where none was). */
  readonly rates: readonly number[];
}

/** Peers that can be asked: a rate that was measured as 0, negative or no number excludes its peer, an unknown one does not. */
export function usableOf(input: PlanInput): Usable {
  const peers = input.peers
    .filter(({ bytesPerSecond: rate }) => rate === null || (rate > 0 && Number.isFinite(rate)))
    .toSorted((a, b) => byId(a.id, b.id));
  const unknown = median(peers.flatMap(({ bytesPerSecond: rate }) => (rate === null ? [] : [rate]))) ?? 1;
  return { peers, rates: peers.map(({ bytesPerSecond: rate }) => rate ?? unknown) };
}

export const byId = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);

/** null of no values. */
export function median(values: readonly number[]): number | null {
  const sorted = values.toSorted((a, b) => a - b);
  const half = sorted.length >> 1;
  const upper = sorted[half];
  if (upper === undefined) return null;
  return sorted.length % 2 === 1 ? upper : ((sorted[half - 1] ?? upper) + upper) / 2;
}

/** Shares that sum to one; what is negative or no number counts 0, and where nothing is left all are the same. */
export function shares(values: readonly number[]): number[] {
  const clean = values.map((value) => (value > 0 && Number.isFinite(value) ? value : 0));
  const largest = clean.reduce((a, b) => Math.max(a, b), 0);
  if (largest === 0) return values.map(() => 1 / values.length);
  // Scaled first: the sum of finite numbers may not be finite.
  const scaled = clean.map((value) => value / largest);
  const total = scaled.reduce((a, b) => a + b, 0);
  return scaled.map((value) => value / total);
}

export type Spares = (unit: number) => readonly string[];

/** `units[s]`: what is pulled from `peers[s]`, in any order. */
export function planOf(
  { peers, rates }: Usable,
  units: readonly (readonly number[])[],
  unitBytes: readonly number[],
  mixing: Mixing,
  more: { spares?: Spares; isExchange?: boolean } = {},
): Plan {
  const pulls = peers.flatMap((peer, s) => {
    const wanted = units[s] ?? [];
    if (wanted.length === 0) return [];
    const bytes = wanted.reduce((sum, unit) => sum + (unitBytes[unit] ?? 0), 0);
    const etaSeconds = peer.bytesPerSecond === null ? 0 : bytes / (rates[s] ?? 1);
    return [{ peer: peer.id, units: wanted.toSorted((a, b) => a - b), etaSeconds }];
  });
  return { pulls, mixing, ...more };
}

export const EMPTY_PLAN: Plan = { pulls: [], mixing: { kind: 'uniform' } };

export const everyUnit = (unitBytes: readonly number[]): number[] => unitBytes.map((_, unit) => unit);

/** One peer answers for the whole model, the others stand behind it in the given order; each counts what it weighs. */
export function wholeFrom(
  usable: Usable,
  order: readonly number[],
  unitBytes: readonly number[],
  weightOf: (index: number) => number,
  more: { isExchange?: boolean } = {},
): Plan {
  const [first, ...rest] = order;
  if (first === undefined) return EMPTY_PLAN;
  const idOf = (index: number): string => usable.peers[index]?.id ?? '';
  const units = usable.peers.map((_, s) => (s === first ? everyUnit(unitBytes) : []));
  const of = Object.fromEntries(order.map((index) => [idOf(index), weightOf(index)]));
  const others = rest.map(idOf);
  return planOf(usable, units, unitBytes, { kind: 'weights', of }, { spares: () => others, ...more });
}

/** `count` different ones of 0 … below, uniformly and in random order, then the rest of them. */
export function sample(below: number, count: number, random: () => number): { taken: number[]; rest: number[] } {
  const order = Array.from({ length: below }, (_, i) => i);
  const many = Math.min(count, below);
  for (let i = 0; i < many; i += 1) {
    const other = i + pick(below - i, random);
    const held = order[i] ?? 0;
    order[i] = order[other] ?? 0;
    order[other] = held;
  }
  return { taken: order.slice(0, many), rest: order.slice(many) };
}

/** A uniform integer in [0, below). */
export const pick = (below: number, random: () => number): number =>
  Math.max(0, Math.min(below - 1, Math.floor(random() * below)));
