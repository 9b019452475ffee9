// One round of averaging as a state machine without I/O: what to ask of whom, until when, whom to ask instead, and what the answers become.
// averager.ts drives it over links and the simulator over virtual flows. Times are milliseconds on the driver's clock.
import { clipFactor, type Clipping } from './clipping.ts';
import type { Plan } from './planner.ts';

export interface PullRequest {
  peer: string;
  units: readonly number[];
  /** From now on. */
  deadlineMs: number;
}

/** What was found out about a unit as it arrived. */
export interface Arrival {
  unit: number;
  isFinite: boolean;
  /** Of its distance to the unit here, and of its own size: squares of Euclidean norms. */
  squaredDistance: number;
  squaredNorm: number;
}

/** Where a unit moves: w + Σ coefficient · (w_peer − w). */
export interface UnitMix {
  unit: number;
  from: { peer: string; coefficient: number }[];
}

export interface RoundOptions {
  plan: Plan;
  /** Squared norms of the own units. */
  squaredNorm: readonly number[];
  clipping: Clipping;
  now: number;
  /** Round trip to a peer. */
  rttMs: (peer: string) => number;
  /** Of a pull at least, and where nothing is known of the link. */
  leastMs?: number;
  patienceMs?: number;
}

const LEAST_MS = 2_000;
const PATIENCE_MS = 30_000;
/** A pull may take so many times what was expected. */
const SLACK = 2;
/** After this many times the longest expected pull nobody is asked anew. */
const LATE = 1.5;

export class Round {
  readonly #options: RoundOptions;
  readonly #outstanding = new Set<PullRequest>();
  readonly #asked = new Map<number, Set<string>>();
  /** Who did not bring all that was asked of it is asked for nothing else. */
  readonly #failed = new Set<string>();
  readonly #arrived = new Map<number, (Arrival & { peer: string })[]>();
  readonly #longestMs: number;

  constructor(options: RoundOptions) {
    this.#options = options;
    const { leastMs = LEAST_MS, patienceMs = PATIENCE_MS } = options;
    const known = options.plan.pulls.map(({ etaSeconds }) => etaSeconds * 1_000);
    const longest = Math.max(0, ...known);
    this.#longestMs = longest > 0 ? Math.max(longest, leastMs) : patienceMs;
  }

  /** The first requests, one for each peer of the plan. */
  start(): PullRequest[] {
    return this.#options.plan.pulls.map(({ peer, units, etaSeconds }) => this.#ask(peer, units, etaSeconds * 1_000));
  }

  /** Late answers count as long as the round is not over. */
  arrived(request: PullRequest, arrivals: readonly Arrival[]): void {
    this.#outstanding.delete(request);
    for (const arrival of arrivals) {
      const list = this.#arrived.get(arrival.unit) ?? [];
      list.push({ ...arrival, peer: request.peer });
      this.#arrived.set(arrival.unit, list);
    }
  }

  /**
   * The peer did not answer, or not with all that was asked for. Units that nobody else has brought or is bringing are asked of the next
   * best peers that have not failed, unless it is too late for that; they keep their own weights then.
   */
  failed(request: PullRequest, now: number, arrivals: readonly Arrival[] = []): PullRequest[] {
    this.arrived(request, arrivals);
    this.#failed.add(request.peer);
    const { plan } = this.#options;
    if (now - this.#options.now > this.#longestMs * LATE) return [];
    const underWay = new Set([...this.#outstanding].flatMap(({ units }) => units));
    const missing = request.units.flatMap((unit) => {
      if (underWay.has(unit) || (this.#arrived.get(unit)?.length ?? 0) > 0) return [];
      const asked = this.#asked.get(unit);
      const next = plan.spares?.(unit).find((peer) => asked?.has(peer) !== true && !this.#failed.has(peer));
      return next === undefined ? [] : [{ unit, next }];
    });
    const instead = Map.groupBy(missing, ({ next }) => next);
    return [...instead].map(([peer, units]) =>
      this.#ask(
        peer,
        units.map(({ unit }) => unit),
        this.#longestMs / SLACK,
      ),
    );
  }

  get isOver(): boolean {
    return this.#outstanding.size === 0;
  }

  /** By unit, what each peer brought: what judge.ts looks at. */
  get arrivals(): ReadonlyMap<number, readonly (Arrival & { peer: string })[]> {
    return this.#arrived;
  }

  /**
   * What the answers become, without those of the peers left out, in whatever order they came. Distances that count are remembered for the
   * radius of later rounds.
   */
  mixes(isLeftOut: (peer: string) => boolean): UnitMix[] {
    const { plan, clipping, squaredNorm } = this.#options;
    const mixes: UnitMix[] = [];
    for (const [unit, all] of [...this.#arrived].sort(([a], [b]) => a - b)) {
      const good = all
        .filter(({ peer, isFinite }) => isFinite && !isLeftOut(peer))
        .sort((a, b) => (a.peer < b.peer ? -1 : 1));
      if (good.length === 0) continue;
      const radius = clipping.radius(unit, Math.sqrt(squaredNorm[unit] ?? 0));
      const from = good.flatMap(({ peer, squaredDistance }) => {
        const share = plan.mixing.kind === 'uniform' ? 1 / (good.length + 1) : (plan.mixing.of[peer] ?? 0);
        const distance = Math.sqrt(squaredDistance);
        clipping.accept(unit, distance, radius);
        const coefficient = share * clipFactor(distance, radius);
        return coefficient > 0 ? [{ peer, coefficient }] : [];
      });
      if (from.length > 0) mixes.push({ unit, from });
    }
    return mixes;
  }

  #ask(peer: string, units: readonly number[], etaMs: number): PullRequest {
    const { leastMs = LEAST_MS, patienceMs = PATIENCE_MS, rttMs } = this.#options;
    const expected = etaMs > 0 ? etaMs * SLACK + rttMs(peer) : patienceMs;
    const request = { peer, units, deadlineMs: Math.max(leastMs, expected) };
    this.#outstanding.add(request);
    for (const unit of units) this.#asked.set(unit, (this.#asked.get(unit) ?? new Set()).add(peer));
    return request;
  }
}
