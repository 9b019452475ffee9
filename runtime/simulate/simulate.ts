// One system on one network from one seed: the same planners, rounds and bandwidth estimates as the product, over virtual time. The same
// arguments give the same result, byte for byte, on every host.
import { plannerOf } from '../average/planners/index.ts';
import type { World } from './collection.ts';
import { sampleTimes, type NetworkMode, type SimulationConfig } from './config.ts';
import { Clock } from './events.ts';
import type { SimulationData } from './learner.ts';
import { Judging, runOf, type Progress, type Sample, type SystemRun } from './measure.ts';
import { Monitor } from './monitor.ts';
import { Network } from './network.ts';
import { oracle } from './oracle.ts';
import { Free, Lockstep } from './schedule.ts';
import { setUp, type Setup } from './setup.ts';
import { isAlone, systemOf, type System } from './systems.ts';
import { Worker } from './worker.ts';

export interface RunSpec {
  readonly system: System;
  readonly seed: number;
  readonly network: NetworkMode;
}

/** All runs of a configuration. What meets no network is the same in each, and runs in the first only. */
export function runsOf({ networks, seeds, systems }: SimulationConfig): RunSpec[] {
  return networks.flatMap((network, i) =>
    seeds.flatMap((seed) =>
      systems.flatMap((spec) => {
        const system = systemOf(spec);
        return i > 0 && isAlone(system) ? [] : [{ system, seed, network }];
      }),
    ),
  );
}

/** Throws `usage` where the data do not suffice. */
export function simulate(
  config: SimulationConfig,
  { system, seed, network }: RunSpec,
  data: SimulationData,
  onProgress: (progress: Progress) => void = () => {},
): SystemRun {
  const setup = setUp(config, data, seed, network);
  return system.kind === 'oracle' ? oracle(setup, system.name, onProgress) : runPlanner(setup, system, onProgress);
}

function runPlanner(
  setup: Setup,
  system: Extract<System, { kind: 'planner' }>,
  onProgress: (progress: Progress) => void,
): SystemRun {
  const { config, seed, network: mode, neighbours, learner, test } = setup;
  const clock = new Clock();
  const planner = plannerOf(system.planner);
  const workers: Worker[] = [];
  const monitor = new Monitor();
  const upSince = neighbours.map((): number | null => 0);
  const upSeconds = neighbours.map(() => 0);
  const network = new Network(clock, setup, (index, isUp) => {
    const worker = workers[index];
    if (!worker) return;
    if (isUp) {
      upSince[index] = clock.now;
      worker.catchUp(() => schedule.join(worker));
      return;
    }
    upSeconds[index] = (upSeconds[index] ?? 0) + clock.now - (upSince[index] ?? clock.now);
    upSince[index] = null;
    worker.stop();
    schedule.leave(worker);
  });
  const view = planner.name === 'netmax' ? () => monitor.view(world) : () => undefined;
  const world: World = { setup, clock, network, planner, members: workers, view };
  const schedule = planner.isSynchronous ? new Lockstep(world) : new Free(config.overlap);
  for (let index = 0; index < config.workers; index += 1) workers.push(new Worker(world, index));
  for (const worker of workers) schedule.join(worker);

  const judging = new Judging(learner, test);
  const samples: Sample[] = [];
  for (const seconds of sampleTimes(config)) {
    clock.run(seconds);
    const here = workers.filter(({ isServing }) => isServing);
    const judged = here.map(({ store, tally }) => ({ weights: store.weights, iterations: tally.iterations }));
    const sample = judging.sample(seconds, judged, network.traffic.down);
    samples.push(sample);
    onProgress({ seconds, accuracy: sample.meanAccuracy });
  }
  const still = upSince.map((since, index) => (upSeconds[index] ?? 0) + (since === null ? 0 : clock.now - since));
  return runOf({ system: system.name, network: mode, seed, samples }, config.targets, {
    ...{ traffic: network.traffic, tallies: workers.map(({ tally }) => tally), upSeconds: still },
    seconds: config.seconds,
  });
}
