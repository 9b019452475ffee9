// What a replica shows to the others of its stage: offers, and units on request. It answers; averager.ts and outer-exchange.ts ask.
import { MeshError } from '../errors.ts';
import type { Compute, ParameterInfo } from '../compute.ts';
import { BLOCK, paddedTo, type LayerFormat, type Snapshot } from '../layer-store.ts';
import { defaultUnitBytes, unitsDigest, unitsOf, type Unit } from '../model/units.ts';
import type { Tensor, Tensors } from '../tensor.ts';
import type { Answer, Context } from '../wire/channel.ts';
import type { PeerId } from '../wire/ids.ts';
import type { Request, Times } from '../wire/messages.ts';
import { Gate } from './gate.ts';
import type { Standing } from './standing.ts';

export interface ShelfOptions {
  compute: Compute;
  /** Of the stage in the compute worker, opened with `store`. */
  handle: number;
  parameters: readonly ParameterInfo[];
  unitBytes?: number | undefined;
  /** Share of each class in this replica's data; empty where it has none of its own. */
  labels: readonly number[];
  degree: () => number;
  isDone: () => boolean;
  /** Steps that its weights have seen. */
  steps: () => number;
  times: () => Times[];
}

/** Of one request: what is larger comes in several. */
export const PULL_BYTES = 32 * 2 ** 20;
/** Exchanges of low-communication training that are kept for whoever comes late: so many, and no more than the newest of so many bytes. */
const KEPT_EXCHANGES = 64;
const KEPT_BYTES = 256 * 2 ** 20;

/** What unitsOf makes of a stage, for a store that is to be opened. */
export const unitBytesOf = (parameterBytes: number, given?: number): number =>
  given ?? defaultUnitBytes(parameterBytes);

/** Bytes of a unit as it travels. */
export function wireBytes(format: LayerFormat, count: number): number {
  const padded = paddedTo(count);
  const scales = (padded / BLOCK) * 4;
  switch (format) {
    case 'f32':
      return padded * 4;
    case 'f16':
      return padded * 2;
    case 'int8':
      return padded + scales;
    case 'int4':
      return padded / 2 + scales;
    default:
      return format satisfies never;
  }
}

type PullRequest = Request<'layers.pull'>;
/** Takes another replica's units in, half and half. Rejects where this run does not exchange. */
export type TakeIn = (
  peer: PeerId,
  request: { units: readonly number[]; format: LayerFormat },
  tensors: Tensors,
) => Promise<void>;

interface Exchange {
  units: readonly number[];
  format: LayerFormat;
  /** By kind: what `serve` gave. */
  tensors: ReadonlyMap<string, Tensors>;
  /** What the last exchange of these units had made of the slow weights; null: there was none. */
  before: Standing | null;
}

export class Shelf {
  readonly units: readonly Unit[];
  readonly digest: string;
  readonly gate = new Gate();
  readonly #options: ShelfOptions;
  readonly #exchanges = new Map<number, Exchange>();
  readonly #exchangeGate = new Gate();
  /** The newest synchronous round, and units of it that each peer has been given. */
  #round = -1;
  readonly #given = new Map<PeerId, number>();
  /** The newest round that each has asked for. */
  readonly #asked = new Map<PeerId, number>();
  #first: Promise<Snapshot> | null = null;
  #latest: Snapshot | null = null;
  /** By unit, the last exchange that is in its slow weights, plus one; and what it made of them. */
  readonly #inSlow: number[];
  readonly #standings = new Map<number, Standing | null>();
  #takeIn: TakeIn | null = null;

  constructor(options: ShelfOptions) {
    this.#options = options;
    const bytes = options.parameters.reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 4), 0);
    this.units = unitsOf(options.parameters, unitBytesOf(bytes, options.unitBytes));
    this.digest = unitsDigest(this.units);
    this.#inSlow = this.units.map(() => 0);
  }

  get latest(): Snapshot | null {
    return this.#latest;
  }

  set takeIn(takeIn: TakeIn) {
    this.#takeIn = takeIn;
  }

  /** Shows the weights as they are now. `round`: of a synchronous planner, which this opens for those who wait for it. */
  async snapshot(only?: readonly number[], round?: number): Promise<Snapshot> {
    const coming = this.#options.compute.snapshot(this.#options.handle, only);
    this.#first ??= coming;
    const snapshot = await coming;
    if (snapshot.version > (this.#latest?.version ?? -1)) this.#latest = snapshot;
    if (round !== undefined) {
      this.#given.clear();
      this.#round = round;
      this.gate.reach(round);
    }
    return snapshot;
  }

  /** What is shown; before anything is, the weights as they are. Shown again, an exchange under way would lose the steps since its own. */
  async #shown(): Promise<Snapshot> {
    return this.#latest ?? (await (this.#first ?? this.snapshot()));
  }

  /** Until all of these have been given everything of the newest round, or are beyond it: it may then be written over. */
  async untilGiven(peers: readonly PeerId[], signal: AbortSignal): Promise<void> {
    await this.gate.when(() => peers.every((peer) => this.isGiven(peer)), signal);
  }

  /** Whether that peer needs nothing more of the newest round. */
  isGiven(peer: PeerId): boolean {
    return (this.#given.get(peer) ?? 0) >= this.units.length || (this.#asked.get(peer) ?? -1) > this.#round;
  }

  /** Shows what is exchanged in exchange `round`. */
  show(round: number, exchange: Exchange): void {
    this.#exchanges.set(round, exchange);
    let bytes = 0;
    for (const [old, { tensors }] of [...this.#exchanges].sort(([a], [b]) => b - a)) {
      for (const one of tensors.values()) bytes += bytesOf(one);
      if (old <= round - KEPT_EXCHANGES || (old < round && bytes > KEPT_BYTES)) this.#exchanges.delete(old);
    }
    this.#exchangeGate.reach(round);
  }

  /** To be called in the turn in which it is asked of the compute worker: exchange `round` is in the slow weights of these units. */
  exchanged(units: readonly number[], round: number, standing: Standing | null): void {
    for (const unit of units) {
      this.#inSlow[unit] = round + 1;
      this.#standings.set(unit, standing);
    }
    this.#exchangeGate.tell();
  }

  /** The last exchange that is in the slow weights of a unit; −1: none. */
  lastExchange(unit: number): number {
    return (this.#inSlow[unit] ?? 0) - 1;
  }

  standing(unit: number): Standing | null {
    return this.#standings.get(unit) ?? null;
  }

  close(reason: string): void {
    this.gate.close(reason);
    this.#exchangeGate.close(reason);
  }

  async offer({ digest }: Request<'layers.offer'>): Promise<Answer<'layers.offer'>> {
    this.#expectDigest(digest);
    const { labels, degree, isDone, steps, times } = this.#options;
    const { version, progress } = await this.#shown();
    return {
      body: {
        version,
        steps: steps(),
        round: Math.max(0, this.gate.reached, ...this.#inSlow),
        progress,
        labels: [...labels],
        degree: degree(),
        isDone: isDone(),
        times: times(),
      },
    };
  }

  async pull(request: PullRequest, tensors: Tensors, context: Context): Promise<Answer<'layers.pull'>> {
    const { digest, kind, units, format, round } = request;
    this.#expectDigest(digest);
    this.#expectFit(units);
    if (kind === 'outer' || (kind === 'slow' && round !== undefined)) return this.#exchanged(request, context);
    if (round !== undefined && kind === 'weights' && round > (this.#asked.get(context.peer) ?? -1)) {
      this.#asked.set(context.peer, round);
      this.gate.tell();
    }
    if (round !== undefined)
      await context.idle(() =>
        kind === 'momentum'
          ? this.#exchangeGate.when(() => units.every((unit) => this.lastExchange(unit) >= round), context.signal)
          : this.gate.until(round, context.signal),
      );
    await this.#shown();
    const { compute, handle, steps } = this.#options;
    const at = steps();
    const exchanges = this.lastExchange(units[0] ?? 0) + 1;
    const standing = kind === 'weights' ? null : this.standing(units[0] ?? 0);
    const served = await compute.serve(handle, { kind, units, format });
    if (tensors.size > 0) await this.#take(context.peer, units, format, tensors);
    if (round === this.#round) {
      this.#given.set(context.peer, (this.#given.get(context.peer) ?? 0) + units.length);
      this.gate.tell();
    }
    const counted = kind === 'weights' ? Math.max(0, this.gate.reached) : exchanges;
    return {
      body: {
        ...{ version: served.version, steps: at, round: counted, progress: served.progress },
        ...(standing ? { before: standing } : {}),
      },
      tensors: served.tensors,
    };
  }

  async #exchanged(request: PullRequest, context: Context): Promise<Answer<'layers.pull'>> {
    const { kind, units, format, round = 0 } = request;
    await context.idle(() => this.#exchangeGate.until(round, context.signal));
    const exchange = this.#exchanges.get(round);
    const tensors = exchange?.tensors.get(kind);
    if (!exchange || !tensors)
      throw new MeshError(
        'stale',
        `Exchange ${round} is not here any more.`,
        'Nothing to do: take over the slow weights, and go on with the exchange that is due.',
      );
    if (exchange.units.join() !== units.join() || (kind === 'outer' && exchange.format !== format))
      throw new MeshError(
        'stage-shapes',
        `Exchange ${round} is of ${exchange.units.length} units as ${exchange.format}, and ${units.length} were asked for as ${format}.`,
        'Give all replicas the same average.outer and average.format.',
      );
    const { steps } = this.#options;
    const before = exchange.before ? { before: exchange.before } : {};
    return {
      body: { version: this.#latest?.version ?? 0, steps: steps(), round, progress: [], ...before },
      tensors: copied(tensors),
    };
  }

  async #take(peer: PeerId, units: readonly number[], format: LayerFormat, tensors: Tensors): Promise<void> {
    if (this.#takeIn) return this.#takeIn(peer, { units, format }, tensors);
    throw new MeshError('usage', 'This replica takes in nothing that it did not ask for.', 'Use planner: ad-psgd at both ends.'); // prettier-ignore
  }

  #expectDigest(digest: string): void {
    if (digest === this.digest) return;
    throw new MeshError(
      'stage-shapes',
      `This replica cuts its layers into other units (${this.digest}, not ${digest}).`,
      'Give all of them the same model and the same average.unitBytes.',
    );
  }

  #expectFit(units: readonly number[]): void {
    const bytes = units.reduce((sum, unit) => sum + paddedTo(this.units[unit]?.count ?? 0) * 4, 0);
    if (bytes <= PULL_BYTES || units.length === 1) return;
    throw new MeshError(
      'too-large',
      `${units.length} units of ${bytes} bytes were asked for at once, ${PULL_BYTES} at most.`,
      'Ask for them in several requests.',
    );
  }
}

/** Units in lists that one request may ask for. */
export function batched(units: readonly number[], of: readonly Unit[]): number[][] {
  const batches: number[][] = [];
  let room = 0;
  for (const unit of units) {
    const bytes = paddedTo(of[unit]?.count ?? 0) * 4;
    if (batches.length === 0 || bytes > room) {
      batches.push([]);
      room = PULL_BYTES;
    }
    batches.at(-1)?.push(unit);
    room -= bytes;
  }
  return batches;
}

export const bytesOf = (tensors: Tensors): number =>
  [...tensors.values()].reduce((sum, { data }) => sum + data.byteLength, 0);

const copied = (tensors: Tensors): Map<string, Tensor> =>
  new Map([...tensors].map(([name, tensor]) => [name, { ...tensor, data: tensor.data.slice() }]));
