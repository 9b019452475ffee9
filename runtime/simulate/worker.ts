// One worker: trains on its own rows, plans what to collect, merges it. Planners, rounds and bandwidth estimates are the product's. When it
// does what is schedule.ts.
import { Bandwidth } from '../average/bandwidth.ts';
import { Clipping } from '../average/clipping.ts';
import type { PeerView } from '../average/planner.ts';
import { addMovement, Collection, type Gift, type Member, type Store, type World } from './collection.ts';
import { Draws } from './draws.ts';
import { squaredDistance } from './learner.ts';
import { minibatches } from './setup.ts';

export interface Tally {
  iterations: number;
  trainingSeconds: number;
  plans: number;
  failedPulls: number;
  /** Rounds that asked for anything: from the plan to the last answer, and models' worth of bytes that came. */
  rounds: number;
  roundSeconds: number;
  roundModels: number;
}

/** Spread of the time that training takes, from one iteration to the next. */
const JITTER = 0.1;
/** To a unit: its progress. */
const METADATA_BYTES = 8;

export class Worker implements Member {
  readonly index: number;
  readonly id: string;
  readonly bandwidth = new Bandwidth();
  readonly tally: Tally = {
    ...{ iterations: 0, trainingSeconds: 0, plans: 0, failedPulls: 0 },
    ...{ rounds: 0, roundSeconds: 0, roundModels: 0 },
  };
  store: Store;
  isServing = true;
  readonly #world: World;
  readonly #nextBatch: () => Uint32Array;
  readonly #jitter: Draws;
  readonly #random: Draws;
  readonly #clipping: Clipping;
  /** What each peer showed when it was last planned with: how far it has moved since is its progress. */
  readonly #seen = new Map<number, Store>();
  /** What training made and nobody has seen yet. */
  #trained: Float32Array | null = null;
  #collection: Collection | null = null;
  #gifts: Gift[] = [];
  readonly #underWay = new Set<() => void>();

  constructor(world: World, index: number) {
    const { config, seed, ranges, initial, ids } = world.setup;
    this.#world = world;
    this.index = index;
    this.id = ids[index] ?? '';
    this.store = { weights: initial, progress: new Float64Array(ranges.length) };
    this.#nextBatch = minibatches(world.setup, index);
    this.#jitter = new Draws(seed, 'compute', index);
    this.#random = new Draws(seed, 'planner', index);
    this.#clipping = new Clipping(ranges.length, { factor: config.clip ?? Infinity });
  }

  /** One iteration's minibatches, from what is shown now. */
  train(onDone: () => void): void {
    const { learner, config, computeSeconds } = this.#world.setup;
    const seconds = (computeSeconds[this.index] ?? 1) * this.#jitter.logNormal(JITTER);
    this.#after(seconds, () => {
      const weights = this.store.weights.slice();
      for (let step = 0; step < config.learning.steps; step += 1) learner.step(weights, this.#nextBatch());
      this.#trained = weights;
      this.tally.trainingSeconds += seconds;
      onDone();
    });
  }

  /** Asks those who are there what they hold, plans, pulls. `onOver`: nothing is on its way any more. */
  collect(onOver: () => void): void {
    const { setup, network } = this.#world;
    const peers = this.#servers();
    const wait = peers.reduce((longest, peer) => Math.max(longest, network.rttSeconds(this.index, peer)), 0);
    for (const peer of peers) network.count(peer, this.index, METADATA_BYTES * setup.unitBytes.length);
    this.#after(wait, () => this.#plan(onOver));
  }

  /** What training made becomes what others see. */
  show(): void {
    this.#replace(this.#trained ?? this.store.weights);
  }

  /** What training made and what has come, together, become what others see. */
  merge(): void {
    const { ranges, config } = this.#world.setup;
    const trained = this.#trained ?? this.store.weights;
    const isCorrection = config.merge === 'correction';
    const next = (isCorrection ? this.store.weights : trained).slice();
    this.#collection?.mergeInto(next);
    // One exchange after the other, each half way from where the last one led: all at once they would overshoot.
    for (const { units, store, coefficient } of this.#gifts)
      for (const unit of units) {
        const range = ranges[unit];
        if (range) addMovement(next, store.weights, next, coefficient, range);
      }
    if (isCorrection) addMovement(next, trained, this.store.weights, 1, { from: 0, to: next.length });
    this.#collection = null;
    this.#gifts = [];
    this.#replace(next);
    this.tally.iterations += 1;
  }

  take(gift: Gift): void {
    if (this.isServing) this.#gifts.push(gift);
  }

  /** Everything that it had begun comes to nothing. */
  stop(): void {
    this.isServing = false;
    for (const cancel of this.#underWay) cancel();
    this.#underWay.clear();
    this.#collection?.cancel();
    this.#collection = this.#trained = null;
    this.#gifts = [];
  }

  /** One full model from a neighbour; where nobody is there it goes on with what it has. */
  catchUp(onDone: () => void): void {
    const { setup, network, members } = this.#world;
    const peers = this.#servers();
    const peer = peers[peers.length === 0 ? 0 : this.#random.below(peers.length)];
    const settle = (): void => {
      this.isServing = true;
      onDone();
    };
    if (peer === undefined) return settle();
    const { weights } = members[peer]?.store ?? this.store;
    const cancel = network.transfer(peer, this.index, setup.modelBytes, {
      onDone: () => {
        this.#underWay.delete(cancel);
        this.store = { ...this.store, weights };
        settle();
      },
      onFailed: () => {
        this.#underWay.delete(cancel);
        this.catchUp(onDone);
      },
    });
    this.#underWay.add(cancel);
  }

  #after(seconds: number, action: () => void): void {
    const { clock } = this.#world;
    const cancel = (): void => clock.cancel(timer);
    const timer = clock.after(seconds, () => {
      this.#underWay.delete(cancel);
      action();
    });
    this.#underWay.add(cancel);
  }

  #servers(): number[] {
    const { setup, members } = this.#world;
    return (setup.neighbours[this.index] ?? []).filter((peer) => members[peer]?.isServing ?? false);
  }

  #plan(onOver: () => void): void {
    const { setup, planner, view } = this.#world;
    const network = view();
    const plan = planner.plan({
      ...{ self: this.id, unitBytes: setup.unitBytes, downlink: this.bandwidth.downlink, random: this.#random.uniform },
      peers: this.#servers().map((peer) => this.#viewOf(peer)),
      round: this.tally.plans,
      ...(network === undefined ? {} : { network }),
    });
    this.tally.plans += 1;
    const collection = new Collection(this.#world, this, plan, this.#clipping, () => {
      this.#count(collection);
      onOver();
    });
    this.#collection = collection;
    collection.start();
  }

  #count({ plan, startedAt, bytes, failedPulls }: Collection): void {
    this.tally.failedPulls += failedPulls;
    if (plan.pulls.length === 0) return;
    this.tally.rounds += 1;
    this.tally.roundSeconds += this.#world.clock.now - startedAt;
    this.tally.roundModels += bytes / this.#world.setup.modelBytes;
  }

  #viewOf(peer: number): PeerView {
    const { setup, clock, members } = this.#world;
    const { ranges, config, initial, divergence, neighbours, ids } = setup;
    const id = ids[peer] ?? '';
    const store = members[peer]?.store ?? this.store;
    const seen = this.#seen.get(peer);
    this.#seen.set(peer, store);
    const progress = ranges.map(({ from, to }, unit) =>
      config.progress === 'exact'
        ? squaredDistance(store.weights, seen?.weights ?? initial, from, to)
        : (store.progress[unit] ?? 0) - (seen?.progress[unit] ?? 0),
    );
    return {
      ...{ id, progress, divergence: divergence[this.index]?.[peer] ?? 0, degree: neighbours[peer]?.length ?? 0 },
      bytesPerSecond: this.bandwidth.of(id, clock.now * 1000),
    };
  }

  #replace(weights: Float32Array): void {
    const { ranges } = this.#world.setup;
    const { weights: before, progress } = this.store;
    const trained = this.#trained;
    const moved = progress.map((sum, unit) => {
      const range = ranges[unit];
      return trained && range ? sum + squaredDistance(trained, before, range.from, range.to) : sum;
    });
    this.#trained = null;
    this.store = { weights, progress: moved };
  }
}
