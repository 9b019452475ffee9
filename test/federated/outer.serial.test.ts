// Low-communication training of workers over real links beside an all-reduce in every step: bytes received, and the loss where it ends.
import assert from 'node:assert/strict';
import test, { after } from 'node:test';
import { someMnist, startWorkers, type TestWorker } from './harness.ts';

const ends: (() => unknown)[] = [];
after(async () => {
  for (const end of ends.reverse()) await end();
});
const scope = { after: (end: unknown) => void ends.push(end as () => unknown) };
const workers = await startWorkers(scope, await someMnist(16_000, 1_000));
const WORKERS = 2;
const STEPS = 900;
/** Local steps between exchanges: int8 has a little over a quarter of the bytes of f32, and there is one more exchange at the end. */
const APART = 30;

let runs = 0;

async function trained(
  average: object,
  more: object = {},
): Promise<{ bytes: number; loss: number; all: TestWorker[] }> {
  runs += 1;
  const all = Array.from({ length: WORKERS }, (_, worker) =>
    workers.start({
      ...{ version: runs, worker, workers: WORKERS, topology: 'full', partition: { kind: 'iid' } },
      ...{ maxSteps: STEPS, evalEvery: 10 * STEPS, evalRows: 100 },
      model: { family: 'mlp', sizes: [784, 32, 10] },
      optimizer: { name: 'sgd', lr: 0.1 },
      schedule: { kind: 'linear', final: 0.1 },
      ...more,
      average,
    }),
  );
  for (const one of await Promise.all(all.map((worker) => worker.ended)))
    assert.ok(!(one instanceof Error), String(one));
  const losses = await Promise.all(all.map((worker) => worker.loss));
  const bytes = all.flatMap((worker) => worker.all('layers.merged')).reduce((sum, merged) => sum + merged.bytes, 0);
  return { bytes, loss: losses.reduce((sum, loss) => sum + loss, 0) / WORKERS, all };
}

test('Streaming DiLoCo with int8: 100 times fewer bytes than an all-reduce every step, and no more than 2 % more loss', async (t) => {
  const every = await trained({ planner: 'all-reduce', defence: 'finite' });
  const outer = { kind: 'streaming-diloco', steps: APART, fragments: 4 };
  const rarely = await trained({ outer, format: 'int8' });
  t.diagnostic(
    `${every.bytes} and ${rarely.bytes} bytes, losses ${every.loss.toFixed(4)} and ${rarely.loss.toFixed(4)}`,
  );
  assert.ok(every.bytes / rarely.bytes >= 100, `${every.bytes / rarely.bytes} times fewer`);
  assert.ok(rarely.loss <= every.loss * 1.02, `loss ${rarely.loss}, and ${every.loss} in step`);
  for (const worker of rarely.all) assert.deepEqual(worker.all('log'), [], 'no exchange went on without anybody');
});

test('workers in step, all-reduced or by DiLoCo, end with the same model', async () => {
  for (const average of [
    { planner: 'd-psgd', steps: 10 },
    { outer: { kind: 'diloco', steps: 50 }, format: 'int4' },
  ]) {
    const { all } = await trained(average, { maxSteps: 100 });
    const [a, b] = await Promise.all(all.map((worker) => worker.loss));
    assert.ok(a !== undefined && b !== undefined && Math.abs(a - b) <= 1e-5 * a, `${a} and ${b}`);
  }
});
