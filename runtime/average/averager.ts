// Averaging of one replica with the others of its stage: rounds of offers, a plan, pulls in parallel under deadlines, one merge. It runs beside
// training and never stops it; only a synchronous planner's rounds are waited for, by whoever drives them. Policy is elsewhere: planners,
// round.ts, judge.ts. What the others see of this replica is shelf.ts.
import type { AverageSpec } from '../average-spec.ts';
import { MeshError, toMeshError } from '../errors.ts';
import type { Emit } from '../events.ts';
import type { Snapshot, StoreMix } from '../layer-store.ts';
import type { Tensors } from '../tensor.ts';
import type { PeerId, Uid } from '../wire/ids.ts';
import type { Replica } from '../wire/messages.ts';
import { Clipping } from './clipping.ts';
import { Pace } from './pace.ts';
import { Peers, type Offer } from './peers.ts';
import type { Told } from './judge.ts';
import type { Planner } from './planner.ts';
import type { Verdict } from './trust.ts';
import { plannerOf } from './planners/index.ts';
import { Pulls, Stopwatch, type PullsOptions } from './pulls.ts';
import { Round, type UnitMix } from './round.ts';
import { wireBytes } from './shelf.ts';
import { trimOf } from './trim.ts';

export interface AveragerOptions extends PullsOptions {
  uid: Uid;
  /** This peer. */
  self: PeerId;
  emit: Emit;
  /** Own share of each class; empty where there is no data of its own. */
  labels: readonly number[];
  learningRate: number;
  random: () => number;
}

export interface RoundOutcome {
  /** UIDs whose units are in the weights now. */
  peers: string[];
  units: number;
  bytes: number;
  /** Taken from training: waited for the compute worker, and what receiving cost. */
  busyMs: number;
}

/** What a received byte costs this machine's processors, both threads together, counted as time away from training. */
const BYTES_PER_MS = 100_000;
const OFFER_MS = 4_000;
const EVERYTHING = plannerOf('appg');
const NOTHING: RoundOutcome = { peers: [], units: 0, bytes: 0, busyMs: 0 };
/** What is reckoned for a round trip: it only matters where next to nothing is pulled. */
const RTT_MS = 100;

export class Averager {
  readonly peers: Peers;
  readonly #options: AveragerOptions;
  readonly #planner: Planner;
  readonly #clipping: Clipping;
  readonly #wireBytes: number[];
  #rounds = 0;
  /** One round at a time. What others bring does not wait for it: two that bring each other something would wait for ever. */
  #turn: Promise<unknown> = Promise.resolve();
  /** Who serves in step and did not fetch in time: not waited for again before it has fetched a round. */
  readonly #absent = new Set<PeerId>();
  readonly #pace = new Pace();

  constructor(options: AveragerOptions) {
    const { uid, spec, shelf, labels, emit, now } = options;
    this.#options = options;
    this.#planner = plannerOf(spec.planner ?? 'mpls');
    this.#clipping = new Clipping(shelf.units.length, { factor: radiusFactor(spec) });
    this.#wireBytes = shelf.units.map(({ count }) => wireBytes(spec.format, count));
    const isWatching = spec.defence.kind !== 'none' && spec.defence.kind !== 'finite';
    this.peers = new Peers({ uid, units: shelf.units.length, clipping: this.#clipping, labels, isWatching, emit, now });
    if (this.#planner.name === 'ad-psgd')
      shelf.takeIn = (peer, request, tensors) => this.#takeIn(peer, request.units, tensors);
  }

  get isSynchronous(): boolean {
    return this.#planner.isSynchronous;
  }

  /**
   * One round with those of the replicas that can be reached. Never merges half a unit, and nothing where it is aborted. `inStep`: the number
   * of a round that all of them do together; what is pulled is then of that round everywhere.
   */
  round(replicas: readonly Replica[], signal: AbortSignal, inStep?: number): Promise<RoundOutcome> {
    return this.#inTurn(() =>
      this.#round(this.#planner, replicas, signal, inStep ?? (this.isSynchronous ? this.#rounds : undefined)),
    );
  }

  /**
   * The round after training, beside which the planner chose: the mean of everything that everyone has. A planner would pass over who ended
   * first, as its weights have moved least since.
   */
  lastRound(replicas: readonly Replica[], signal: AbortSignal): Promise<RoundOutcome> {
    return this.#inTurn(() => this.#round(EVERYTHING, replicas, signal, undefined));
  }

  /** Rounds beside training until aborted, further apart where they would take more than their share of the machine. */
  async run(
    replicas: () => readonly Replica[],
    signal: AbortSignal,
    rest: (ms: number) => Promise<void>,
  ): Promise<void> {
    const { spec, now, emit } = this.#options;
    while (!signal.aborted) {
      const started = now();
      try {
        const { busyMs } = await this.round(replicas(), signal);
        this.#pace.took(busyMs);
      } catch (cause) {
        if (signal.aborted) return;
        const error = toMeshError(cause);
        if (error.code === 'not-finite' || error.code === 'gpu-lost') throw error;
        emit({
          kind: 'log',
          level: 'warn',
          message: `${this.#options.uid}: a round of averaging failed: ${error.message}`,
        });
      }
      await rest(Math.max(0, Math.max(spec.intervalMs, this.#pace.usualMs / spec.share) - (now() - started)));
    }
  }

  async #round(
    planner: Planner,
    replicas: readonly Replica[],
    signal: AbortSignal,
    inStep: number | undefined,
  ): Promise<RoundOutcome> {
    const { spec, shelf, now, random, self, uid, run, learningRate, emit } = this.#options;
    const started = now();
    const number = inStep ?? this.#rounds;
    // Everyone fetches everything of everyone.
    const isWaitedFor = this.isSynchronous || (inStep !== undefined && planner.name === 'appg');
    const busy = new Stopwatch(now);
    const neighbours = this.peers.admitted(replicas);
    for (const peer of this.#absent) if (shelf.isGiven(peer)) this.#absent.delete(peer);
    const snapshot = await busy.time(() => shelf.snapshot(undefined, inStep));
    this.#rounds = number + 1;
    if (neighbours.length === 0) return { ...NOTHING, busyMs: busy.ms };
    const whole = this.#wireBytes.reduce((sum, bytes) => sum + bytes, 0);
    this.peers.measure(whole, spec.intervalMs / 1_000);
    const offers = await this.#offers(neighbours, signal);
    const views = this.peers.views(offers, number);
    const plan = planner.plan({
      self,
      peers: views,
      unitBytes: this.#wireBytes,
      downlink: this.peers.bandwidth.downlink,
      random,
      round: number,
      network: this.peers.network(self, learningRate),
    });
    const round = new Round({
      plan,
      squaredNorm: snapshot.squaredNorm,
      clipping: this.#clipping,
      now: now(),
      rttMs: () => RTT_MS,
      patienceMs: spec.patienceMs,
      ...(inStep === undefined ? {} : { leastMs: spec.patienceMs }),
    });
    const pulls = new Pulls(this.#options, round, neighbours, busy, this.peers, {
      isExchange: plan.isExchange === true,
      round: inStep,
    });
    try {
      await pulls.all(signal);
      if (isWaitedFor) await this.#untilHave(round.arrivals, signal);
      signal.throwIfAborted();
      if (spec.defence.kind !== 'none')
        this.peers.strike([...pulls.verdicts, ...this.#judged(round, snapshot, pulls.told)], number);
      const mixes = round.mixes((peer) => this.peers.isStruck(peer as PeerId));
      const merges = mixes.map((mix) => this.#storeMix(mix, pulls));
      if (merges.length > 0) await busy.time(() => this.#options.compute.merge(this.#options.handle, merges));
      const tookPart = [...new Set(mixes.flatMap(({ from }) => from.map(({ peer }) => peer as PeerId)))];
      this.peers.endRound(tookPart);
      const peers = tookPart.map((peer) => this.peers.uidOf(peer));
      const busyMs = busy.ms + pulls.bytes / BYTES_PER_MS;
      const outcome = { peers, units: mixes.length, bytes: pulls.bytes, busyMs };
      if (mixes.length > 0)
        emit({ kind: 'layers.merged', uid, run, round: number, ...counts(outcome), ms: now() - started });
      return outcome;
    } finally {
      await pulls.drop();
    }
  }

  /**
   * In step: what is shown of this round must not change, as it does with a merge, before everyone of whom something came has it too, or had
   * the time for it.
   */
  async #untilHave(arrivals: Round['arrivals'], signal: AbortSignal): Promise<void> {
    const { shelf, spec } = this.#options;
    const came = new Set([...arrivals.values()].flat().map(({ peer }) => peer as PeerId));
    const peers = [...came].filter((peer) => !this.#absent.has(peer));
    if (peers.length === 0) return;
    const limit = AbortSignal.any([signal, AbortSignal.timeout(spec.patienceMs)]);
    try {
      await shelf.untilGiven(peers, limit);
    } catch (cause) {
      signal.throwIfAborted();
      if (!limit.aborted) throw cause;
      for (const peer of peers) if (!shelf.isGiven(peer)) this.#absent.add(peer);
    }
  }

  async #offers(neighbours: readonly Replica[], signal: AbortSignal): Promise<Map<PeerId, Offer>> {
    const { ask, run, shelf } = this.#options;
    const offers = new Map<PeerId, Offer>();
    await Promise.all(
      neighbours.map(async (replica) => {
        const body = { uid: replica.uid, run, digest: shelf.digest };
        try {
          offers.set(replica.peer, (await ask(replica, 'layers.offer', body, { signal, deadlineMs: OFFER_MS })).body);
        } catch (cause) {
          signal.throwIfAborted();
          const error = toMeshError(cause);
          if (error.code === 'malformed')
            this.peers.strike([{ peer: replica.peer, offence: 'malformed', detail: error.message }], this.#rounds - 1);
        }
      }),
    );
    return offers;
  }

  #judged(
    round: Round,
    { squaredNorm, progress }: Pick<Snapshot, 'squaredNorm' | 'progress'>,
    told?: ReadonlyMap<string, Told>,
  ): Verdict[] {
    if (this.#options.spec.defence.kind !== 'finite')
      return this.peers.judge.arrivals(round.arrivals, squaredNorm, progress, told);
    const bad = [...round.arrivals.values()].flat().filter(({ isFinite }) => !isFinite);
    return [...new Set(bad.map(({ peer }) => peer))].map((peer) => ({
      peer,
      offence: 'not-finite' as const,
      detail: 'its weights hold NaN or infinity',
    }));
  }

  #storeMix({ unit, from }: UnitMix, pulls: Pulls): StoreMix {
    const mix: StoreMix = {
      unit,
      from: from.map(({ peer, coefficient }) => ({ part: pulls.partOf(peer, unit), coefficient })),
    };
    return { ...mix, ...trimOf(this.#options.spec.defence, from.length + 1) };
  }

  /** Another replica's units, half and half, in exchange for ours. */
  async #takeIn(peer: PeerId, units: readonly number[], tensors: Tensors): Promise<void> {
    const { compute, handle, spec, shelf, uid } = this.#options;
    if (!this.peers.isNeighbour(peer))
      throw new MeshError(
        'unauthorized',
        `${uid} takes in what its neighbours bring, and has averaged with none of this name yet.`,
        'Ask again later; check that each of the two is named as a neighbour of the other.',
      );
    if (this.peers.isBanned(peer)) return;
    const { part, units: received } = await compute.receive(handle, { units, format: spec.format }, tensors);
    try {
      const round = new Round({
        plan: { pulls: [{ peer, units, etaSeconds: 0 }], mixing: { kind: 'weights', of: { [peer]: 0.5 } } },
        squaredNorm: shelf.latest?.squaredNorm ?? [],
        clipping: this.#clipping,
        now: this.#options.now(),
        rttMs: () => 0,
      });
      const [request] = round.start();
      if (request)
        round.arrived(
          request,
          received.map((found, i) => ({ ...found, unit: units[i] ?? 0 })),
        );
      const own = shelf.latest ?? { squaredNorm: [], progress: [] };
      const bad = spec.defence.kind === 'none' ? [] : this.#judged(round, own);
      this.peers.strike(bad, this.#rounds);
      const mixes = round.mixes((id) => this.peers.isStruck(id as PeerId));
      await compute.merge(
        handle,
        mixes.map(({ unit, from }) => ({ unit, from: from.map(({ coefficient }) => ({ part, coefficient })) })),
      );
    } finally {
      await compute.drop(handle, [part]);
    }
  }

  #inTurn(round: () => Promise<RoundOutcome>): Promise<RoundOutcome> {
    const next = this.#turn.then(round).finally(() => this.peers.endRound([]));
    this.#turn = Promise.allSettled([next]);
    return next;
  }
}

const counts = ({ peers, units, bytes }: RoundOutcome): Pick<RoundOutcome, 'peers' | 'units' | 'bytes'> => ({
  peers,
  units,
  bytes,
});

function radiusFactor({ defence }: AverageSpec): number {
  switch (defence.kind) {
    case 'clip':
      return defence.factor;
    case 'trimmed':
    case 'median':
      return 2; // where too few meet to leave any out, or too many
    case 'finite':
    case 'none':
      return Infinity;
    default:
      return defence satisfies never;
  }
}
