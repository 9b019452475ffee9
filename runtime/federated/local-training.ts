// A worker's own training: steps on its rows, one asked of the compute worker while the last is still under way, so that the GPU never waits
// for this thread. It knows nothing of other workers.
import type { Compute, StepOptions } from '../compute.ts';
import { MeshError } from '../errors.ts';
import type { RunData } from '../train/client.ts';
import { hasDropout } from '../train/language.ts';
import { lrAt, rateOf } from '../train/learning-rate.ts';
import { microbatchSeed } from '../train/random.ts';
import type { Rate } from '../wire/messages.ts';
import { elements } from '../tensor.ts';
import type { WorkerConfig } from './config.ts';

export interface LocalStep {
  /** Steps that were taken, this one included. */
  taken: number;
  rows: number;
  /** Mean over the targets that count. */
  loss: number;
}

export interface LocalTrainingOptions {
  compute: Compute;
  handle: number;
  config: WorkerConfig;
  train: RunData['train'];
  /** Of the run: what the learning rate's schedule is spread over. */
  steps: number;
}

export const stepsPerEpoch = (rows: number, batch: number): number => Math.max(1, Math.ceil(rows / batch));

/** The same for all workers, however unequal their shares of so many rows: an epoch is that of the mean share. */
export const stepsOf = ({ batch, epochs, maxSteps, workers }: WorkerConfig, rowsOfAll: number): number =>
  maxSteps ?? stepsPerEpoch(rowsOfAll / workers, batch) * epochs;

export class LocalTraining {
  readonly #options: LocalTrainingOptions;
  readonly #rate: Rate | null;
  #epoch: { number: number; order: Uint32Array } | null = null;

  constructor(options: LocalTrainingOptions) {
    this.#options = options;
    const { schedule, optimizer } = options.config;
    this.#rate = schedule ? rateOf(schedule, optimizer.lr, options.steps) : null;
  }

  /**
   * Step number `step`, counted from 0. Everything is asked of the compute worker before this returns its promise; with `clip` not, because a
   * step waits for its norm, and the next one, or a look at the weights, must wait for the step.
   */
  step(step: number): Promise<LocalStep> {
    const { compute, handle, config, train } = this.#options;
    const rows = this.#rowsOf(step);
    const { x, y } = train.batch(rows);
    const targets = elements(y.shape);
    const scale = 1 / Math.max(1, targets);
    const dropout = hasDropout(config.model) ? { dropout: microbatchSeed(config.seed, step, config.worker) } : {};
    const loss = compute.loss(handle, x, y, { scale, train: true, accumulate: true, ...dropout });
    const lr = this.#rate === null ? {} : { lr: lrAt(this.#rate, step) };
    const stepped = config.clip === undefined ? compute.step(handle, lr) : this.#clipped(config.clip, lr);
    return this.#outcome(step, rows.length, scale, loss, stepped);
  }

  async #outcome(
    step: number,
    rows: number,
    scale: number,
    loss: ReturnType<Compute['loss']>,
    stepped: Promise<unknown>,
  ): Promise<LocalStep> {
    // Both are waited for, whichever fails: nothing of this step is under way afterwards.
    const [lost, failed] = await Promise.allSettled([loss, stepped]);
    if (lost.status === 'rejected') throw diverged(lost.reason, this.#options.config);
    if (failed.status === 'rejected') throw diverged(failed.reason, this.#options.config);
    const { counted } = lost.value;
    return { taken: step + 1, rows, loss: lost.value.loss / scale / Math.max(1, counted) };
  }

  async #clipped(clip: number, lr: StepOptions): Promise<unknown> {
    const { compute, handle } = this.#options;
    const norm = Math.sqrt(await compute.squaredNorm(handle, {}));
    return compute.step(handle, norm > clip ? { ...lr, gradientScale: clip / norm } : lr);
  }

  #rowsOf(step: number): Uint32Array {
    const { config, train } = this.#options;
    const perEpoch = stepsPerEpoch(train.rows, config.batch);
    const number = Math.floor(step / perEpoch);
    if (this.#epoch?.number !== number) this.#epoch = { number, order: train.order(number) };
    const start = (step % perEpoch) * config.batch;
    return this.#epoch.order.slice(start, start + config.batch);
  }
}

function diverged(cause: unknown, { optimizer }: WorkerConfig): unknown {
  if (!(cause instanceof MeshError) || cause.code !== 'not-finite') return cause;
  return new MeshError(
    'not-finite',
    `This worker has diverged: ${cause.message}`,
    `Lower optimizer.lr (it is ${optimizer.lr}); if others' layers may be to blame, use average.defence: clip.`,
    { cause },
  );
}
