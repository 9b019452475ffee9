// Workers as processes, over real links: one is killed, one sleeps for a minute in the middle of pulls, one comes late. The others go on; who
// comes late begins with a full model; nobody ends with half of anything.
import assert from 'node:assert/strict';
import test from 'node:test';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { EventOf } from '../../runtime/events.ts';
import { startMesh, type TestMesh } from '../support/mesh.ts';
import { startNode, type Running } from '../support/processes.ts';

const WORKERS = 4;
const ASLEEP_MS = 60_000;
const END_MS = 150_000;

async function startWorker(
  t: { after(work: () => Promise<unknown>): void },
  mesh: TestMesh,
  worker: number,
): Promise<Running> {
  const file = join(mesh.directory, `worker-${worker}-${performance.now()}.yaml`);
  const config = {
    ...{ worker, workers: WORKERS, topology: 'full' },
    partition: { kind: 'dirichlet', alpha: 0.5 },
    // Large enough that a pull takes a while, and as many steps as fill the time that one of them sleeps.
    model: { family: 'mlp', sizes: [784, 256, 10] },
    maxSteps: 100_000,
    evalEvery: 1_000_000,
    evalRows: 1_000,
    optimizer: { name: 'sgd', lr: 0.05 },
    average: { intervalMs: 100, share: 0.3 },
    patienceMs: 10_000,
  };
  await writeFile(file, JSON.stringify(config)); // JSON is YAML
  const args = ['--join', mesh.joinUrl, '--worker', '--config', file, '--port', '0', '--transports', 'tcp'];
  const running = startNode('node/serve.ts', args, { env: { LP_NUM_THREADS: '1' } });
  t.after(() => running.kill('SIGKILL'));
  return running;
}

const merges = (running: Running, peer?: string): EventOf<'layers.merged'>[] =>
  running.all('layers.merged').filter(({ peers }) => peer === undefined || peers.includes(peer));
const wait = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
async function until(what: string, isSo: () => boolean, withinMs: number): Promise<void> {
  const end = performance.now() + withinMs;
  while (!isSo()) {
    assert.ok(performance.now() < end, `not within ${withinMs} ms: ${what}`);
    await wait(50);
  }
}

test(
  'a worker that is killed, one that sleeps for a minute, one that comes late',
  { timeout: END_MS + 25_000 },
  async (t) => {
    const mesh = await startMesh(t);
    const [a, b, sleeper, victim] = await Promise.all([0, 1, 2, 3].map((worker) => startWorker(t, mesh, worker)));
    assert.ok(a && b && sleeper && victim);
    await until('all merge with all', () => [a, b].every((one) => ['worker.0.2.0', 'worker.0.3.0'].every((uid) => merges(one, uid).length > 0)), 60_000); // prettier-ignore

    // Pulls go to and fro all the time: both go in the middle of some.
    const asleepAt = performance.now();
    process.kill(sleeper.pid, 'SIGSTOP');
    await victim.kill('SIGKILL');
    const before = [a, b].map((one) => merges(one).length);
    await until('the others merge with each other', () => [a, b].every((one, i) => merges(one).length >= (before[i] ?? 0) + 5), 40_000); // prettier-ignore
    const since = (one: Running): EventOf<'layers.merged'>[] => merges(one).slice(-3);
    for (const one of [a, b])
      for (const { peers } of since(one))
        assert.ok(!peers.includes('worker.0.3.0'), 'nothing is merged of one that is dead');

    const late = await startWorker(t, mesh, 3);
    const adopted = await late.event('worker.adopted', undefined, 30_000);
    assert.ok(adopted.steps > 0, 'a model that has been trained');
    assert.ok(['worker.0.0.0', 'worker.0.1.0'].includes(adopted.from));
    await until('the late one and the others merge', () => merges(late).length > 0 && [a, b].some((one) => since(one).some(({ peers }) => peers.includes('worker.0.3.0'))), 30_000); // prettier-ignore

    await wait(Math.max(0, ASLEEP_MS - (performance.now() - asleepAt)));
    const [slept, adoptions] = [merges(sleeper).length, sleeper.all('worker.adopted').length];
    process.kill(sleeper.pid, 'SIGCONT');
    await until('it goes on from the model of one that was awake', () => sleeper.all('worker.adopted').length > adoptions, 40_000); // prettier-ignore
    assert.ok(sleeper.all('worker.adopted').slice(adoptions).every(({ steps }) => steps > 0), 'which has been trained'); // prettier-ignore
    await until('the one that slept merges again', () => merges(sleeper).length >= slept + 3, 30_000);
    await until('the others take it up again', () => [a, b].some((one) => since(one).some(({ peers }) => peers.includes('worker.0.2.0'))), 30_000); // prettier-ignore

    // Whoever was asleep, dead or late: what everyone has is a whole model that has learned all classes.
    const running = [a, b, sleeper, late];
    const ends = await Promise.all(running.map((one) => one.kill('SIGINT')));
    assert.deepEqual(ends.map(({ code }) => code), [130, 130, 130, 130]); // prettier-ignore
    for (const one of running) {
      assert.deepEqual(one.all('peer.banned'), [], 'who slept or died is no enemy');
      assert.doesNotMatch(one.stderr(), /defect|at .*:\d+:\d+/);
      const losses = one.all('worker.progress').map(({ loss }) => loss);
      assert.ok(losses.every(Number.isFinite) && (losses.at(-1) ?? NaN) < 1, `loss ${losses.at(-1)}`);
    }
  },
);
