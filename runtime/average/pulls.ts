// The pulls of one round over links: asked in parallel, asked again elsewhere where they fail, received on the GPU as they come.
import { MeshError, toMeshError } from '../errors.ts';
import type { AverageSpec } from '../average-spec.ts';
import type { Compute } from '../compute.ts';
import type { Ask } from '../mesh/ask.ts';
import type { RunId } from '../wire/ids.ts';
import type { Replica } from '../wire/messages.ts';
import type { Told } from './judge.ts';
import type { Peers } from './peers.ts';
import type { Arrival, PullRequest, Round } from './round.ts';
import { batched, bytesOf, type Shelf } from './shelf.ts';

export interface PullsOptions {
  run: RunId;
  spec: AverageSpec;
  shelf: Shelf;
  compute: Compute;
  handle: number;
  ask: Ask;
  now: () => number;
}

/** What is waited for the compute worker. */
export class Stopwatch {
  readonly #now: () => number;
  ms = 0;

  constructor(now: () => number) {
    this.#now = now;
  }

  async time<T>(work: () => Promise<T>): Promise<T> {
    const started = this.#now();
    try {
      return await work();
    } finally {
      this.ms += this.#now() - started;
    }
  }
}

export class Pulls {
  readonly verdicts: { peer: string; offence: 'malformed'; detail: string }[] = [];
  /** By peer and unit, what it told of the weights that it sent. */
  readonly told = new Map<string, Told>();
  bytes = 0;
  readonly #options: PullsOptions;
  readonly #round: Round;
  readonly #replicas: ReadonlyMap<string, Replica>;
  readonly #busy: Stopwatch;
  readonly #peers: Peers;
  readonly #how: { isExchange: boolean; round: number | undefined };
  readonly #parts = new Map<string, number>();
  readonly #held: number[] = [];
  /** Of the compute worker here, which no other peer makes up for. A peer's own troubles come with the same codes. */
  #failure: MeshError | null = null;

  constructor(
    options: PullsOptions,
    round: Round,
    replicas: readonly Replica[],
    busy: Stopwatch,
    peers: Peers,
    how: { isExchange: boolean; round: number | undefined },
  ) {
    this.#options = options;
    this.#round = round;
    this.#replicas = new Map(replicas.map((replica) => [replica.peer, replica]));
    this.#busy = busy;
    this.#peers = peers;
    this.#how = how;
  }

  /** Until nothing is outstanding, also where it rejects: what is being received then is held too, and can be dropped. */
  async all(signal: AbortSignal): Promise<void> {
    const { now } = this.#options;
    const started = now();
    const lanes = async (requests: readonly PullRequest[]): Promise<void> => {
      await allDone(requests.map(async (request) => lanes(await this.#one(request, signal))));
    };
    await lanes(this.#round.start());
    this.#peers.bandwidth.recordTogether(this.bytes, (now() - started) / 1_000);
  }

  partOf(peer: string, unit: number): number {
    return this.#parts.get(`${peer} ${unit}`) ?? -1;
  }

  async drop(): Promise<void> {
    if (this.#held.length > 0) await this.#options.compute.drop(this.#options.handle, this.#held);
  }

  /** Returns what is to be asked instead. */
  async #one(request: PullRequest, signal: AbortSignal): Promise<PullRequest[]> {
    const { shelf, now } = this.#options;
    const until = now() + request.deadlineMs;
    const arrivals: Arrival[] = [];
    try {
      for (const units of batched(request.units, shelf.units))
        arrivals.push(...(await this.#batch(request.peer, units, until - now(), signal)));
      this.#round.arrived(request, arrivals);
      return [];
    } catch (cause) {
      signal.throwIfAborted();
      const error = toMeshError(cause);
      if (this.#failure) throw this.#failure;
      if (error.code === 'malformed')
        this.verdicts.push({ peer: request.peer, offence: 'malformed', detail: error.message });
      return this.#round.failed(request, now(), arrivals);
    }
  }

  async #batch(peer: string, units: number[], deadlineMs: number, signal: AbortSignal): Promise<Arrival[]> {
    const { ask, run, shelf, spec, compute, handle, now } = this.#options;
    const replica = this.#replicas.get(peer);
    if (!replica) return [];
    const { format, defence } = spec;
    const own = this.#how.isExchange
      ? (await compute.serve(handle, { kind: 'weights', units, format })).tensors
      : undefined;
    const started = now();
    const body = {
      ...{ uid: replica.uid, run, digest: shelf.digest, kind: 'weights' as const, units, format },
      ...(this.#how.round === undefined ? {} : { round: this.#how.round }),
    };
    const options = { signal, deadlineMs: Math.max(1, deadlineMs), ...(own ? { tensors: own } : {}) };
    const { body: reply, tensors } = await ask(replica, 'layers.pull', body, options);
    if (reply.progress.length !== units.length) throw wrongCounters(reply.progress.length, units.length);
    const bytes = bytesOf(tensors);
    // In step, most of the time is waiting for the round.
    if (this.#how.round === undefined) this.#peers.bandwidth.record(peer, bytes, (now() - started) / 1_000, now());
    this.bytes += bytes;
    const { part, units: received } = await this.#busy
      .time(() => compute.receive(handle, { units, format }, tensors))
      .catch((cause: unknown) => {
        const error = toMeshError(cause);
        if (error.code !== 'malformed') this.#failure ??= error;
        throw error;
      });
    this.#held.push(part);
    units.forEach((unit, i) => {
      this.#parts.set(`${peer} ${unit}`, part);
      this.told.set(`${peer} ${unit}`, { version: reply.version, progress: reply.progress[i] ?? 0 });
    });
    return received.map((found, i) => ({
      ...found,
      unit: units[i] ?? 0,
      // Without a defence everything counts, whatever it is.
      ...(defence.kind === 'none' ? { isFinite: true, squaredDistance: 0 } : {}),
    }));
  }
}

const wrongCounters = (got: number, wanted: number): MeshError =>
  new MeshError(
    'malformed',
    `${got} counters came with ${wanted} units.`,
    'Check that both replicas run the same version.',
  );

/** Rejects with the first failure, but only when all have settled. */
export async function allDone<T>(all: readonly Promise<T>[]): Promise<T[]> {
  await Promise.allSettled(all);
  return Promise.all(all);
}
