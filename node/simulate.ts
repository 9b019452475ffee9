// `skein simulate`: averaging methods against each other on a simulated network, with real training of a small model. Planners, rounds and
// bandwidth estimates are those that a mesh runs.
import { mkdir, writeFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { z } from 'zod';
import { MeshError } from '../runtime/errors.ts';
import type { Dataset } from '../runtime/train/data.ts';
import { compare, losses, referenceOf, type Comparison } from '../runtime/simulate/compare.ts';
import {
  networkSchema,
  parseSimulationConfig,
  simulationConfigSchema,
  type SimulationConfig,
} from '../runtime/simulate/config.ts';
import type { LabelledImages, SimulationData } from '../runtime/simulate/learner.ts';
import type { SystemRun } from '../runtime/simulate/measure.ts';
import { simulatePlans, type PlanFigures } from '../runtime/simulate/plans.ts';
import { findings } from '../runtime/simulate/shape.ts';
import { runsOf } from '../runtime/simulate/simulate.ts';
import { systemOf } from '../runtime/simulate/systems.ts';
import { command, isOn, option } from './command.ts';
import { loadDataset } from './datasets.ts';
import { list } from './options.ts';
import { plotOf } from './simulate-plot.ts';
import { runAll } from './simulate-pool.ts';
import { planTable, reportOf, type Report } from './simulate-report.ts';
import { readYaml } from './yaml-config.ts';

const schema = z.strictObject({
  config: z.string().min(1).optional(),
  seeds: list(z.coerce.number({ error: 'is a list of numbers' })).optional(),
  systems: list(z.string()).optional(),
  network: networkSchema.optional(),
  out: z.string().min(1).optional(),
  plans: z.unknown().optional().transform(isOn),
});
type Options = z.infer<typeof schema>;

/** Of networks, for plans alone. */
const PLAN_DRAWS = 5;

export const simulate = command({
  name: 'simulate',
  description: 'Compare averaging methods on a simulated network: accuracy against time and against bytes.',
  options: [
    option('--config <file>', 'network, data and systems, in YAML'),
    option('--seeds <numbers>', 'each system runs once with each (default: 1,2,3)'),
    option('--systems <names>', 'planners, such as mpls,netmax,appg; local-only; fedavg-oracle'),
    option('--network <paper|access>', "limits on links only, or on each worker's line too (default: both)"),
    option('--out <folder>', 'write report.md, simulation.json and a plot for each network there'),
    option('--plans', 'plans alone, without training: how long a round would take, and plans a second'),
  ],
  schema,
  examples: [
    'skein simulate',
    'skein simulate --systems mpls,netmax,appg --network paper --seeds 1 --out out/simulation',
    'skein simulate --config simulation.yaml --json   # workers: 30, topology: { kind: ring }, payload: resnet-18, …',
    'skein simulate --plans',
  ],
  run: async (options, { emit, print, say, signal, isJson }) => {
    const config = configOf(options);
    if (options.plans) {
      const figures = config.networks.flatMap((network) => planFigures(config, network, () => performance.now()));
      print(
        isJson ? JSON.stringify({ kind: 'simulate.plans', figures }) : planTable(figures, figures[0]?.system ?? ''),
      );
      return;
    }
    const started = performance.now();
    const specs = runsOf(config);
    const threads = Math.min(availableParallelism(), specs.length);
    if (options.out !== undefined) await mkdir(options.out, { recursive: true }).catch(cannotWrite(options.out));
    say(`${specs.length} runs of ${config.workers} workers on ${threads} threads`);
    const data = dataOf(await loadDataset('mnist', signal), config);
    let done = 0;
    const runs = await runAll({ config, data }, specs, {
      ...{ threads, signal },
      onRun: (run) => {
        done += 1;
        const target = run.targets.at(-1);
        emit({
          ...{ kind: 'simulate.progress', system: run.system, network: run.network, seed: run.seed },
          ...{ done, runs: specs.length, accuracy: run.samples.at(-1)?.meanAccuracy ?? 0 },
          ...{ target: target?.accuracy ?? 0, targetSeconds: target?.seconds ?? null },
        });
      },
    });
    const report = measured(config, runs);
    const text = reportOf(report);
    if (!isJson) print(text);
    if (options.out !== undefined) await write(options.out, report, runs, text);
    emit({
      ...{ kind: 'simulate.done', runs: runs.length, seconds: (performance.now() - started) / 1000 },
      reference: report.reference,
      comparisons: report.comparisons.map(lastTarget),
      losses: config.networks.flatMap((network) =>
        losses(report.comparisons, report.reference, network).map((loss) => ({ network, text: loss })),
      ),
      findings: [...report.findings],
      out: options.out ?? null,
    });
  },
});

function configOf({ config, seeds, systems, network }: Options): SimulationConfig {
  const given = config === undefined ? {} : readYaml(config, simulationConfigSchema);
  return parseSimulationConfig({
    ...given,
    ...(seeds === undefined ? {} : { seeds }),
    ...(systems === undefined ? {} : { systems }),
    ...(network === undefined ? {} : { networks: [network] }),
  });
}

function measured(config: SimulationConfig, runs: readonly SystemRun[]): Report {
  const comparisons = compare(runs, config.networks);
  const on = (topology: SimulationConfig['topology']): PlanFigures[] => planFigures({ ...config, topology }, 'paper');
  const plans = { ring: on({ kind: 'ring' }), random: on({ kind: 'random', chance: 0.5 }), full: on({ kind: 'full' }) };
  return { config, reference: referenceOf(runs), comparisons, plans, findings: findings({ runs, comparisons, plans }) };
}

const planFigures = (
  config: SimulationConfig,
  network: SimulationConfig['networks'][number],
  nowMs?: () => number,
): PlanFigures[] =>
  config.systems.flatMap((spec) => {
    const run = { system: systemOf(spec), seed: config.seeds[0] ?? 1, network };
    return simulatePlans(config, run, PLAN_DRAWS, nowMs) ?? [];
  });

function lastTarget({ system, network, targets, accuracy, worstAccuracy }: Comparison) {
  const last = targets.at(-1);
  return {
    ...{ system, network, accuracy, worstAccuracy, target: last?.accuracy ?? 0, targetSeconds: last?.seconds ?? null },
    ...{ timesAsLong: last?.timesAsLong ?? null, atLeastTimesAsLong: last?.atLeastTimesAsLong ?? null },
    timesTheBytes: last?.timesTheBytes ?? null,
  };
}

/** No more rows than the simulation looks at: they are copied to every thread. */
function dataOf({ train, test }: { train: Dataset; test: Dataset }, { learning }: SimulationConfig): SimulationData {
  return {
    train: imagesOf(train, learning.rows),
    test: imagesOf(test, learning.testRows),
    classes: train.classes,
  };
}

function imagesOf({ images, labels, rows, inputShape }: Dataset, most: number): LabelledImages {
  const features = inputShape.reduce((product, size) => product * size, 1);
  const count = Math.min(rows, most);
  return { images: images.slice(0, count * features), labels: labels.slice(0, count), rows: count, features };
}

async function write(folder: string, report: Report, runs: readonly SystemRun[], text: string): Promise<void> {
  const { config, comparisons, plans, findings: found, reference } = report;
  const json = JSON.stringify({ config, reference, comparisons, findings: found, plans, runs }, null, 1);
  const files: Record<string, string> = { 'report.md': `${text}\n`, 'simulation.json': `${json}\n` };
  for (const network of config.networks) files[`accuracy-${network}.svg`] = plotOf(runs, network);
  for (const [name, content] of Object.entries(files))
    await writeFile(join(folder, name), content).catch(cannotWrite(join(folder, name)));
}

const cannotWrite =
  (path: string) =>
  (cause: unknown): never => {
    const message = `${path} cannot be written: ${(cause as Error).message}.`;
    throw new MeshError('usage', message, 'Give a folder that can be written with --out.', { cause });
  };
