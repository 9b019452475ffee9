// What one worker collects in one iteration: the requests of a round over virtual transfers, their deadlines, and what came. The round
// itself, who is asked anew and what each answer counts, is the product's.
import type { Bandwidth } from '../average/bandwidth.ts';
import type { Clipping } from '../average/clipping.ts';
import type { NetworkView, Plan, Planner } from '../average/planner.ts';
import { Round, type Arrival, type PullRequest } from '../average/round.ts';
import type { Clock } from './events.ts';
import { squaredDistance } from './learner.ts';
import type { Network } from './network.ts';
import type { UnitRange } from './payload.ts';
import { patienceMs, type Setup } from './setup.ts';

/** What a worker shows and serves; never changed, only replaced. */
export interface Store {
  readonly weights: Float32Array;
  /** By unit: running sum of the squared movement that training made. */
  readonly progress: Float64Array;
}

/** The half of an exchange that goes the other way: what the one who asked had. */
export interface Gift {
  readonly units: readonly number[];
  readonly store: Store;
  readonly coefficient: number;
}

/** As others see a worker. */
export interface Member {
  readonly index: number;
  readonly id: string;
  readonly store: Store;
  readonly bandwidth: Bandwidth;
  /** Whether it holds what others may have: not before it has caught up after an absence. */
  readonly isServing: boolean;
  take(gift: Gift): void;
}

export interface World {
  readonly setup: Setup;
  readonly clock: Clock;
  readonly network: Network;
  readonly planner: Planner;
  readonly members: readonly Member[];
  /** What the monitor of `netmax` says. */
  readonly view: () => NetworkView | undefined;
}

export class Collection {
  readonly plan: Plan;
  readonly startedAt: number;
  failedPulls = 0;
  bytes = 0;
  readonly #world: World;
  readonly #own: Member;
  readonly #base: Store;
  readonly #round: Round;
  readonly #onOver: () => void;
  /** By peer and unit. */
  readonly #held = new Map<string, Store[]>();
  readonly #underWay = new Set<() => void>();

  constructor(world: World, own: Member, plan: Plan, clipping: Clipping, onOver: () => void) {
    const { setup, network, clock } = world;
    this.plan = plan;
    this.startedAt = clock.now;
    this.#world = world;
    this.#own = own;
    this.#base = own.store;
    this.#onOver = onOver;
    this.#round = new Round({
      ...{ plan, clipping, now: clock.now * 1000, patienceMs: patienceMs(setup) },
      squaredNorm: this.#isMeasured ? setup.ranges.map((range) => squaredNorm(own.store.weights, range)) : [],
      rttMs: (peer) => network.rttSeconds(own.index, setup.indexOf.get(peer) ?? 0) * 1000,
    });
  }

  start(): void {
    for (const request of this.#round.start()) this.#ask(request);
    this.#checkOver();
  }

  cancel(): void {
    for (const cancel of this.#underWay) cancel();
    this.#underWay.clear();
  }

  /** Moves `weights` towards what came. */
  mergeInto(weights: Float32Array): void {
    const { ranges } = this.#world.setup;
    const from = weights.slice();
    for (const { unit, from: parts } of this.#round.mixes(() => false)) {
      const range = ranges[unit];
      if (!range) continue;
      for (const { peer, coefficient } of parts) {
        const store = this.#held.get(peer)?.[unit];
        if (store) addMovement(weights, store.weights, from, coefficient, range);
      }
    }
  }

  /** Distances matter only where contributions are clipped. */
  get #isMeasured(): boolean {
    return this.#world.setup.config.clip !== null;
  }

  #ask(request: PullRequest): void {
    const { setup, network, clock, members } = this.#world;
    const { bandwidth, index } = this.#own;
    const peer = setup.indexOf.get(request.peer) ?? -1;
    const server = members[peer];
    if (!server) throw new RangeError(`${request.peer} is no worker.`);
    const { store } = server;
    const bytes = request.units.reduce((sum, unit) => sum + (setup.unitBytes[unit] ?? 0), 0);
    const askedAt = clock.now;
    const cancel = network.transfer(peer, index, bytes, {
      onDone: (bytesPerSecond) => {
        close();
        bandwidth.record(request.peer, bytes, bytes / bytesPerSecond, clock.now * 1000);
        this.#round.arrived(request, this.#take(request, store, bytes));
        this.#checkOver();
      },
      onFailed: (came) => {
        close();
        this.#fail(request, store, came);
      },
    });
    const deadline = clock.after(request.deadlineMs / 1000, () => {
      close();
      const came = cancel();
      // What did come tells how slow the link has become.
      bandwidth.record(request.peer, came, clock.now - askedAt, clock.now * 1000);
      this.#fail(request, store, came);
    });
    const abandon = (): void => {
      cancel();
      clock.cancel(deadline);
    };
    const close = (): void => {
      clock.cancel(deadline);
      this.#underWay.delete(abandon);
    };
    this.#underWay.add(abandon);
    if (this.plan.isExchange === true) this.#give(server, request.units, bytes);
  }

  /** Units that had come whole count. */
  #fail(request: PullRequest, store: Store, came: number): void {
    this.failedPulls += 1;
    const arrivals = this.#take(request, store, came);
    for (const again of this.#round.failed(request, this.#world.clock.now * 1000, arrivals)) this.#ask(again);
    this.#checkOver();
  }

  /** Of the units, one after the other, those that are among the first `bytes`. */
  #take({ peer, units }: PullRequest, store: Store, bytes: number): Arrival[] {
    const { unitBytes } = this.#world.setup;
    const held = this.#held.get(peer) ?? [];
    this.#held.set(peer, held);
    this.bytes += bytes;
    let left = bytes;
    const whole = units.filter((unit) => (left -= unitBytes[unit] ?? 0) >= -1e-6);
    for (const unit of whole) held[unit] = store;
    return whole.map((unit) => this.#arrival(unit, store));
  }

  /** The other half of an exchange; it is not waited for. */
  #give(other: Member, units: readonly number[], bytes: number): void {
    const { mixing } = this.plan;
    const coefficient = mixing.kind === 'weights' ? (mixing.of[other.id] ?? 0) : 0;
    const gift = { units, store: this.#base, coefficient };
    const outcome = { onDone: () => other.take(gift), onFailed: () => {} };
    this.#world.network.transfer(this.#own.index, other.index, bytes, outcome);
  }

  #arrival(unit: number, { weights }: Store): Arrival {
    const range = this.#isMeasured ? this.#world.setup.ranges[unit] : undefined;
    if (!range) return { unit, isFinite: true, squaredDistance: 0, squaredNorm: 0 };
    const { from, to } = range;
    const distance = squaredDistance(weights, this.#base.weights, from, to);
    return { unit, isFinite: true, squaredDistance: distance, squaredNorm: squaredNorm(weights, range) };
  }

  #checkOver(): void {
    if (!this.#round.isOver) return;
    const seconds = this.#world.clock.now - this.startedAt;
    this.#own.bandwidth.recordTogether(this.bytes, seconds);
    this.#onOver();
  }
}

/** w += coefficient · (to − from) in a range. */
export function addMovement(
  weights: Float32Array,
  to: Float32Array,
  from: Float32Array,
  coefficient: number,
  range: UnitRange,
): void {
  for (let k = range.from; k < range.to; k += 1)
    weights[k] = (weights[k] ?? 0) + coefficient * ((to[k] ?? 0) - (from[k] ?? 0));
}

function squaredNorm(weights: Float32Array, { from, to }: UnitRange): number {
  let sum = 0;
  for (let k = from; k < to; k += 1) sum += (weights[k] ?? 0) * (weights[k] ?? 0);
  return sum;
}
