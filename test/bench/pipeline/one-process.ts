// The benchmark's other side, a process of its own: the same model whole, the same microbatches and steps, in one compute worker
// without mesh. Prints a step.applied event for every step, with the time and the processor time so far. `node one-process.ts CONFIG`, the run's configuration as JSON.
import { platform } from '#platform';
import { prepareRun } from '../../../node/run-data.ts';
import { layerCount } from '../../../runtime/model/spec.ts';
import { parseRunConfig } from '../../../runtime/train/config.ts';
import { makeSchedule } from '../../../runtime/train/schedule.ts';

const { config, data } = await prepareRun(parseRunConfig(JSON.parse(process.argv[2] ?? '{}')));
const { train, targetsPerRow } = data;
const worker = await platform.startCompute();
const { compute } = worker;
const { model, seed, optimizer } = config;
const { stage } = await compute.open({ model, from: 0, to: layerCount(model), seed, optimizer });
const schedule = makeSchedule({ ...config, rows: train.rows, order: (epoch) => train.order(epoch) });
for (let step = 0; step < schedule.steps; step += 1) {
  // All at once, as the worker likes it best: it records the next while the last one runs.
  const results = await Promise.all(
    schedule.at(step).map(({ rows, batchRows }) => {
      const { x, y } = train.batch(rows);
      return compute.loss(stage, x, y, { scale: 1 / (batchRows * targetsPerRow), train: true, accumulate: true });
    }),
  );
  await compute.step(stage);
  const loss = results.reduce((sum, result) => sum + result.loss, 0);
  const { user, system } = process.cpuUsage();
  const cpuMs = (user + system) / 1_000;
  console.log(JSON.stringify({ kind: 'step.applied', run: 'alone', step, loss, stages: {}, time: Date.now(), cpuMs }));
}
await worker.end();
process.exit(0);
