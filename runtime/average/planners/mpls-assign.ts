// Algorithm 1 of MPLS: which unit comes from which peers. Two phases: every unit once, the load shared out with the list scheduling of
// Davis and Jaffe (1981); then whatever else fits into the time that the slowest pull takes anyway. Pure arithmetic on Scores.
/** All that Algorithm 1 starts from. Rows are peers, columns units. */
export interface Scores {
  /** (S): Eq. 4. */
  readonly p: readonly number[];
  /** (S, L): Eq. 6. */
  readonly q: readonly (readonly number[])[];
  /** (L) */
  readonly theta: readonly number[];
  /** (S, L): p·q. */
  readonly mu2: readonly (readonly number[])[];
  /** (S, L): seconds; Infinity where the unit is not to come from that peer. */
  readonly mu1: readonly (readonly number[])[];
}

export type Fill = 'access' | 'paper' | 'none';

export interface Assignment {
  /** (S): indices of units in the order in which they were assigned. */
  readonly units: readonly (readonly number[])[];
  /** (S): seconds. */
  readonly sums: readonly number[];
  /** The longest of them after phase 1, what the paper calls MAX; with `access` also what the downlink needs for phase 1. */
  readonly limit: number;
  /** (S, L): Eq. 9; 0 where masked. */
  readonly efficiency: readonly (readonly number[])[];
}

/** Of line 19: 0.4 + 0.1 is not 0.5 to the last bit. */
const TOLERANCE = 1e-12;

/** Scores of at least one peer. `downlink`: bytes a second. */
export function assign(
  { mu1, mu2 }: Scores,
  unitBytes: readonly number[],
  rates: readonly number[],
  fill: Fill,
  downlink: number,
): Assignment {
  const efficiency = efficiencyOf(mu1, unitBytes);
  // Lines 4 and 18. Of equal efficiency the larger unit first: small ones fit into what is left.
  const lists = efficiency.map((row) =>
    unitBytes
      .map((_, unit) => unit)
      .sort((a, b) => (row[b] ?? 0) - (row[a] ?? 0) || (unitBytes[b] ?? 0) - (unitBytes[a] ?? 0) || a - b),
  );
  const state: State = {
    units: mu1.map(() => []),
    sums: mu1.map(() => 0),
    secondsOf: (s, unit) => (unitBytes[unit] ?? 0) / (rates[s] ?? 1),
  };
  cover(state, efficiency, lists, unitBytes.length);
  const longest = state.sums.reduce((a, b) => Math.max(a, b), 0);
  if (fill === 'none') return { ...state, limit: longest, efficiency };
  // Without a known downlink there is only the paper's bound to keep.
  const isBound = fill === 'access' && downlink > 0 && downlink < Infinity;
  const limit = isBound
    ? fillWithin(state, { mu1, mu2, unitBytes, rates, downlink, longest })
    : fillUpTo(state, { mu1, lists, longest });
  return { ...state, limit, efficiency };
}

interface State {
  readonly units: number[][];
  readonly sums: number[];
  readonly secondsOf: (s: number, unit: number) => number;
}

/** Eq. 9: how quick a peer is for a unit against the quickest that may serve it. A unit without bytes is as quick everywhere. */
function efficiencyOf(mu1: Scores['mu1'], unitBytes: readonly number[]): number[][] {
  const best = unitBytes.map((_, unit) => mu1.reduce((least, row) => Math.min(least, row[unit] ?? Infinity), Infinity));
  return mu1.map((row) =>
    row.map((seconds, unit) => {
      const least = best[unit] ?? 0;
      return seconds === Infinity ? 0 : least > 0 ? least / seconds : 1;
    }),
  );
}

/**
 * Phase 1, lines 5 to 14. A peer that is too slow for the best unit left for it (E ≤ 1/√S) drops out. As printed, one single peer would
 * drop out at once, since its E is 1 and 1/√1 too; it gets everything. With two or more this always ends: of each unit some peer has E = 1.
 */
function cover({ units, sums, secondsOf }: State, efficiency: number[][], lists: number[][], unitCount: number): void {
  const rank = efficiency.map((row) => row.reduce((a, b) => a + b, 0));
  const open = new Set(lists[0]);
  const available = new Set(sums.keys());
  const least = sums.length > 1 ? 1 / Math.sqrt(sums.length) : -1;
  /** Where each list was left: what lies before it is assigned. */
  const cursor = lists.map(() => 0);
  while (open.size > 0 && available.size > 0) {
    let chosen = -1;
    for (const s of available) {
      const isBetter =
        chosen < 0 ||
        at(sums, s) < at(sums, chosen) ||
        (at(sums, s) === at(sums, chosen) && at(rank, s) > at(rank, chosen));
      if (isBetter) chosen = s;
    }
    const list = lists[chosen] ?? [];
    let position = at(cursor, chosen);
    while (position < unitCount && !open.has(at(list, position))) position += 1;
    cursor[chosen] = position;
    const unit = at(list, position);
    const value = efficiency[chosen]?.[unit] ?? 0;
    if (value <= least) {
      available.delete(chosen);
      continue;
    }
    open.delete(unit);
    units[chosen]?.push(unit);
    sums[chosen] = at(sums, chosen) + secondsOf(chosen, unit);
    rank[chosen] = at(rank, chosen) - value;
  }
}

/** Phase 2 as the paper has it, lines 15 to 22: peer by peer, in the order of its list, whatever still fits below the longest. */
function fillUpTo(
  { units, sums, secondsOf }: State,
  given: Pick<Scores, 'mu1'> & { lists: number[][]; longest: number },
): number {
  const { mu1, lists, longest } = given;
  const limit = longest * (1 + TOLERANCE) + TOLERANCE;
  for (const [s, list] of lists.entries()) {
    const has = new Set(units[s]);
    for (const unit of list) {
      const seconds = secondsOf(s, unit);
      if (has.has(unit) || mu1[s]?.[unit] === Infinity || at(sums, s) + seconds > limit) continue;
      units[s]?.push(unit);
      sums[s] = at(sums, s) + seconds;
    }
  }
  return longest;
}

/**
 * Phase 2 where all that comes in shares one downlink. The paper's fill assumes links that do not disturb each other; behind one access line
 * it makes a round longer than pulling one whole model. Here also the sum of all bytes must come in within the time that phase 1 needs, and
 * the pulls that promise most (μ2) come first. The links that are used together must fit into the downlink as well: a line that is full
 * gives every further pull its share at the cost of those under way, they are then measured as slow, and a plan for slow links has ever
 * more time to fill.
 */
function fillWithin(
  { units, sums, secondsOf }: State,
  given: Pick<Scores, 'mu1' | 'mu2'> & {
    unitBytes: readonly number[];
    rates: readonly number[];
    downlink: number;
    longest: number;
  },
): number {
  const { mu1, mu2, unitBytes, rates, downlink, longest } = given;
  let rate = units.reduce((sum, some, s) => sum + (some.length > 0 ? at(rates, s) : 0), 0);
  let bytes = units.flat().reduce((sum, unit) => sum + (unitBytes[unit] ?? 0), 0);
  const limit = Math.max(longest, bytes / downlink);
  const bound = limit * (1 + TOLERANCE) + TOLERANCE;
  const candidates = mu2.flatMap((row, s) => {
    const has = new Set(units[s]);
    return row.flatMap((gain, unit) => (has.has(unit) || mu1[s]?.[unit] === Infinity ? [] : [{ gain, s, unit }]));
  });
  candidates.sort((a, b) => b.gain - a.gain || a.s - b.s || a.unit - b.unit);
  for (const { s, unit } of candidates) {
    const seconds = secondsOf(s, unit);
    const size = unitBytes[unit] ?? 0;
    const more = (units[s]?.length ?? 0) > 0 ? 0 : at(rates, s);
    if (rate + more > downlink) continue;
    if (at(sums, s) + seconds > bound || (bytes + size) / downlink > bound) continue;
    rate += more;
    units[s]?.push(unit);
    sums[s] = at(sums, s) + seconds;
    bytes += size;
  }
  return limit;
}

const at = (values: readonly number[], index: number): number => values[index] ?? 0;
