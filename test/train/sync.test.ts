// A sync step as the client drives it, over stages without GPU: the pace is the same everywhere, what is too large for f16 is tried again
// at a smaller scale, what is not finite at any ends the run.
import assert from 'node:assert/strict';
import test, { type TestContext } from 'node:test';
import { f32Tensor, i32Tensor } from '../../runtime/tensor.ts';
import { parseRunConfig, planStages } from '../../runtime/train/config.ts';
import { Roster } from '../../runtime/train/roster.ts';
import { makeSchedule } from '../../runtime/train/schedule.ts';
import { Session } from '../../runtime/train/session.ts';
import { syncStep } from '../../runtime/train/sync.ts';
import type { MeshRecord } from '../../runtime/wire/records.ts';
import { CLIENT, RUN, TestMesh, withCode, type FakeCompute, type TestStage } from '../server/stages.ts';

/** Two replicas of two stages, whose gradient is the sum of the inputs times the scale: 2 for rows of 1 and 3, at scale 1. */
function session(t: TestContext, more: object): { session: Session; stages: TestStage[]; mesh: TestMesh } {
  const mesh = new TestMesh();
  t.after(() => mesh.close());
  const stages = ['front.0.0.0', 'front.0.1.0', 'back.0.0.0', 'back.0.1.0'].map((uid, i) => mesh.add(uid, 'abde'[i] ?? '')); // prettier-ignore
  const config = parseRunConfig({
    model: { family: 'mlp', sizes: [1, 1, 1] },
    ...{ batch: 2, microbatch: 1, epochs: 100, optimizer: { name: 'sgd', lr: 1 }, policy: 'disjoint' },
    ...more,
  });
  const plans = planStages(config);
  const names = plans.map(({ name }) => name);
  const roster = new Roster({ stages: names, version: 0, subversion: 0, now: () => performance.now() });
  const record = ({ uid, replica }: TestStage): [string, MeshRecord] => [
    uid,
    { kind: 'stage', name: uid, peer: replica.peer, addresses: [], host: 'node', device: '', isSoftware: true, samplesPerSecond: 0, load: 0, isPaused: false, run: null, issuedAt: 0, expiresAt: 1 },
  ]; // prettier-ignore
  roster.update(new Map(stages.map(record)), () => true);
  mesh.connected.add(CLIENT);
  const rows = [1, 3];
  const made = new Session({
    ...{ run: RUN, config, plans, roster, ask: mesh.ask, isConnected: () => true, targetsPerRow: 1 },
    emit: (event) => mesh.events.push(event),
    schedule: makeSchedule({ ...config, rows: 2, order: () => Uint32Array.of(0, 1) }),
    batchOf: (indices) => ({
      x: f32Tensor(
        [indices.length, 1],
        Float32Array.from(indices, (row) => rows[row] ?? NaN),
      ),
      y: i32Tensor([indices.length], new Int32Array(indices.length)),
    }),
    signal: new AbortController().signal,
  });
  return { session: made, stages, mesh };
}

/** As f16 does it: what is larger becomes infinite. */
function overflowAt(gpu: FakeCompute, limit: number): void {
  const { squaredNorm } = gpu.compute;
  gpu.compute.squaredNorm = async (stage, options) =>
    (await squaredNorm(stage, options)) > limit * limit ? Infinity : squaredNorm(stage, options);
}

test('clipped by the norm of the whole model, at the rate of the step', async (t) => {
  const { session: run, stages, mesh } = session(t, { clip: 1, schedule: { warmup: 2 } });
  assert.equal(await syncStep(run, 0), 2);
  const norm = Math.hypot(2, 2);
  for (const { gpu } of stages) assert.ok(Math.abs(gpu.weight - (1 - (0.5 * 2) / norm)) < 1e-5, `${gpu.weight}`);
  const [applied] = mesh.all('step.applied');
  assert.deepEqual([applied?.lr, applied?.gradientNorm], [0.5, norm]);
  await syncStep(run, 1);
  assert.equal(mesh.all('step.applied')[1]?.lr, 1);
});

test('a gradient too large for its scale: the same step at half of it, and each microbatch counted once', async (t) => {
  const { session: run, stages, mesh } = session(t, { lossScale: 'dynamic' });
  for (const { gpu } of stages) overflowAt(gpu, 1_100);
  assert.equal(await syncStep(run, 0), 2);
  assert.equal(run.lossScale?.value, 512);
  assert.equal(mesh.all('step.retried').length, 3);
  assert.match(mesh.all('step.retried')[0]?.reason ?? '', /not finite at loss scale 4096\. .* lowered to 2048/);
  for (const { gpu } of stages) assert.deepEqual([gpu.weight, gpu.steps], [-1, 1]);
  assert.deepEqual(mesh.all('step.applied')[0]?.stages, { front: [0, 1], back: [0, 1] });
  assert.equal(run.applied, 2);
  assert.equal(mesh.all('microbatch.done').at(-1)?.loss, mesh.all('microbatch.done').at(-1)?.key.microbatch === 0 ? 1 : 3); // prettier-ignore
});

test('what is not finite at any scale, or without one, ends the run', async (t) => {
  for (const more of [{ lossScale: 'dynamic' }, { lossScale: 16 }, { clip: 1 }]) {
    const { session: run, stages, mesh } = session(t, more);
    for (const { gpu } of stages) overflowAt(gpu, 0);
    await assert.rejects(syncStep(run, 0), withCode('not-finite'));
    assert.equal(mesh.all('step.retried').length, 'lossScale' in more && more.lossScale === 'dynamic' ? 12 : 0);
    assert.ok(stages.every(({ gpu }) => gpu.steps === 0));
  }
});
