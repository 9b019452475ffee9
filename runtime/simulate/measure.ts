// What is told of a run: how good everyone's model is as time goes on, what that cost, and when a target was reached. Numbers are rounded
// to what they can bear.
import type { NetworkMode } from './config.ts';
import type { Learner, Rows } from './learner.ts';
import type { Traffic } from './network.ts';
import type { Tally } from './worker.ts';

export interface Sample {
  /** Virtual. */
  seconds: number;
  meanAccuracy: number;
  worstAccuracy: number;
  /** Received by a worker so far, in the mean. */
  megabytes: number;
  /** (1/N) Σ ‖x_i − x̄‖² */
  consensus: number;
  /** Done by a worker, in the mean. */
  iterations: number;
  workers: number;
}

export interface Reached {
  accuracy: number;
  /** Linear between samples; null: not within the run. */
  seconds: number | null;
  megabytes: number | null;
  iterations: number | null;
}

export interface SystemRun {
  system: string;
  network: NetworkMode;
  seed: number;
  targets: Reached[];
  samples: Sample[];
  /** Megabytes of a worker over the whole run. */
  upMegabytes: { mean: number; max: number };
  downMegabytes: { mean: number; max: number };
  /** Share of a worker's time in which it was there and did not train. */
  idleShare: number;
  /** From the plan to the last answer, in the mean of all rounds that asked for anything; how many models' worth of bytes came. */
  roundSeconds: number;
  roundModels: number;
  plansPerSecond: number;
  failedPulls: number;
}

export interface Progress {
  /** Virtual. */
  seconds: number;
  accuracy: number;
}

export interface Judged {
  readonly weights: Float32Array;
  readonly iterations: number;
}

/** Judges whoever is there. A model that has not changed is not judged again. */
export class Judging {
  readonly #learner: Learner;
  readonly #test: Rows;
  readonly #known = new WeakMap<Float32Array, number>();

  constructor(learner: Learner, test: Rows) {
    this.#learner = learner;
    this.#test = test;
  }

  sample(seconds: number, judged: readonly Judged[], downBytes: Float64Array): Sample {
    const accuracies = judged.map(({ weights }) => this.#accuracy(weights));
    return {
      seconds: round(seconds, 6),
      meanAccuracy: round(mean(accuracies), 6),
      worstAccuracy: round(accuracies.length === 0 ? 0 : Math.min(...accuracies), 6),
      megabytes: round(mean([...downBytes]) / 1e6, 6),
      consensus: round(consensusOf(judged.map(({ weights }) => weights)), 6),
      iterations: round(mean(judged.map(({ iterations }) => iterations)), 6),
      workers: judged.length,
    };
  }

  #accuracy(weights: Float32Array): number {
    const accuracy = this.#known.get(weights) ?? this.#learner.accuracy(weights, this.#test);
    this.#known.set(weights, accuracy);
    return accuracy;
  }
}

function consensusOf(models: readonly Float32Array[]): number {
  const [first] = models;
  if (!first) return 0;
  const centre = new Float64Array(first.length);
  for (const model of models)
    for (let k = 0; k < centre.length; k += 1) centre[k] = (centre[k] ?? 0) + (model[k] ?? 0) / models.length;
  let sum = 0;
  for (const model of models)
    for (let k = 0; k < centre.length; k += 1) {
      const difference = (model[k] ?? 0) - (centre[k] ?? 0);
      sum += difference * difference;
    }
  return sum / models.length;
}

/** When the mean accuracy was first at a target. */
export function reachedOf(targets: readonly number[], samples: readonly Sample[]): Reached[] {
  return targets.map((accuracy) => {
    const at = samples.findIndex(({ meanAccuracy }) => meanAccuracy >= accuracy);
    const after = samples[at];
    if (!after) return { accuracy, seconds: null, megabytes: null, iterations: null };
    const before = samples[at - 1] ?? after;
    const rise = after.meanAccuracy - before.meanAccuracy;
    const share = rise > 0 ? (accuracy - before.meanAccuracy) / rise : 1;
    const between = (of: (sample: Sample) => number): number => round(of(before) + share * (of(after) - of(before)), 6);
    return {
      accuracy,
      seconds: between(({ seconds }) => seconds),
      megabytes: between(({ megabytes }) => megabytes),
      iterations: between(({ iterations }) => iterations),
    };
  });
}

export function runOf(
  given: Pick<SystemRun, 'system' | 'network' | 'seed' | 'samples'>,
  targets: readonly number[],
  measured: { traffic: Traffic; tallies: readonly Tally[]; upSeconds: readonly number[]; seconds: number },
): SystemRun {
  const { traffic, tallies, upSeconds, seconds } = measured;
  const total = (of: (tally: Tally) => number): number => tallies.reduce((sum, tally) => sum + of(tally), 0);
  const rounds = total((tally) => tally.rounds);
  const here = upSeconds.reduce((a, b) => a + b, 0);
  const megabytes = (bytes: Float64Array) => ({
    mean: round(mean([...bytes]) / 1e6, 6),
    max: round(Math.max(...bytes) / 1e6, 6),
  });
  return {
    ...{ system: given.system, network: given.network, seed: given.seed },
    targets: reachedOf(targets, given.samples),
    samples: given.samples,
    upMegabytes: megabytes(traffic.up),
    downMegabytes: megabytes(traffic.down),
    idleShare: round(here > 0 ? Math.max(0, 1 - total((tally) => tally.trainingSeconds) / here) : 0, 4),
    roundSeconds: round(rounds > 0 ? total((tally) => tally.roundSeconds) / rounds : 0, 6),
    roundModels: round(rounds > 0 ? total((tally) => tally.roundModels) / rounds : 0, 6),
    plansPerSecond: round(total((tally) => tally.plans) / seconds, 6),
    failedPulls: total((tally) => tally.failedPulls),
  };
}

export const mean = (values: readonly number[]): number =>
  values.length === 0 ? 0 : values.reduce((a, b) => a + b, 0) / values.length;

/** To so many significant digits. */
export const round = (value: number, digits: number): number => Number(value.toPrecision(digits));
