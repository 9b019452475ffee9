// The upper bound: a server that takes the mean of everyone's model after each iteration, over a network that takes no time, with the work
// shared out so that nobody waits for the slowest, and nobody ever leaves. No system that has to send anything does better by the clock.
import { sampleTimes } from './config.ts';
import { Judging, mean, runOf, type Progress, type Sample, type SystemRun } from './measure.ts';
import { minibatches, type Setup } from './setup.ts';

export function oracle(setup: Setup, name: string, onProgress: (progress: Progress) => void): SystemRun {
  const { config, seed, network, learner, test, initial, computeSeconds } = setup;
  const batches = computeSeconds.map((_, worker) => minibatches(setup, worker));
  const iterationSeconds = mean(computeSeconds);
  const nothing = { up: new Float64Array(config.workers), down: new Float64Array(config.workers) };
  const judging = new Judging(learner, test);
  const samples: Sample[] = [];
  let weights = initial;
  let iterations = 0;
  for (const seconds of sampleTimes(config)) {
    for (; (iterations + 1) * iterationSeconds <= seconds; iterations += 1) {
      const sum = new Float64Array(weights.length);
      for (const next of batches) {
        const own = weights.slice();
        for (let step = 0; step < config.learning.steps; step += 1) learner.step(own, next());
        for (let k = 0; k < sum.length; k += 1) sum[k] = (sum[k] ?? 0) + (own[k] ?? 0) / batches.length;
      }
      weights = Float32Array.from(sum);
    }
    const judged = { weights, iterations };
    const sample = { ...judging.sample(seconds, [judged], nothing.down), workers: config.workers };
    samples.push(sample);
    onProgress({ seconds, accuracy: sample.meanAccuracy });
  }
  const always = computeSeconds.map(() => config.seconds);
  const tally = { plans: 0, failedPulls: 0, rounds: 0, roundSeconds: 0, roundModels: 0 };
  const tallies = always.map(() => ({ ...tally, iterations, trainingSeconds: iterations * iterationSeconds }));
  return runOf({ system: name, network, seed, samples }, config.targets, {
    ...{ traffic: nothing, tallies, upSeconds: always, seconds: config.seconds },
  });
}
