// A worker that comes when its neighbour has trained for a while: one that averages begins with the neighbour's model, one that does not with
// its own, so that workers without averaging stay a fair comparison.
import assert from 'node:assert/strict';
import { setTimeout as pause } from 'node:timers/promises';
import test from 'node:test';
import { someMnist, startWorkers } from './harness.ts';

const START_MS = 20_000;

for (const [version, planner, adoptions] of [
  [0, 'mpls', 1],
  [1, 'none', 0],
] as const)
  test(`who comes late with planner ${planner} takes over ${adoptions} models`, async (t) => {
    const workers = await startWorkers(t, await someMnist(1_000, 100));
    // prettier-ignore
    const config = (worker: number, maxSteps: number): object => ({
      ...{ version, worker, workers: 2, partition: { kind: 'iid' }, maxSteps, patienceMs: 1, evalEvery: 100_000 },
      ...{ model: { family: 'mlp', sizes: [784, 16, 10] }, optimizer: { name: 'sgd', lr: 0.01 } },
      ...{ average: { planner, intervalMs: 100 } },
    });
    const early = workers.start(config(0, 100_000));
    const until = performance.now() + START_MS;
    while (!early.all('worker.progress').some(({ step }) => step > 0)) {
      assert.ok(performance.now() < until, 'the first worker trains');
      await pause(50);
    }
    const late = workers.start(config(1, 5));
    const done = await late.ended;
    assert.ok(!(done instanceof Error), String(done));
    assert.equal(late.all('worker.adopted').length, adoptions);
    assert.deepEqual(early.all('worker.adopted'), []);
    early.stop();
    await early.ended;
  });
