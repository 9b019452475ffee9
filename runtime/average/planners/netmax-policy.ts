// The network monitor of NetMax (Zhou et al., ICDE 2021, arXiv 2009.05766): with what probability each worker pulls from each other one,
// and how much what it pulls counts, so that the errors decay soonest by the clock. Written from what is publicly known of the paper, not
// from its text. A linear program for each row in the original; the rows are independent, with one equality and one budget each, and are
// solved in closed form here. Pure: a view of the network in, a policy out.
import { ln } from '../../train/dirichlet.ts';
import type { NetworkView } from '../planner.ts';
import { shrinkageOf, spectralGap, type Matrix } from './netmax-mixing.ts';

type Times = readonly (readonly (number | null)[])[];

export interface Policy {
  readonly ids: readonly string[];
  /** (N, N): p[i][m], the chance that worker i pulls from m in an iteration; p[i][i]: that it pulls from none. Rows sum to one. */
  readonly p: Matrix;
  /** (N, N): what i adds of (x_m − x_i) when it has pulled from m, at most ½. */
  readonly weight: Matrix;
  /** ρ of the penalty that ties neighbours together; null: of a policy that is not the paper's. */
  readonly rho: number | null;
  /** Until the squared distances between workers have fallen to ε; Infinity where the workers are not connected. */
  readonly convergenceSeconds: number;
}

/** Candidates of ρ, and of the mean time of an iteration for each. */
const RHO_POINTS = 10;
const TIME_POINTS = 10;
const TILTS = [0, 1, 2, 3];
const EPSILON = 0.01;
/** A link that takes so many times the median is left out while the others still connect its ends: its lower bound would cost more. */
const SLOW_LINK = 4;
const ROUNDING = 1e-9;

/**
 * What agrees soonest of: the paper's own optimum; the uniform policy; and policies between these, quick links more likely in powers of
 * their speed, each counting ½. Nothing in the paper's constraints keeps its optimum from being worse than uniform, and on networks
 * whose links are spread evenly it is, by half to twice: every listed link keeps a chance of at least 2αρ, and all workers must take the
 * same time.
 */
export function optimisePolicy(network: NetworkView): Policy {
  const seconds = symmetricLinks(network);
  const tilted = TILTS.map((tilt) => tiltedPolicy(network.ids, seconds, tilt));
  const bounded = boundedPolicy(network);
  const [first, ...others] = bounded === null ? tilted : [...tilted, bounded];
  if (!first) throw new RangeError('There is always the uniform policy.');
  return others.reduce((best, one) => (one.convergenceSeconds < best.convergenceSeconds ? one : best), first);
}

/** The paper's optimum: t̄ · ln ε / ln λ2(Y) is least, every row keeps its bounds, all workers take the same time. null: there is none. */
export function boundedPolicy(network: NetworkView): Policy | null {
  const seconds = symmetricLinks(network);
  const links = withoutSlowLinks(seconds);
  const largestDegree = Math.max(...links.map((row, i) => degreeOf(row, i)));
  let best: { p: number[][]; weight: number[][]; strength: number } | null = null;
  let least = Infinity;
  for (let k = 1; k <= RHO_POINTS; k += 1) {
    // α·ρ; beyond 1 / (2·largest degree) the lower bounds of a row exceed 1.
    const strength = k / RHO_POINTS / (2 * largestDegree);
    const { from, to } = timesOf(links, strength);
    for (let r = 0; from <= to && r < TIME_POINTS; r += 1) {
      const time = from + ((to - from) * r) / (TIME_POINTS - 1);
      const p = links.map((row, i) => solveRow(row, i, strength, time));
      if (!p.every((row) => row !== null)) continue;
      const weight = p.map((row, i) => row.map((chance, m) => (m === i || chance === 0 ? 0 : strength / chance)));
      // Without what is the same for all: ln ε, and the N between t̄ and a worker's time.
      const gap = spectralGap(p, weight);
      const candidate = gap > 0 ? time / -ln(1 - gap) : Infinity;
      if (candidate >= least) continue;
      least = candidate;
      best = { p, weight, strength };
    }
  }
  if (best === null) return null;
  const { p, weight, strength } = best;
  const { ids, learningRate } = network;
  return { ids, p, weight, rho: strength / learningRate, convergenceSeconds: convergenceOf({ p, weight, seconds }) };
}

/** How long until the workers' squared distances have fallen to ε, each acting as often as its iterations take. */
export function convergenceOf(given: { p: Matrix; weight: Matrix; seconds: Times }): number {
  const { p, weight, seconds } = given;
  const rates = p.map((row, i) => 1 / row.reduce((sum, chance, m) => sum + chance * (seconds[i]?.[m] ?? 0), 0));
  const total = rates.reduce((a, b) => a + b, 0);
  const shrinkage = shrinkageOf(p, weight, rates.map((rate) => rate / total)); // prettier-ignore
  return shrinkage > 0 ? ln(EPSILON) / ln(Math.max(Number.EPSILON, 1 - shrinkage)) / total : Infinity;
}

/** p_im ∝ 1 / t_im^tilt, each pull counting ½; 0 is the uniform policy. */
export function tiltedPolicy(ids: readonly string[], seconds: Times, tilt: number): Policy {
  const p = seconds.map((row, i) => {
    const likely = row.map((time, m) => (m === i || time === null ? 0 : 1 / power(time, tilt)));
    const total = likely.reduce((a, b) => a + b, 0);
    return likely.map((chance, m) => (total > 0 ? chance / total : m === i ? 1 : 0));
  });
  const weight = p.map((row, i) => row.map((chance, m) => (m === i || chance === 0 ? 0 : 0.5)));
  return { ids, p, weight, rho: null, convergenceSeconds: convergenceOf({ p, weight, seconds }) };
}

const power = (base: number, exponent: number): number =>
  Array.from({ length: exponent }, () => base).reduce((a, b) => a * b, 1);

const degreeOf = (row: readonly (number | null)[], i: number): number =>
  row.reduce<number>((count, time, m) => (m === i || time === null ? count : count + 1), 0);

/** A link counts where both ends know of it; what is no time is no link. Without a time of its own a worker's iteration is its quickest. */
export function symmetricLinks({ seconds }: NetworkView): (number | null)[][] {
  const timeOf = (i: number, m: number): number | null => {
    const time = seconds[i]?.[m] ?? null;
    return time !== null && time > 0 && Number.isFinite(time) ? time : null;
  };
  return seconds.map((_, i) => {
    const row = seconds.map((__, m) => (m === i || timeOf(m, i) !== null ? timeOf(i, m) : null));
    const quickest = row.reduce<number>((least, time) => Math.min(least, time ?? Infinity), Infinity);
    row[i] ??= quickest < Infinity ? quickest : 1;
    return row;
  });
}

/** Leaves out the slowest first, both ways, as long as its ends stay connected by others. */
function withoutSlowLinks(seconds: (number | null)[][]): (number | null)[][] {
  const kept = seconds.map((row) => [...row]);
  const links = kept.flatMap((row, i) =>
    row.flatMap((time, m) => (m <= i || time === null ? [] : [{ i, m, time: Math.max(time, kept[m]?.[i] ?? time) }])),
  );
  links.sort((a, b) => b.time - a.time || a.i - b.i || a.m - b.m);
  const middle = links[links.length >> 1]?.time ?? 0;
  for (const { i, m, time } of links) {
    if (time <= SLOW_LINK * middle) break;
    const [from, to] = [kept[i], kept[m]];
    if (!from || !to) continue;
    const [out, back] = [from[m] ?? null, to[i] ?? null];
    from[m] = to[i] = null;
    if (areConnected(kept, i, m)) continue;
    from[m] = out;
    to[i] = back;
  }
  return kept;
}

function areConnected(seconds: Times, from: number, to: number): boolean {
  const seen = new Set([from]);
  for (const i of seen) for (const [m, time] of (seconds[i] ?? []).entries()) if (time !== null) seen.add(m);
  return seen.has(to);
}

interface Row {
  /** Of each link, and what they take together. */
  readonly least: number;
  readonly leastSeconds: number;
  /** Chance that is left to share out. */
  readonly rest: number;
  /** Links by time, then by index. */
  readonly links: readonly { m: number; time: number }[];
  readonly idle: number;
}

/** p_im ≥ αρ(d_im + d_mi) for each link. An iteration without a pull takes its own time too. */
function rowOf(times: readonly (number | null)[], i: number, strength: number): Row {
  const links = times
    .flatMap((time, m) => (m === i || time === null ? [] : [{ m, time }]))
    .sort((a, b) => a.time - b.time || a.m - b.m);
  const least = 2 * strength;
  const leastSeconds = links.reduce((sum, { time }) => sum + least * time, 0);
  return { least, leastSeconds, rest: Math.max(0, 1 - least * links.length), links, idle: times[i] ?? 0 };
}

/** Mean times of an iteration that every worker can keep to. A worker without links has nothing to keep to. */
function timesOf(seconds: Times, strength: number): { from: number; to: number } {
  let from = 0;
  let to = Infinity;
  for (const [i, times] of seconds.entries()) {
    const { leastSeconds, rest, links, idle } = rowOf(times, i, strength);
    const [first, last] = [links[0], links.at(-1)];
    if (!first || !last) continue;
    from = Math.max(from, leastSeconds + rest * Math.min(idle, first.time));
    to = Math.min(to, leastSeconds + rest * Math.max(idle, last.time));
  }
  return to === Infinity ? { from: 1, to: 0 } : { from, to };
}

/**
 * One row: the lower bounds, and what chance is left on two choices such that the mean time is `time`. Pulling nothing is the last resort:
 * where the time allows a link for all of it, it goes to the quickest link and the next one that makes up the time.
 */
function solveRow(times: readonly (number | null)[], i: number, strength: number, time: number): number[] | null {
  const { least, leastSeconds, rest, links, idle } = rowOf(times, i, strength);
  const row = times.map(() => 0);
  const [first] = links;
  if (!first) return row.with(i, 1);
  for (const { m } of links) row[m] = least;
  if (rest < ROUNDING) {
    // What the rounding of the bounds leaves is not worth a choice; the time is then what it is.
    if (Math.abs(leastSeconds + rest * first.time - time) > ROUNDING * time) return null;
    row[first.m] = least + rest;
    return row;
  }
  const wanted = (time - leastSeconds) / rest;
  const choices = [{ m: i, time: idle }, ...links];
  const quick = wanted >= first.time * (1 - ROUNDING) ? first : { m: i, time: idle };
  const slow =
    (quick === first ? links : choices).find(
      (choice) => choice.time >= wanted * (1 - ROUNDING) && choice !== quick && choice.m !== i,
    ) ?? quick;
  const span = slow.time - quick.time;
  const share = span > 0 ? Math.min(1, Math.max(0, (wanted - quick.time) / span)) : 0;
  const reached = quick.time + share * span;
  if (Math.abs(reached - wanted) * rest > ROUNDING * time) return null;
  row[slow.m] = (row[slow.m] ?? 0) + rest * share;
  row[quick.m] = (row[quick.m] ?? 0) + rest * (1 - share);
  return row;
}
