// Low-communication training of one replica: at the steps that the plan says it shows what it has learned since the last exchange, takes in what
// the others have, and makes an outer step on the slow weights. Streaming DiLoCo's exchanges go on beside training; a group is not
// exchanged again before its last exchange has ended.
import type { OuterSpec } from '../average-spec.ts';
import { MeshError, toMeshError } from '../errors.ts';
import type { Emit } from '../events.ts';
import type { LayerFormat } from '../layer-store.ts';
import type { Tensor, Tensors } from '../tensor.ts';
import type { PeerId, Uid } from '../wire/ids.ts';
import type { Replica } from '../wire/messages.ts';
import { dueAfter, lastExchanges, outerPlan, partnerOf, type OuterPlan } from './outer-schedule.ts';
import { Peers } from './peers.ts';
import { allDone, type PullsOptions } from './pulls.ts';
import { bytesOf, PULL_BYTES } from './shelf.ts';
import { takeOver, type TakenOver } from './take-over.ts';
import { Clipping } from './clipping.ts';
import { standingAfter, whomToFollow, type Standing } from './standing.ts';
import { trimOf } from './trim.ts';

export interface OuterOptions extends PullsOptions {
  uid: Uid;
  self: PeerId;
  outer: OuterSpec;
  /** Equal for all replicas: pairs are drawn from it. */
  seed: number;
  emit: Emit;
}

/** Slow weights of a pair: their error goes into the weights themselves, and int8's would be seen there. */
const SLOW_FORMAT: LayerFormat = 'f16';

interface Contribution {
  uid: Uid;
  before: Standing | null;
  part: number;
  /** Slow weights, where they are exchanged. */
  slow: number | null;
  bytes: number;
}

/** What came of a replica: `gone-on`: it no longer has what it showed in that exchange; null: nothing. */
type Answer = Contribution | 'gone-on' | null;

export class OuterExchange {
  readonly plan: OuterPlan;
  readonly peers: Peers;
  readonly #options: OuterOptions;
  /** By group. */
  readonly #underWay = new Map<number, Promise<void>>();
  /** Groups that are to be taken over, as soon as anybody can give them. */
  readonly #behind = new Set<number>();
  #failure: MeshError | null = null;

  constructor(options: OuterOptions) {
    this.#options = options;
    const { uid, emit, now, shelf } = options;
    const units = shelf.units.length;
    this.plan = outerPlan(options.outer, shelf.units, PULL_BYTES);
    const clipping = new Clipping(units, { factor: Infinity });
    this.peers = new Peers({ uid, units, clipping, labels: [], isWatching: false, emit, now });
  }

  /**
   * To be called after each local step, before the next is asked for. Resolves when training may go on: at once with Streaming DiLoCo, unless
   * the group's last exchange is still under way; after the outer step with the others.
   */
  async stepped(taken: number, replicas: () => readonly Replica[], signal: AbortSignal): Promise<void> {
    for (const round of dueAfter(this.plan, taken)) await this.exchange(round, replicas(), signal);
    if (this.#failure) throw this.#failure;
  }

  /** Exchange `round`; begun when this resolves, and ended unless it is Streaming DiLoCo's. */
  async exchange(round: number, replicas: readonly Replica[], signal: AbortSignal): Promise<void> {
    const group = round % this.plan.groups.length;
    await this.#underWay.get(group);
    const done = this.#exchange(round, this.plan.groups[group] ?? [], replicas, signal)
      .catch((cause: unknown) => {
        if (!signal.aborted) this.#failure ??= toMeshError(cause);
      })
      .finally(() => {
        if (this.#underWay.get(group) === done) this.#underWay.delete(group);
      });
    this.#underWay.set(group, done);
    if (this.#options.outer.kind !== 'streaming-diloco') await done;
  }

  /** After the last local step: what was learned since a group's last exchange is exchanged too, and all is waited for. */
  async finish(taken: number, replicas: () => readonly Replica[], signal: AbortSignal): Promise<void> {
    await Promise.all(lastExchanges(this.plan, taken).map((round) => this.exchange(round, replicas(), signal)));
    await this.settle();
  }

  /** Until nothing is under way. */
  async settle(): Promise<void> {
    await Promise.all(this.#underWay.values());
    if (this.#failure) throw this.#failure;
  }

  async #exchange(
    round: number,
    units: readonly number[],
    replicas: readonly Replica[],
    signal: AbortSignal,
  ): Promise<void> {
    const { compute, handle, shelf, spec, outer, uid, run, emit, now } = this.#options;
    const started = now();
    const group = round % this.plan.groups.length;
    const others = this.#partners(round, replicas);
    // It is in what was taken over: this replica is so far behind that the others do without it.
    if (shelf.lastExchange(units[0] ?? 0) >= round) return this.#follow(round, group, others, signal);
    const isPair = outer.kind === 'noloco';
    const { format } = spec;
    // Asked for in one turn: no step of training comes between them.
    const [, gradient, slow] = await Promise.all([
      shelf.snapshot(units),
      compute.outerGradient(handle, units, format),
      isPair ? compute.serve(handle, { kind: 'slow', units, format: SLOW_FORMAT }) : null,
    ]);
    const tensors = new Map([['outer', copied(gradient)], ...(slow ? [['slow', slow.tensors] as const] : [])]);
    const before = shelf.standing(units[0] ?? 0);
    shelf.show(round, { units, format, tensors, before });
    const held: number[] = [];
    try {
      const own = await compute.receive(handle, { units, format }, gradient);
      held.push(own.part);
      const came = await allDone(others.map((replica) => this.#pull(replica, round, units, held, signal)));
      signal.throwIfAborted();
      // In the order of their UIDs everywhere: replicas that have the same contributions then compute the same bits.
      const contributions = came.filter((one) => one !== null && one !== 'gone-on');
      const all = [{ uid, before: null, part: own.part, slow: null, bytes: 0 }, ...contributions];
      all.sort((a, b) => (a.uid < b.uid ? -1 : 1));
      const partner = all.find((one) => one.slow !== null);
      const merging = all.map((one) => one.uid);
      shelf.exchanged(units, round, standingAfter(before, merging));
      await compute.outerStep(handle, {
        units: [...units],
        gradients: all.map(({ part }) => ({ part, coefficient: 1 / all.length })),
        ...trimOf(spec.defence, all.length),
        rate: outer.rate,
        momentum: outer.momentum,
        ...(outer.kind === 'noloco' && partner?.slow ? { partner: { part: partner.slow, pull: outer.pull } } : {}),
      });
      const peers = merging.filter((one) => one !== uid);
      const bytes = all.reduce((sum, one) => sum + one.bytes, 0);
      emit({ kind: 'layers.merged', uid, run, round, peers, units: units.length, bytes, ms: now() - started });
      this.peers.endRound(others.flatMap(({ peer }, i) => (came[i] === null ? [] : [peer])));
      await this.#keepLevel(round, group, before, others, came, signal);
    } finally {
      await compute.drop(handle, held);
    }
  }

  /** Takes a group over from one who stands where most do, where this replica does not. NoLoCo's pairs draw together by themselves. */
  async #keepLevel(
    round: number,
    group: number,
    own: Standing | null,
    others: readonly Replica[],
    came: readonly Answer[],
    signal: AbortSignal,
  ): Promise<void> {
    const { uid, outer } = this.#options;
    if (outer.kind === 'noloco') return;
    const told = others.flatMap((replica, i) => {
      const one = came[i];
      const standing = one === 'gone-on' ? one : (one?.before ?? null);
      return standing ? [[replica.uid, standing] as const] : [];
    });
    const leading = whomToFollow(uid, own, new Map(told));
    const from = leading.flatMap((leader) => others.find((replica) => replica.uid === leader) ?? []);
    if (from.length > 0) await this.#follow(round, group, from, signal);
    else if (this.#behind.has(group)) await this.#follow(round, group, others, signal);
  }

  /** Takes a group over from the first that can give it with exchange `round` in it; from whoever can the next time, where nobody does. */
  async #follow(round: number, group: number, others: readonly Replica[], signal: AbortSignal): Promise<void> {
    const { uid, run, emit } = this.#options;
    this.#behind.add(group);
    for (const from of others) {
      try {
        const { steps } = await this.adopt(group, from, signal, round);
        emit({ kind: 'worker.adopted', uid, run, from: from.uid, steps });
        return;
      } catch (cause) {
        signal.throwIfAborted();
        const { message } = toMeshError(cause);
        emit({ kind: 'log', level: 'warn', message: `${uid} is behind, and ${from.uid} gave nothing: ${message}` });
      }
    }
  }

  /** Slow weights and momentum of a group from another replica, with exchange `least` in them: training goes on from them. */
  async adopt(group: number, from: Replica, signal: AbortSignal, least = -1): Promise<TakenOver> {
    const taken = await takeOver(this.#options, from, this.plan.groups[group] ?? [], least, signal);
    this.#behind.delete(group);
    return taken;
  }

  /** Whose contributions were in the last exchange of a group. */
  mergedIn(group: number): readonly Uid[] {
    return this.#options.shelf.standing(this.plan.groups[group]?.[0] ?? 0)?.merged ?? [];
  }

  #partners(round: number, replicas: readonly Replica[]): Replica[] {
    const { outer, uid, seed } = this.#options;
    const admitted = this.peers.admitted(replicas);
    if (outer.kind !== 'noloco') return admitted;
    const partner = partnerOf(uid, admitted.map((replica) => replica.uid), seed, round); // prettier-ignore
    return admitted.filter((replica) => replica.uid === partner);
  }

  /** What does not come in time, or is none, the others go on without. */
  async #pull(
    replica: Replica,
    round: number,
    units: readonly number[],
    held: number[],
    signal: AbortSignal,
  ): Promise<Answer> {
    const { ask, run, shelf, spec, compute, handle, outer, emit, uid } = this.#options;
    const { format, patienceMs } = spec;
    const body = { uid: replica.uid, run, digest: shelf.digest, units: [...units], round };
    // Its own troubles and ours come with the same codes.
    let isTheirs = true;
    const pulled = async (kind: 'outer' | 'slow', as: LayerFormat): Promise<Omit<Contribution, 'uid' | 'slow'>> => {
      isTheirs = true;
      const options = { signal, deadlineMs: patienceMs };
      const { tensors, body: reply } = await ask(replica, 'layers.pull', { ...body, kind, format: as }, options);
      isTheirs = false;
      const bytes = bytesOf(tensors);
      const { part, units: received } = await compute.receive(handle, { units, format: as }, tensors);
      held.push(part);
      if (received.some(({ isFinite }) => !isFinite)) throw notFinite();
      return { part, bytes, before: reply.before ?? null };
    };
    try {
      const gradient = await pulled('outer', format);
      if (outer.kind !== 'noloco') return { ...gradient, uid: replica.uid, slow: null };
      const slow = await pulled('slow', SLOW_FORMAT);
      return { ...gradient, uid: replica.uid, slow: slow.part, bytes: gradient.bytes + slow.bytes };
    } catch (cause) {
      signal.throwIfAborted();
      const error = toMeshError(cause);
      const offence = error.code === 'malformed' || error.code === 'not-finite' ? error.code : null;
      if (!isTheirs && !offence) throw error;
      if (offence) this.peers.strike([{ peer: replica.peer, offence, detail: error.message }], round);
      else emit({ kind: 'log', level: 'warn', message: `${uid}: exchange ${round} goes on without ${replica.uid}: ${error.message}` }); // prettier-ignore
      return error.code === 'stale' ? 'gone-on' : null;
    }
  }
}

const notFinite = (): MeshError =>
  new MeshError('not-finite', 'Its outer gradient holds NaN or infinity.', 'It is left out of this exchange.');

const copied = (tensors: Tensors): Map<string, Tensor> =>
  new Map([...tensors].map(([name, tensor]) => [name, { ...tensor, data: tensor.data.slice() }]));
