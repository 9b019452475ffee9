// Training over pipelines equals training alone: 2, 3 and 4 stages, and 2×2 with `all`, over real tcp and webrtc links between
// processes, against the same model whole in one worker.
import assert from 'node:assert/strict';
import test, { before } from 'node:test';
import type { Tensors } from '../../runtime/tensor.ts';
import type { RunData } from '../../runtime/train/client.ts';
import { parseRunConfig, stageNames } from '../../runtime/train/config.ts';
import {
  assertClose,
  assertWeights,
  committedLosses,
  smallMnist,
  trainAlone,
  trainMeshed,
} from '../support/training.ts';
import { startMesh } from '../support/mesh.ts';

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

let data: RunData;
let alone: { losses: number[]; weights: Tensors };

before(async () => {
  const config = parseRunConfig(base);
  data = await smallMnist(config, ROWS);
  alone = await trainAlone(config, data);
});

for (const transport of ['tcp', 'webrtc'] as const)
  test(`sync training over ${transport} links equals training alone`, { timeout: 170_000 }, async (t) => {
    const mesh = await startMesh(t);
    // Process i hosts the i-th stage of every split, so that each pipeline crosses a link at every hop.
    const hosted = [0, 1, 2, 3].map((i) =>
      [2, 3, 4].flatMap((stages) => (i < stages ? [`${stageNames(stages)[i] ?? ''}.${stages}.0.0`] : [])),
    );
    hosted[2]?.push('front.2.1.0');
    hosted[3]?.push('back.2.1.0');
    await Promise.all(hosted.map((uids) => mesh.serveReady(uids, '--transports', transport)));
    for (const stages of [2, 3, 4])
      await t.test(`${stages} stages${stages === 2 ? ' × 2 replicas, all' : ''}`, async () => {
        const config = parseRunConfig({ ...base, version: stages, stages: stageNames(stages), policy: 'all' });
        const { events, weights } = await trainMeshed(config, data, mesh.joinUrl, [transport]).done;
        assertClose(committedLosses(events, config, ROWS), alone.losses, 1e-5);
        assertWeights(weights, alone.weights, 1e-4);
        assert.equal(events.filter((event) => event.kind === 'trainer.started').length, stages === 2 ? 4 : 1);
        const links = events.flatMap((event) => (event.kind === 'link.up' ? [event.transport] : []));
        assert.deepEqual(new Set(links), new Set([transport]));
      });
  });
