// Samples a second of two stages × one replica in two processes, against the same model whole in one process: same batches, same
// microbatches, same run of the benchmark, one after the other.
import { availableParallelism } from 'node:os';
import { platform } from '#platform';
import { layerCount } from '../../runtime/model/spec.ts';
import type { RunData } from '../../runtime/train/client.ts';
import { parseRunConfig, type RunConfig } from '../../runtime/train/config.ts';
import { makeSchedule } from '../../runtime/train/schedule.ts';
import { startMesh } from '../support/mesh.ts';
import { smallMnist, trainMeshed } from '../support/training.ts';

const ROWS = 12_800;
const WARM_STEPS = 10;

interface Case {
  name: string;
  sizes: number[];
  batch: number;
  microbatch: number;
  steps: number;
}

const CASES: Case[] = [
  { name: '784-64-10', sizes: [784, 64, 10], batch: 128, microbatch: 32, steps: 100 },
  { name: '784-256-10', sizes: [784, 256, 10], batch: 256, microbatch: 64, steps: 50 },
];

export async function benchPipeline(): Promise<object> {
  const cases: object[] = [];
  for (const { name, sizes, batch, microbatch, steps } of CASES) {
    const config = parseRunConfig({
      model: { family: 'mlp', sizes },
      batch,
      microbatch,
      maxSteps: steps + WARM_STEPS,
      seed: 1,
    });
    const data = await smallMnist(config, ROWS);
    const alone = await aloneRate(config, data);
    const pipeline = await pipelineRate(config, data);
    cases.push({
      model: name,
      batch,
      microbatch,
      steps,
      alone,
      pipeline,
      ratio: round(pipeline.samplesPerSecond / alone.samplesPerSecond),
    });
  }
  return {
    bench: 'pipeline',
    method: `sync, SGD with momentum, ${WARM_STEPS} steps not counted; alone: forward, loss, backward and step of each batch in one worker of one process; pipeline: client, monitor and two single-stage servers as processes of their own over measured links (TCP on one machine)`,
    cores: availableParallelism(),
    cases,
  };
}

async function aloneRate(config: RunConfig, data: RunData): Promise<{ samplesPerSecond: number; finalLoss: number }> {
  const worker = await platform.startCompute();
  const { compute } = worker;
  const { stage } = await compute.open({
    model: config.model,
    from: 0,
    to: layerCount(config.model),
    seed: config.seed,
    optimizer: config.optimizer,
  });
  const schedule = makeSchedule({ ...config, rows: ROWS, order: (epoch) => data.train.order(epoch) });
  let started = performance.now();
  let rows = 0;
  let loss = 0;
  for (let step = 0; step < schedule.steps; step += 1) {
    if (step === WARM_STEPS) {
      started = performance.now();
      rows = 0;
    }
    const results = await Promise.all(
      schedule.at(step).map((task) => {
        const { x, y } = data.train.batch(task.rows);
        rows += task.rows.length;
        return compute.loss(stage, x, y, { scale: 1 / task.batchRows, train: true, accumulate: true });
      }),
    );
    loss = results.reduce((sum, result) => sum + result.loss, 0);
    await compute.step(stage);
  }
  const seconds = (performance.now() - started) / 1_000;
  await worker.end();
  return { samplesPerSecond: Math.round(rows / seconds), finalLoss: loss };
}

async function pipelineRate(
  config: RunConfig,
  data: RunData,
): Promise<{ samplesPerSecond: number; finalLoss: number; transports: string[] }> {
  const endings: (() => Promise<unknown>)[] = [];
  try {
    const mesh = await startMesh({ after: (work) => endings.unshift(work) });
    await Promise.all(['front.0.0.0', 'back.0.0.0'].map((uid) => mesh.serveReady([uid])));
    const run = trainMeshed(config, data, mesh.joinUrl);
    const times: number[] = [];
    run.on((event) => {
      if (event.kind === 'step.applied') times.push(performance.now());
    });
    const { events } = await run.done;
    const seconds = ((times.at(-1) ?? 0) - (times[WARM_STEPS - 1] ?? 0)) / 1_000;
    const losses = events.flatMap((event) => (event.kind === 'step.applied' ? [event.loss] : []));
    const transports = [...new Set(events.flatMap((event) => (event.kind === 'link.up' ? [event.transport] : [])))];
    return {
      samplesPerSecond: Math.round(((times.length - WARM_STEPS) * config.batch) / seconds),
      finalLoss: losses.at(-1) ?? NaN,
      transports,
    };
  } finally {
    for (const end of endings) await end();
  }
}

const round = (value: number): number => Math.round(value * 1_000) / 1_000;
