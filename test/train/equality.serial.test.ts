// Training over pipelines equals training alone: 2, 3 and 4 stages, and 2×2 with `all`, over real tcp and webrtc links between
// processes, against the same model whole in one worker.
import assert from 'node:assert/strict';
import test, { after, before } from 'node:test';
import { tmpdir } from 'node:os';
import { mkdtemp } from 'node:fs/promises';
import path from 'node:path';
import { platform } from '#platform';
import { startChild, type Child } from '../../node/children.ts';
import { loadRunData } from '../../node/train.ts';
import { joinFromNode } from '../../node/peer.ts';
import type { MeshEvent } from '../../runtime/events.ts';
import { layerCount } from '../../runtime/model/spec.ts';
import { f32Of, type Tensors } from '../../runtime/tensor.ts';
import { runClient, type RunData } from '../../runtime/train/client.ts';
import { parseRunConfig, stageNames, type RunConfig } from '../../runtime/train/config.ts';
import { makeSchedule } from '../../runtime/train/schedule.ts';

const STEPS = 50;
const ROWS = 3_000;
const base = {
  model: { family: 'mlp', sizes: [784, 32, 24, 16, 10], activation: 'gelu' },
  batch: 60,
  microbatch: 16,
  epochs: 1,
  maxSteps: STEPS,
  seed: 7,
  optimizer: { name: 'sgd', lr: 0.05, momentum: 0.9 },
};

const children: Child[] = [];
let data: RunData;
let alone: { losses: number[]; weights: Tensors };

before(async () => {
  const config = parseRunConfig(base);
  const whole = await loadRunData(config);
  data = {
    ...whole,
    train: { ...whole.train, rows: ROWS, order: (epoch) => whole.train.order(epoch).filter((row) => row < ROWS) },
    test: { ...whole.test, rows: 500 },
  };
  alone = await trainAlone(config);
});

after(async () => {
  await Promise.all(children.map((child) => child.end()));
});

for (const transport of ['tcp', 'webrtc'] as const)
  test(`sync training over ${transport} links equals training alone`, { timeout: 170_000 }, async (t) => {
    const state = await mkdtemp(path.join(tmpdir(), 'skein-test-'));
    const monitor = startChild('monitor', 'signaling/main.ts', ['--port', '0', '--state', state]);
    children.push(monitor);
    const { joinUrl } = await monitor.event('monitor.ready');
    // Process i hosts the i-th stage of every split, so that each pipeline crosses a link at every hop.
    const hosted = [0, 1, 2, 3].map((i) =>
      [2, 3, 4].flatMap((stages) => (i < stages ? [`${stageNames(stages)[i] ?? ''}.${stages}.0.0`] : [])),
    );
    hosted[2]?.push('front.2.1.0');
    hosted[3]?.push('back.2.1.0');
    const servers = hosted.map((uids, i) =>
      startChild(
        `server ${i}`,
        'node/serve.ts',
        ['--join', joinUrl, '--port', '0', '--transports', transport, ...uids.flatMap((uid) => ['--stage', uid])],
        { LP_NUM_THREADS: '1' },
      ),
    );
    children.push(...servers);
    await Promise.all(servers.map((server) => server.event('stage.ready')));
    for (const stages of [2, 3, 4])
      await t.test(`${stages} stages${stages === 2 ? ' × 2 replicas, all' : ''}`, async () => {
        const config = parseRunConfig({ ...base, version: stages, stages: stageNames(stages), policy: 'all' });
        const events = await trainMeshed(config, joinUrl, transport);
        compare(events.events, events.weights);
        const trainers = events.events.filter((event) => event.kind === 'trainer.started').length;
        assert.equal(trainers, stages === 2 ? 4 : 1);
        const links = events.events.flatMap((event) => (event.kind === 'link.up' ? [event.transport] : []));
        assert.deepEqual(new Set(links), new Set([transport]));
      });
  });

function compare(events: readonly MeshEvent[], weights: Tensors): void {
  const losses = events.flatMap((event) => (event.kind === 'step.applied' ? [event.loss] : []));
  assert.equal(losses.length, STEPS);
  for (const [step, loss] of losses.entries()) {
    const expected = alone.losses[step] ?? NaN;
    assert.ok(
      Math.abs(loss - expected) <= 1e-5 * Math.abs(expected),
      `loss of step ${step}: ${loss}, alone ${expected}`,
    );
  }
  assert.deepEqual([...weights.keys()].sort(), [...alone.weights.keys()].sort());
  for (const [name, expected] of alone.weights) {
    const got = weights.get(name);
    assert.ok(got, name);
    assert.ok(distance(f32Of(got), f32Of(expected)) < 1e-4, `${name}: ${distance(f32Of(got), f32Of(expected))}`);
  }
}

/** The same batches through the whole model in one worker, without mesh, microbatches or links. */
async function trainAlone(config: RunConfig): Promise<{ losses: number[]; weights: Tensors }> {
  const worker = await platform.startCompute();
  const { compute } = worker;
  const { stage } = await compute.open({
    model: config.model,
    from: 0,
    to: layerCount(config.model),
    seed: config.seed,
    optimizer: config.optimizer,
  });
  const schedule = makeSchedule({
    ...config,
    microbatch: config.batch,
    rows: ROWS,
    order: (epoch) => data.train.order(epoch),
  });
  const losses: number[] = [];
  for (let step = 0; step < STEPS; step += 1) {
    const [whole] = schedule.at(step);
    assert.ok(whole);
    const { x, y } = data.train.batch(whole.rows);
    losses.push((await compute.loss(stage, x, y, { scale: 1 / whole.batchRows, train: true, accumulate: true })).loss);
    await compute.step(stage);
  }
  const weights = await compute.read(stage, 'weights');
  await worker.end();
  return { losses, weights };
}

async function trainMeshed(
  config: RunConfig,
  join: string,
  transport: 'tcp' | 'webrtc',
): Promise<{ events: MeshEvent[]; weights: Tensors }> {
  const events: MeshEvent[] = [];
  const emit = (event: MeshEvent): void => void events.push(event);
  const { signal } = new AbortController();
  const peer = await joinFromNode({
    join,
    role: 'client',
    host: '127.0.0.1',
    port: 0,
    emit,
    signal,
    allow: [transport],
  });
  let weights: Tensors = new Map();
  try {
    await runClient({
      peer,
      config,
      data,
      emit,
      signal,
      save: (tensors) => ((weights = tensors), Promise.resolve('kept')),
    });
  } finally {
    await peer.close('done');
  }
  return { events, weights };
}

/** ‖a − b‖ / ‖b‖ */
function distance(a: Float32Array, b: Float32Array): number {
  let difference = 0;
  let norm = 0;
  for (const [i, value] of b.entries()) {
    difference += ((a[i] ?? NaN) - value) ** 2;
    norm += value ** 2;
  }
  return Math.sqrt(difference / norm);
}
