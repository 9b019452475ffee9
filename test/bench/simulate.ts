// Averaging methods on a simulated network: how many times as long as MPLS each needs to the same accuracy, in both network modes, on one
// small setting that never changes; and how many plans a second this machine makes, for networks of up to 5,000 workers.
import { availableParallelism, loadavg } from 'node:os';
import type { Dataset } from '../../runtime/train/data.ts';
import { compare, losses } from '../../runtime/simulate/compare.ts';
import { parseSimulationConfig, type SimulationConfig } from '../../runtime/simulate/config.ts';
import type { LabelledImages } from '../../runtime/simulate/learner.ts';
import { simulatePlans } from '../../runtime/simulate/plans.ts';
import { runsOf } from '../../runtime/simulate/simulate.ts';
import { systemOf } from '../../runtime/simulate/systems.ts';
import { loadDataset } from '../../node/datasets.ts';
import { runAll } from '../../node/simulate-pool.ts';

const CONFIG = {
  ...{ workers: 16, topology: { kind: 'random', chance: 0.5 }, seconds: 200, sampleSeconds: 10, targets: [0.6] },
  learning: { rows: 3200, testRows: 500 },
  systems: [
    'mpls',
    'mpls-paper-fill',
    'mpls-layer',
    'mpls-random',
    'netmax',
    'netmax-lite',
    'appg',
    'ad-psgd',
    'divshare',
  ],
};
const SEEDS = [1, 2, 3];

const PLANNING = [
  { workers: 30, topology: { kind: 'random', chance: 0.5 }, draws: 20 },
  { workers: 1000, topology: { kind: 'sparse', degree: 14 }, draws: 1 },
  { workers: 5000, topology: { kind: 'sparse', degree: 14 }, draws: 1 },
];
const PLANNERS = ['mpls', 'mpls-random', 'netmax-lite', 'appg', 'divshare'];
const NIN_UNITS = 9;

const METHOD =
  `Ratios: skein simulate with ${CONFIG.workers} workers (each pair linked with a chance of one half), links of 5 to 25 Mbit/s redrawn every 60 s, ` +
  `workers that leave (20 min) and come back (3 min), layers of NIN (3.87 MB), an MLP of 196-32-10 on ${CONFIG.learning.rows} MNIST rows of 14 x 14, ` +
  `70 % of one label a worker, SGD 0.01, batch 64; virtual seconds until the mean accuracy of the workers on ${CONFIG.learning.testRows} test rows is 60 %, ` +
  `linear between samples 10 s apart, against MPLS with the same seed, mean of the seeds; > x: not within ${CONFIG.seconds} s. paper: only links have limits; ` +
  `access: 50 Mbit/s down and up for each worker, shared max-min fair. What a ratio is does not depend on the machine. Plans: planners called in a ` +
  `loop on this machine, one thread, ${NIN_UNITS} units, by the clock around each call (with the sum of the bytes and delays outside it); ` +
  `workers of 30 have about 14 neighbours, those of 1000 and 5000 about 14 too.`;

export async function benchSimulate({ rounds }: { rounds?: unknown } = {}): Promise<object> {
  const seeds = rounds === undefined ? SEEDS : SEEDS.slice(0, Math.max(1, Number(rounds)));
  const config = parseSimulationConfig({ ...CONFIG, seeds });
  const { train, test } = await loadDataset('mnist');
  const data = { train: imagesOf(train), test: imagesOf(test), classes: train.classes };
  const specs = runsOf(config);
  const started = performance.now();
  const threads = Math.min(availableParallelism(), specs.length);
  const runs = await runAll({ config, data }, specs, {
    ...{ threads, signal: new AbortController().signal },
    onRun: ({ system, network, seed }) => console.error(`simulate: ${system}, ${network}, seed ${seed}`),
  });
  const seconds = (performance.now() - started) / 1000;
  const comparisons = compare(runs, config.networks);
  return {
    ...{ bench: 'simulate', method: METHOD, seeds, cores: availableParallelism(), loadAverage: loadavg()[0] },
    ...{ runs: runs.length, seconds: Math.round(seconds) },
    networks: config.networks.map((network) => ({
      network,
      systems: comparisons
        .filter((one) => one.network === network)
        .map(({ system, targets: [target], accuracy }) => ({
          ...{ system, accuracy, secondsTo60: target?.seconds ?? null, reached: target?.reached ?? 0 },
          ...{ timesAsLong: target?.timesAsLong ?? null, atLeast: target?.atLeastTimesAsLong ?? null },
          timesTheBytes: target?.timesTheBytes ?? null,
        })),
      losses: losses(comparisons, 'mpls', network),
    })),
    plans: PLANNING.flatMap(({ draws, ...more }) =>
      PLANNERS.map((system) => plansOf(parseSimulationConfig(more), system, draws)),
    ),
  };
}

function plansOf(config: SimulationConfig, system: string, draws: number): object {
  const run = { system: systemOf(system), seed: 1, network: 'paper' as const };
  simulatePlans(config, run, 1); // warm
  return simulatePlans(config, run, draws, () => performance.now()) ?? {};
}

function imagesOf({ images, labels, rows, inputShape: [features = 0] }: Dataset): LabelledImages {
  const count = Math.min(rows, CONFIG.learning.rows);
  return { images: images.slice(0, count * features), labels: labels.slice(0, count), rows: count, features };
}
