// MPLS and its variants: Yang Xu, Zhiwei Yao, Hongli Xu, Yunming Liao and Zuan Xie, "MPLS: Stacking Diverse Layers Into One Model for
// Decentralized Federated Learning", Euro-Par 2025, doi 10.1007/978-3-031-99854-6_13. Equation and line numbers are the paper's. Where it
// is silent or cannot be taken at its word, the comment says what is done instead. The assignment itself is mpls-assign.ts.
import type { Plan, PlanInput, Planner } from '../planner.ts';
import { byId, EMPTY_PLAN, pick, planOf, shares, usableOf, type Usable } from './common.ts';
import { assign, type Fill, type Scores } from './mpls-assign.ts';

export interface MplsOptions {
  /** How phase 2 uses the time that the slowest pull takes anyway: as far as the downlink allows, as the paper has it, not at all. */
  readonly fill?: Fill | undefined;
  /** What bandwidth (1) and difference of data (2) count in the choice of peers; their sum is 1. */
  readonly tau1?: number | undefined;
  readonly tau2?: number | undefined;
}

/**
 * A peer tells its progress itself, and a false figure would attract every pull: each counts at most this many times the median of the
 * others. Those that report none are left out of that median; where no other reports any there is nothing to compare with, and no cap.
 */
const PROGRESS_CAP = 3;
/** The text takes a pair where μ2 > θ and the algorithm masks where μ2 < θ: with equal μ2, rounding must not mask them. */
const MASK_TOLERANCE = 1e-9;

export function mpls(options: MplsOptions = {}): Planner {
  return scheduled('mpls', options, progressOf);
}

/** Only the choice of peers: every layer of a peer is as good as any other (q uniform), the rest as in MPLS. */
export function mplsPeer(options: MplsOptions = {}): Planner {
  return scheduled('mpls-peer', options, ({ peers }, unitBytes) => peers.map(() => unitBytes.map(() => 0)));
}

/**
 * Only the choice of layers: each from the peer whose copy moved most (argmax q), whatever its bandwidth, and without sharing the load.
 * The paper does not say how its MPLS-Layer assigns; with the schedule of Algorithm 1 it would be close to MPLS, which the paper's
 * figures rule out.
 */
export const mplsLayer = (): Planner => ({
  name: 'mpls-layer',
  isSynchronous: false,
  plan: ({ unitBytes, ...input }) => {
    const usable = usableOf({ unitBytes, ...input });
    const q = progressOf(usable, unitBytes);
    const orders = unitBytes.map((_, unit) =>
      usable.peers
        .map((peer, s) => ({ s, q: q[s]?.[unit] ?? 0, divergence: finite(peer.divergence), id: peer.id }))
        .sort((a, b) => b.q - a.q || b.divergence - a.divergence || byId(a.id, b.id))
        .map(({ s }) => s),
    );
    return inOrder(usable, orders, unitBytes);
  },
});

/** Rand-MPLS: each layer from a random peer. */
export const mplsRandom = (): Planner => ({
  name: 'mpls-random',
  isSynchronous: false,
  plan: (input) => {
    const usable = usableOf(input);
    const count = usable.peers.length;
    const orders = input.unitBytes.map(() => {
      const first = count === 0 ? 0 : pick(count, input.random);
      return usable.peers.map((_, i) => (first + i) % count);
    });
    return inOrder(usable, orders, input.unitBytes);
  },
});

type Progress = (usable: Usable, unitBytes: readonly number[]) => number[][];

function scheduled(name: string, options: MplsOptions, progress: Progress): Planner {
  const tau1 = options.tau1 ?? 1 - (options.tau2 ?? 0.5);
  const tau2 = options.tau2 ?? 1 - tau1;
  const fill = options.fill ?? 'access';
  return {
    name,
    isSynchronous: false,
    plan: (input): Plan => {
      const usable = usableOf(input);
      if (usable.peers.length === 0) return EMPTY_PLAN;
      const scores = scoresOf(usable, progress(usable, input.unitBytes), input, { tau1, tau2 });
      const { units, efficiency } = assign(scores, input.unitBytes, usable.rates, fill, input.downlink);
      return planOf(
        usable,
        units,
        input.unitBytes,
        { kind: 'uniform' },
        { spares: sparesOf(usable, units, efficiency) },
      );
    },
  };
}

/** Eq. 3, 4 and 6, and the mask. With one peer nothing is masked: its μ2 is θ. */
export function scoresOf(
  { peers, rates }: Usable,
  progress: readonly (readonly number[])[],
  { unitBytes }: Pick<PlanInput, 'unitBytes'>,
  { tau1, tau2 }: { tau1: number; tau2: number },
): Scores {
  const byRate = shares(rates);
  const byDivergence = shares(peers.map(({ divergence }) => divergence));
  const p = shares(peers.map((_, s) => tau1 * (byRate[s] ?? 0) + tau2 * (byDivergence[s] ?? 0)));
  const columns = unitBytes.map((_, unit) => shares(progress.map((row) => row[unit] ?? 0)));
  const q = peers.map((_, s) => columns.map((column) => column[s] ?? 0));
  const mu2 = q.map((row, s) => row.map((value) => (p[s] ?? 0) * value));
  const theta = unitBytes.map((_, unit) => mu2.reduce((sum, row) => sum + (row[unit] ?? 0), 0) / peers.length);
  const mu1 = mu2.map((row, s) =>
    row.map((value, unit) =>
      value < (theta[unit] ?? 0) * (1 - MASK_TOLERANCE) ? Infinity : (unitBytes[unit] ?? 0) / (rates[s] ?? 1),
    ),
  );
  return { p, q, theta, mu2, mu1 };
}

/** (S, L): what the peers report, within the cap; what is negative or no number counts 0. */
export function progressOf({ peers }: Usable, unitBytes: readonly number[]): number[][] {
  const rows = peers.map(({ progress }) => unitBytes.map((_, unit) => finite(progress[unit] ?? 0)));
  for (let unit = 0; unit < unitBytes.length; unit += 1) {
    const reported = rows
      .map((row) => row[unit] ?? 0)
      .filter((value) => value > 0)
      .sort((a, b) => a - b);
    for (const row of rows) {
      const own = row[unit] ?? 0;
      if (own > 0) row[unit] = Math.min(own, PROGRESS_CAP * medianWithout(reported, own));
    }
  }
  return rows;
}

/** Of ascending values without one that is `own`; Infinity where no other is left. */
function medianWithout(sorted: readonly number[], own: number): number {
  const gap = sorted.indexOf(own);
  const other = (i: number): number => sorted[i < gap ? i : i + 1] ?? 0;
  const count = sorted.length - 1;
  const half = count >> 1;
  if (count === 0) return Infinity;
  return count % 2 === 1 ? other(half) : (other(half - 1) + other(half)) / 2;
}

const finite = (value: number): number => (value > 0 && Number.isFinite(value) ? value : 0);

/** Those that may serve a unit and are not asked for it already, the quickest first. */
function sparesOf(
  { peers }: Usable,
  units: readonly (readonly number[])[],
  efficiency: readonly (readonly number[])[],
): (unit: number) => string[] {
  return (unit) =>
    peers
      .flatMap(({ id }, s) => {
        const value = efficiency[s]?.[unit] ?? 0;
        return value > 0 && !(units[s] ?? []).includes(unit) ? [{ id, value }] : [];
      })
      .sort((a, b) => b.value - a.value || byId(a.id, b.id))
      .map(({ id }) => id);
}

/** Each unit from the first of its order; the others are its spares. */
function inOrder(usable: Usable, orders: readonly (readonly number[])[], unitBytes: readonly number[]): Plan {
  const units = usable.peers.map((_, s) => orders.flatMap(([first], unit) => (first === s ? [unit] : [])));
  const spares = (unit: number): string[] => (orders[unit] ?? []).slice(1).map((s) => usable.peers[s]?.id ?? '');
  return planOf(usable, units, unitBytes, { kind: 'uniform' }, { spares });
}
