// What both loops (sync.ts, async.ts) share: the run's options, its trainers, the way in for members.
import { toMeshError } from '../errors.ts';
import { isReplaceable } from '../mesh/ask.ts';
import type { Rate } from '../wire/messages.ts';
import { Admission } from './admission.ts';
import { hasDropout } from './language.ts';
import { rateOf } from './learning-rate.ts';
import { LossScale } from './loss-scale.ts';
import { pipelines } from './paths.ts';
import { drivenBy, type Drive } from './pipeline-schedule.ts';
import { microbatchSeed } from './random.ts';
import type { Microbatch } from './schedule.ts';
import type { SessionOptions } from './session-options.ts';
import { Trainer } from './trainer.ts';

const TRIES = 6;

export class Session {
  readonly options: SessionOptions;
  readonly admission: Admission;
  /** By path. Their number is what `all`, `disjoint` and `routed` decide. */
  readonly #trainers = new Map<string, Trainer>();
  #trainerCount = 0;
  #mostTrainers = 0;
  #mostPeers = 0;
  /** Microbatches that count. */
  applied = 0;
  /** Rounds of averaging that were asked for, in async mode. */
  averageRound = -1;
  /** Null: the optimizer's own, at every step. */
  readonly rate: Rate | null;
  readonly lossScale: LossScale | null;

  constructor(options: SessionOptions) {
    this.options = options;
    const { mode, optimizer, precision, schedule } = options.config;
    this.rate = schedule ? rateOf(schedule, optimizer.lr, options.schedule.steps) : null;
    const lossScale = options.config.lossScale ?? (precision === 'f16' ? 'dynamic' : undefined);
    this.lossScale =
      mode === 'sync' && lossScale !== undefined ? new LossScale(lossScale, options.resumed?.lossScale) : null;
    this.admission = new Admission(options);
  }

  get trainers(): Trainer[] {
    return [...this.#trainers.values()];
  }
  get mostTrainers(): number {
    return this.#mostTrainers;
  }
  get mostPeers(): number {
    return this.#mostPeers;
  }

  ready(step: number, signal?: AbortSignal): Promise<void> {
    return this.admission.ready(step, signal);
  }

  probe(step: number): Promise<void> {
    return this.admission.probe(step);
  }

  /** Trainers as the active members now demand; tells who came and went. */
  formPipelines(): Trainer[] {
    const { roster, config, run, emit, ask, batchOf } = this.options;
    const stages = roster.active();
    const widths = stages.map((members) => members.length);
    const wanted = new Map(
      pipelines(config.policy, widths).map((path) => {
        const uids = path.map((index, stage) => stages[stage]?.[index]?.replica.uid ?? '');
        return config.policy === 'routed' ? (['routed', null] as const) : ([uids.join(' '), uids] as const);
      }),
    );
    for (const [name, trainer] of this.#trainers) {
      if (wanted.has(name)) continue;
      this.#trainers.delete(name);
      emit({ kind: 'trainer.stopped', run, trainer: trainer.id, reason: 'a replica of its pipeline is gone' });
    }
    for (const [name, path] of wanted) {
      if (this.#trainers.has(name)) continue;
      const id = `t${this.#trainerCount++}`;
      const { wire } = config;
      // With a whole step under way at once a microbatch also waits for the others.
      const deadlineMs =
        config.deadlineMs * (config.pipeline === 'gpipe' ? Math.ceil(config.batch / config.microbatch) : 1);
      const { prefer } = this.drive(0);
      const { scaleOf, dropoutOf } = this;
      const options = { id, run, path, roster, ask, emit, batchOf, scaleOf, dropoutOf, deadlineMs, wire, prefer };
      this.#trainers.set(name, new Trainer(options));
      emit({ kind: 'trainer.started', run, trainer: id, path: path ?? ['routed'] });
    }
    this.#mostTrainers = Math.max(this.#mostTrainers, this.#trainers.size);
    this.#mostPeers = Math.max(this.#mostPeers, roster.peers());
    return this.trainers;
  }

  /** How a step of so many microbatches is driven. */
  drive(microbatches: number): Drive {
    const { pipeline, stages, inflight } = this.options.config;
    return drivenBy(pipeline, stages.length, microbatches, inflight);
  }

  readonly scaleOf = (task: Microbatch): number =>
    (this.lossScale?.value ?? 1) / (task.batchRows * this.options.targetsPerRow);

  readonly dropoutOf = (task: Microbatch): number | undefined => {
    const { config } = this.options;
    return hasDropout(config.model) ? microbatchSeed(config.seed, task.step, task.microbatch) : undefined;
  };

  /** Work that needs every stage but trains nothing: tried again over the replicas that are left, so that a blink costs no run. */
  async again<T>(step: number, work: () => Promise<T>): Promise<T> {
    for (let tries = 1; ; tries += 1) {
      await this.ready(step);
      try {
        return await work();
      } catch (cause) {
        this.options.signal.throwIfAborted();
        const error = toMeshError(cause);
        if (tries >= TRIES || !(isReplaceable(error) || error.code === 'no-replica')) throw error;
        await this.probe(step);
      }
    }
  }
}
