// Runs that cannot go on, or are broken off, over real processes: who is told what, with which exit code, and what is free afterwards.
import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'node:test';
import { joinFromNode } from '../../node/peer.ts';
import { parseRunConfig, planStages } from '../../runtime/train/config.ts';
import { f32Tensor, i32Tensor } from '../../runtime/tensor.ts';
import { parseUid, runIdSchema } from '../../runtime/wire/ids.ts';
import { SMALL_RUN, startMesh, type TestMesh } from '../support/mesh.ts';
import type { Running } from '../support/processes.ts';
import { withCode } from '../server/stages.ts';

const LONG_RUN = { ...SMALL_RUN, epochs: 1_000, maxSteps: 1_000_000 };
const MODEL = { family: 'mlp', sizes: [784, 64, 10], activation: 'relu' };

async function pin(mesh: TestMesh, model: object, layers: string): Promise<string[]> {
  const file = join(mesh.directory, `model-${Math.random()}.json`);
  await writeFile(file, JSON.stringify(model));
  return ['--model', file, '--layers', layers];
}
const ready = (...servers: Running[]): Promise<unknown> => Promise.all(servers.map((one) => one.event('stage.ready')));
const line = (running: Running, label: string): string =>
  running.stderr().split('\n').find((one) => one.startsWith(`${label}: `)) ?? running.stderr(); // prettier-ignore

test('Ctrl-C of a server: it leaves the directory at once and ends well', { timeout: 60_000 }, async (t) => {
  const mesh = await startMesh(t);
  const server = mesh.serve(['front.0.0.0', 'back.0.0.0']);
  await ready(server);
  const asked = performance.now();
  const exit = server.kill('SIGINT', 12_000);
  await mesh.monitor.event('record.removed', (event) => event.name === 'front.0.0.0', 2_000);
  await mesh.monitor.event('record.removed', (event) => event.name === 'back.0.0.0', 2_000);
  assert.deepEqual(await exit, { code: 0, signal: null });
  assert.ok(performance.now() - asked < 10_000);
});

test(
  'a run that is broken off: Ctrl-C ends it with 130, kill -9 without a word; the stages are free either way',
  { timeout: 150_000 },
  async (t) => {
    const mesh = await startMesh(t);
    const servers = [mesh.serve(['front.0.0.0']), mesh.serve(['back.0.0.0'])];
    await ready(...servers);
    const first = await mesh.train(LONG_RUN);
    await first.event('run.progress');

    const rival = await mesh.train({ ...SMALL_RUN, patienceMs: 1_500 });
    assert.equal((await rival.exit).code, 1);
    assert.match(rival.stderr(), /serves run run-\w+, whose client is still connected/);
    assert.match(line(rival, 'error'), /No replica of front or back came within 2 s\..* serves run run-\w+/);
    assert.match(line(rival, 'fix'), /Wait until that run ends/);

    const asked = performance.now();
    assert.deepEqual(await first.kill('SIGINT'), { code: 130, signal: null });
    assert.ok(performance.now() - asked < 10_000);
    assert.equal(first.all('run.failed')[0]?.code, 'cancelled');
    await Promise.all(servers.map((server) => server.event('stage.closed', undefined, 3_000)));

    const second = await mesh.train(LONG_RUN);
    await second.event('run.progress');
    assert.deepEqual(await second.kill('SIGKILL'), { code: null, signal: 'SIGKILL' });

    const third = await mesh.train({ ...SMALL_RUN, maxSteps: 5 });
    assert.deepEqual(await third.exit, { code: 0, signal: null }, third.stderr());
    const done = await third.event('run.done');
    assert.equal(done.appliedMicrobatches, 10);
    assert.equal(third.all('run.failed').length, 0);
  },
);

test(
  'servers that are pinned to what does not fit the run end it with both sides of the matter',
  { timeout: 120_000 },
  async (t) => {
    const mesh = await startMesh(t);
    const narrow = mesh.serve(['front.0.0.0'], ...(await pin(mesh, { ...MODEL, sizes: [784, 32, 10] }, '0:1')));
    const fitting = mesh.serve(['back.0.0.0'], ...(await pin(mesh, MODEL, '1:2')));
    await ready(narrow, fitting);
    const run = await mesh.train(SMALL_RUN);
    assert.equal((await run.exit).code, 2, run.stderr());
    assert.match(line(run, 'error'), /front\.0\.0\.0 is set to .*784,32,10.* layers 0\.\.1; the run wants .*784,64,10/);
    assert.match(line(run, 'fix'), /same model and split/);
    assert.equal(run.all('run.failed')[0]?.code, 'stage-shapes');
    assert.equal(run.all('run.started').length, 0);

    // Two that contradict each other: one of them fits, the other ends the run before it begins.
    const right = mesh.serve(['front.1.0.0', 'back.1.0.0']);
    const other = mesh.serve(['front.1.1.0'], ...(await pin(mesh, MODEL, '0:2')));
    await ready(right, other);
    const second = await mesh.train({ ...SMALL_RUN, version: 1 });
    assert.equal((await second.exit).code, 2, second.stderr());
    assert.match(line(second, 'error'), /front\.1\.1\.0 is set to .* layers 0\.\.2; the run wants .* layers 0\.\.1/);
  },
);

test(
  'a server that does not fit and comes during a run is left out, and the run goes on',
  { timeout: 90_000 },
  async (t) => {
    const mesh = await startMesh(t);
    const misfit = await pin(mesh, { ...MODEL, sizes: [784, 16, 10] }, '0:1');
    const server = mesh.serve(['front.0.0.0', 'back.0.0.0']);
    await ready(server);
    const run = await mesh.train(LONG_RUN);
    await run.event('run.progress');
    await ready(mesh.serve(['front.0.1.0'], ...misfit));
    await run.event('log', ({ message }) => /front\.0\.1\.0 cannot join the run: .* is set to/.test(message));
    const { step } = run.all('run.progress').at(-1) ?? { step: 0 };
    await run.event('run.progress', (event) => event.step > step + 20);
    assert.equal(run.all('run.failed').length, 0);
    assert.equal(run.all('step.retried').length, 0);
  },
);

test('a run that diverges ends with what to do about it', { timeout: 60_000 }, async (t) => {
  const mesh = await startMesh(t);
  const server = mesh.serve(['front.0.0.0', 'back.0.0.0']);
  await ready(server);
  for (const mode of ['sync', 'async']) {
    const run = await mesh.train({ ...SMALL_RUN, mode, optimizer: { name: 'sgd', lr: 1e30 } });
    assert.equal((await run.exit).code, 1, run.stderr());
    const failed = run.all('run.failed')[0];
    assert.equal(failed?.code, 'not-finite');
    assert.match(line(run, 'error'), /diverged/);
    assert.match(line(run, 'fix'), /[Ll]ower optimizer\.lr \(it is 1e\+30\)/);
  }
  const good = await mesh.train({ ...SMALL_RUN, maxSteps: 3 });
  assert.equal((await good.exit).code, 0, good.stderr());
});

test(
  'NaN from a stranger over a real link is refused, reported, and the stage goes on',
  { timeout: 60_000 },
  async (t) => {
    const mesh = await startMesh(t);
    const server = mesh.serve(['back.0.0.0']);
    await ready(server);
    const stop = new AbortController();
    const peer = await joinFromNode({ join: mesh.joinUrl, role: 'client', host: '127.0.0.1', port: 0, emit: () => undefined, signal: stop.signal }); // prettier-ignore
    t.after(() => peer.close('done'));
    const { uid } = parseUid('back.0.0.0');
    const record = (await peer.monitor?.discover(uid))?.[0];
    assert.ok(record?.kind === 'stage');
    const replica = { uid, peer: record.peer, addresses: record.addresses };
    const run = runIdSchema.parse('nan');
    const config = parseRunConfig({ stages: ['front', 'back'] });
    const { from, to } = planStages(config)[1] ?? { from: 0, to: 0 };
    const spec = { model: config.model, from, to, seed: 1, optimizer: config.optimizer };
    await peer.ask(replica, 'stage.open', { uid, run, spec, mode: 'sync', accumulate: 1 }, { deadlineMs: 30_000 });
    const send = (value: number, microbatch: number): Promise<{ body: { loss: number } }> => {
      const key = { run, trainer: 't', step: 0, microbatch };
      const tensors = new Map([
        ['x', f32Tensor([2, 64], new Float32Array(128).fill(1).fill(value, 77, 78))],
        ['y', i32Tensor([2], Int32Array.of(3, 4))],
      ]);
      const body = { uid, run, step: 0, attempt: 0, key, scale: 0.5, route: [] };
      return peer.ask(replica, 'stage.forward', body, { deadlineMs: 10_000, tensors });
    };
    for (const [i, bad] of [NaN, Infinity, -Infinity].entries())
      await assert.rejects(send(bad, i), withCode('not-finite'));
    await server.event('stage.rejected', (event) => event.uid === uid && /NaN or infinity/.test(event.reason), 2_000);
    assert.ok((await send(1, 9)).body.loss > 0);
    const reduced = { uid, run, step: 0, attempt: 0, members: [{ replica, microbatches: [9] }] };
    await peer.ask(replica, 'stage.reduce', reduced, { deadlineMs: 10_000 });
    const { body } = await peer.ask(replica, 'stage.apply', { uid, run, step: 0, attempt: 0 }, { deadlineMs: 10_000 });
    assert.ok(Number.isFinite(body.gradientNorm) && body.gradientNorm > 0, 'only the good one is in the gradient');
  },
);
