// All that a replica does to stay together with the others of its stage: what it shows (shelf), and either rounds of averaging or the exchanges
// of low-communication training, as the run's `average` says. Made when a stage is opened with a parameter store.
import type { AverageSpec } from '../average-spec.ts';
import type { Compute, StageInfo, StageSpec } from '../compute.ts';
import type { Emit } from '../events.ts';
import type { Ask } from '../mesh/ask.ts';
import { randomWords } from '../train/random.ts';
import { parseUid, type PeerId, type RunId, type Uid } from '../wire/ids.ts';
import type { Replica } from '../wire/messages.ts';
import { Averager, type RoundOutcome } from './averager.ts';
import { OuterExchange } from './outer-exchange.ts';
import { Shelf, unitBytesOf } from './shelf.ts';

/** What a replica tells of the data that it trains on, where it has data of its own. */
export interface OwnData {
  /** Share of each class; empty where there are none. */
  labels: readonly number[];
  /** How many neighbours it has. */
  degree: () => number;
  /** Of a federated worker: its configuration as JSON. */
  federation?: string;
  /** Whether it has done all of its own training. */
  isDone: () => boolean;
}

export interface AveragingOptions {
  uid: Uid;
  self: PeerId;
  run: RunId;
  stage: StageSpec;
  info: StageInfo;
  handle: number;
  spec: AverageSpec;
  compute: Compute;
  ask: Ask;
  emit: Emit;
  own: OwnData;
  steps: () => number;
  now: () => number;
}

/** Replicas of a pipeline's stage, where the run says nothing: the mean of all, as exactly as it can be had. */
export const REPLICA_AVERAGE: Pick<AverageSpec, 'planner' | 'defence'> = {
  planner: 'appg',
  defence: { kind: 'finite' },
};

/** The store that a stage of this model needs to be averaged by `spec`. */
export const storeOf = (parameterBytes: number, spec: AverageSpec): NonNullable<StageSpec['store']> => ({
  unitBytes: unitBytesOf(parameterBytes, spec.unitBytes),
  ...(spec.outer ? { outer: true } : {}),
});

/** Streams of random numbers from here on belong to averaging, one to a replica. */
const AVERAGE_STREAMS = 2 ** 44;

export class Averaging {
  readonly shelf: Shelf;
  readonly averager: Averager | null;
  readonly outer: OuterExchange | null;
  /** What was merged so far. */
  readonly merged = { rounds: 0, bytes: 0 };
  readonly #stop = new AbortController();

  constructor(options: AveragingOptions) {
    const { uid, self, run, stage, info, handle, spec, compute, ask, own, steps, now } = options;
    const emit: Emit = (event) => {
      if (event.kind === 'layers.merged') {
        this.merged.rounds += 1;
        this.merged.bytes += event.bytes;
      }
      options.emit(event);
    };
    this.shelf = new Shelf({
      compute,
      handle,
      parameters: info.parameters,
      unitBytes: stage.store?.unitBytes,
      labels: own.labels,
      degree: own.degree,
      isDone: own.isDone,
      steps,
      times: () => this.averager?.peers.timetable.told(now()) ?? [],
    });
    const common = { uid, self, run, spec, shelf: this.shelf, compute, handle, ask, emit, now };
    const words = randomWords(stage.seed, AVERAGE_STREAMS + parseUid(uid).expertIndex);
    const random = (): number => words() / 2 ** 32;
    this.averager = spec.outer
      ? null
      : new Averager({ ...common, labels: own.labels, learningRate: stage.optimizer.lr, random });
    this.outer = spec.outer ? new OuterExchange({ ...common, outer: spec.outer, seed: stage.seed }) : null;
  }

  /**
   * One round with these replicas, for whoever drives rounds: all of them do round number `round` of the run. Resolves with the UIDs of those
   * whose contributions are in the weights now.
   */
  async round(replicas: readonly Replica[], round: number | undefined, signal: AbortSignal): Promise<string[]> {
    const limit = AbortSignal.any([signal, this.#stop.signal]);
    if (!this.outer) return (await this.averager?.round(replicas, limit, round))?.peers ?? [];
    // A round is an exchange of every group: the driver counts no steps of ours.
    const groups = this.outer.plan.groups.length;
    const first = (round ?? 0) * groups;
    for (let group = 0; group < groups; group += 1) await this.outer.exchange(first + group, replicas, limit);
    await this.outer.settle();
    const { outer } = this;
    return [...new Set(outer.plan.groups.flatMap((_, group) => outer.mergedIn(group)))];
  }

  /** Nobody gets anything more. */
  close(reason: string): void {
    this.#stop.abort(new DOMException(reason, 'AbortError'));
    this.shelf.close(reason);
  }
}

export type { RoundOutcome };
