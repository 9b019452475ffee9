// A worker by itself: clipping that never clips changes nothing, to the last bit, though its steps are asked for in another way.
import assert from 'node:assert/strict';
import test from 'node:test';
import { someMnist, startWorkers } from './harness.ts';

test('a norm that is far below the limit leaves every step as it is', async (t) => {
  const workers = await startWorkers(t, await someMnist(2_000, 200));
  const losses: number[] = [];
  for (const [version, clip] of [
    [0, {}],
    [1, { clip: 1e6 }],
    [2, { clip: 0.1 }],
  ] as const) {
    // prettier-ignore
    const worker = workers.start({
      ...{ version, worker: 0, workers: 1, partition: { kind: 'iid' }, maxSteps: 40, evalEvery: 1_000 },
      ...{ model: { family: 'mlp', sizes: [784, 16, 10] }, optimizer: { name: 'sgd', lr: 0.1 } },
      ...{ average: { planner: 'none', intervalMs: 100 }, ...clip },
    });
    assert.ok(!((await worker.ended) instanceof Error), String(await worker.ended));
    losses.push(await worker.loss);
  }
  const [plain = NaN, wide, narrow = NaN] = losses;
  assert.equal(wide, plain);
  assert.ok(narrow > plain, `${narrow} with small steps, ${plain} with whole ones`);
});
