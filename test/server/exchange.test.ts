// What replicas of one stage do with each other: the same sum everywhere, one step however often it is asked for, no state of two steps.
import assert from 'node:assert/strict';
import test, { type TestContext } from 'node:test';
import { MeshError } from '../../runtime/errors.ts';
import { lastSpec, microbatch, RUN, TestMesh, withCode, type TestStage } from './stages.ts';

const options = { deadlineMs: 1_000 };
const at = { run: RUN, step: 0, attempt: 0 };

/** Replicas of the last stage, open; on a peer each unless told otherwise. */
async function replicas(
  t: TestContext,
  letters: string,
  mode: 'sync' | 'async' = 'sync',
): Promise<[TestMesh, TestStage[]]> {
  // prettier-ignore
  const mesh = new TestMesh();
  t.after(() => mesh.close());
  const stages = Array.from(letters).map((letter, i) => mesh.add(`back.0.${i}.0`, letter));
  await Promise.all(stages.map((stage) => mesh.openLast(stage, { mode, accumulate: 1 })));
  return [mesh, stages];
}

const reduce = (mesh: TestMesh, stage: TestStage, holders: [TestStage, number[]][], attempt = 0): Promise<unknown> =>
  mesh.ask(
    stage.replica,
    'stage.reduce',
    {
      ...at,
      attempt,
      uid: stage.uid,
      members: holders.map(([{ replica }, microbatches]) => ({ replica, microbatches })),
    },
    options,
  );
const apply = (mesh: TestMesh, { uid, replica }: TestStage, step = 0): Promise<{ body: { step: number } }> =>
  mesh.ask(replica, 'stage.apply', { ...at, step, uid }, options);
const adopt = (mesh: TestMesh, { uid, replica }: TestStage, from: TestStage, mode: 'sync' | 'async' = 'sync') =>
  mesh.ask(replica, 'stage.adopt', { uid, run: RUN, spec: lastSpec, mode, accumulate: 1, from: from.replica }, options);

test('a reduction gives every replica the same sum, added in the same order', async (t) => {
  const [mesh, [a, b, c]] = await replicas(t, 'abd');
  assert.ok(a && b && c);
  await mesh.forward(a, 3);
  await mesh.forward(b, 4, { key: microbatch(1) });
  await mesh.forward(b, 1, { key: microbatch(2) });
  const holders: [TestStage, number[]][] = [[b, [1, 2]], [c, []], [a, [0]]]; // prettier-ignore
  await Promise.all([a, b, c].map((stage) => reduce(mesh, stage, holders)));
  for (const { gpu } of [a, b, c]) {
    assert.deepEqual(gpu.calls.filter((call) => call.startsWith('set')), ['set gradients 5 3']); // prettier-ignore
    assert.equal(gpu.gradient, 8);
  }
  await reduce(mesh, a, holders);
  assert.equal(a.gpu.gradient, 8, 'asked again, the same');
  await Promise.all([a, b, c].map((stage) => apply(mesh, stage)));
  assert.deepEqual([a, b, c].map(({ gpu }) => gpu.weight), [-7, -7, -7]); // prettier-ignore
  assert.deepEqual(mesh.all('stage.stepped').map(({ contributions }) => contributions).sort(), [0, 1, 2]); // prettier-ignore
});

test('replicas that live in one peer reduce as well', async (t) => {
  const mesh = new TestMesh();
  t.after(() => mesh.close());
  const [a, b] = [mesh.add('back.0.0.0', 'a'), mesh.add('back.0.1.0', 'a')];
  await Promise.all([a, b].map((stage) => mesh.openLast(stage)));
  await mesh.forward(a, 3);
  await mesh.forward(b, 4, { key: microbatch(1) });
  const holders: [TestStage, number[]][] = [[a, [0]], [b, [1]]]; // prettier-ignore
  for (const stage of [a, b, a]) await reduce(mesh, stage, holders);
  await Promise.all([a, b].map((stage) => apply(mesh, stage)));
});

test('a reduction is refused where the plan and the gradient differ, and takes no more microbatches', async (t) => {
  const [mesh, [a, b]] = await replicas(t, 'ab');
  assert.ok(a && b);
  await mesh.forward(a, 3);
  await assert.rejects(reduce(mesh, a, [[a, [0, 1]]]), withCode('conflict')); // prettier-ignore
  await assert.rejects(reduce(mesh, a, [[b, [0]]]), withCode('malformed')); // prettier-ignore
  await assert.rejects(reduce(mesh, a, [[a, [0]], [b, [1]]]), withCode('conflict')); // prettier-ignore
  await assert.rejects(mesh.forward(a, 1, { key: microbatch(1) }), withCode('stale'), 'it is frozen');
  await assert.rejects(apply(mesh, a), withCode('stale'), 'nothing was reduced');
  await mesh.forward(a, 3, { attempt: 1 });
  assert.equal(a.gpu.gradient, 3);
});

test('a reduction that a newer attempt overtakes does not touch its gradient', async (t) => {
  const [mesh, [a, b]] = await replicas(t, 'ab');
  assert.ok(a && b);
  await mesh.forward(a, 3);
  await mesh.forward(b, 4, { key: microbatch(1) });
  const gate = Promise.withResolvers<void>();
  mesh.onMessage = (kind) => (kind === 'stage.gradients' ? gate.promise : Promise.resolve());
  const old = reduce(mesh, a, [[a, [0]], [b, [1]]]); // prettier-ignore
  await mesh.forward(a, 2, { attempt: 1 });
  gate.resolve();
  await assert.rejects(old, withCode('stale'));
  assert.equal(a.gpu.gradient, 2);
  assert.ok(!a.gpu.calls.some((call) => call.startsWith('set')));
  await reduce(mesh, a, [[a, [0]]], 1); // prettier-ignore
});

test('a step is taken once, however often and however soon it is asked for again', async (t) => {
  const [mesh, [a]] = await replicas(t, 'a');
  assert.ok(a);
  await mesh.forward(a, 3);
  await reduce(mesh, a, [[a, [0]]]); // prettier-ignore
  const answers = await Promise.all([apply(mesh, a), apply(mesh, a)]);
  answers.push(await apply(mesh, a));
  assert.deepEqual(answers.map(({ body }) => body.step), [1, 1, 1]); // prettier-ignore
  assert.equal(a.gpu.steps, 1);
  assert.equal(mesh.all('stage.stepped').length, 1);
  await assert.rejects(apply(mesh, a, 1), withCode('stale'), 'the next one has not been reduced');
  await mesh.forward(a, 1, { step: 1 });
  assert.equal(a.gpu.gradient, 1, 'the next step begins with nothing');
});

test('while a step is being taken nothing else touches its gradient; one that fails may be asked for again', async (t) => {
  const [mesh, [a]] = await replicas(t, 'a');
  assert.ok(a);
  await mesh.forward(a, 3);
  await reduce(mesh, a, [[a, [0]]]); // prettier-ignore
  const gate = Promise.withResolvers<void>();
  a.gpu.before = (call) => (call === 'step' ? gate.promise : Promise.resolve());
  const applied = apply(mesh, a);
  await assert.rejects(mesh.forward(a, 5, { attempt: 1 }), withCode('stale'));
  await assert.rejects(reduce(mesh, a, [[a, [0]]]), withCode('stale')); // prettier-ignore
  gate.reject(new MeshError('gpu-lost', 'Gone.', 'Wait.'));
  await assert.rejects(applied, withCode('gpu-lost'));
  a.gpu.before = () => Promise.resolve();
  assert.equal((await apply(mesh, a)).body.step, 1);
  assert.equal(a.gpu.weight, -2);
});

test('a newcomer adopts weights, optimizer and step, and loses what it had gathered', async (t) => {
  const [mesh, [a, b]] = await replicas(t, 'ab');
  assert.ok(a && b);
  await mesh.forward(a, 3);
  await reduce(mesh, a, [[a, [0]]]); // prettier-ignore
  await apply(mesh, a);
  await mesh.forward(b, 9);
  assert.equal((await adopt(mesh, b, a)).body.step, 1);
  assert.deepEqual([b.gpu.weight, b.gpu.gradient], [-2, 0]);
  assert.deepEqual(mesh.all('stage.adopted').map(({ uid, step, from }) => [uid, step, from]), [[b.uid, 1, a.uid]]); // prettier-ignore
  await mesh.forward(b, 1, { step: 1 });
});

test('what is pulled while a step is being taken belongs to the step that is told', async (t) => {
  const [mesh, [a]] = await replicas(t, 'a');
  assert.ok(a);
  await mesh.forward(a, 3);
  await reduce(mesh, a, [[a, [0]]]); // prettier-ignore
  const gate = Promise.withResolvers<void>();
  a.gpu.before = (call) => (call === 'step' ? gate.promise : Promise.resolve());
  const applied = apply(mesh, a);
  const pulled = mesh.ask(a.replica, 'stage.pull', { uid: a.uid, run: RUN, state: 'weights' }, options);
  gate.resolve();
  await applied;
  assert.equal((await pulled).body.step, 1);
});

test('what is adopted is of one moment, though the other one goes on stepping; meanwhile the newcomer takes no work', async (t) => {
  const [mesh, [a, b]] = await replicas(t, 'ab', 'async');
  assert.ok(a && b);
  const turn = (m: number): Promise<unknown> => mesh.forward(a, 1, { key: microbatch(m) });
  await turn(0);
  const reading = Promise.withResolvers<void>();
  const gate = Promise.withResolvers<void>();
  a.gpu.before = async (call) => {
    if (call !== 'read weights') return;
    reading.resolve();
    await gate.promise;
  };
  const adopted = adopt(mesh, b, a, 'async');
  await reading.promise;
  const stepping = turn(1);
  await assert.rejects(mesh.forward(b, 1), withCode('no-stage'));
  gate.resolve();
  assert.equal((await adopted).body.step, 1);
  await stepping;
  assert.deepEqual([b.gpu.weight, b.gpu.optimizerStep, a.gpu.weight, a.gpu.steps], [0, 1, -1, 2]);
  assert.equal(b.gpu.gradient, 0);
  await mesh.forward(b, 1, { key: microbatch(2) });
});

test('a copy that fails leaves the newcomer as it was', async (t) => {
  const [mesh, [a, b]] = await replicas(t, 'ab');
  assert.ok(a && b);
  mesh.onMessage = (kind) =>
    kind === 'stage.pull' ? Promise.reject(new MeshError('link-lost', 'Gone.', 'Wait.')) : Promise.resolve();
  await assert.rejects(adopt(mesh, b, a), withCode('link-lost'));
  assert.ok(!b.gpu.calls.some((call) => call.startsWith('write')));
  await mesh.forward(b, 2);
  assert.equal(b.gpu.gradient, 2);
});

test('averaging keeps the steps taken meanwhile, and leaves out who does not answer', async (t) => {
  const [mesh, [a, b, c]] = await replicas(t, 'abd', 'async');
  assert.ok(a && b && c);
  b.gpu.weight = 5;
  let isFirst = true;
  mesh.onMessage = async (kind, to) => {
    if (kind !== 'layers.pull' && kind !== 'layers.offer') return;
    if (to.uid === c.uid) throw new MeshError('unreachable', 'Gone.', 'Wait.');
    if (isFirst && kind === 'layers.pull') {
      isFirst = false;
      await mesh.forward(a, 10);
    }
  };
  const members = [a, b, c].map(({ replica }) => replica);
  const { body } = await mesh.ask(a.replica, 'stage.average', { uid: a.uid, run: RUN, replicas: members }, options);
  assert.equal(body.merged, 1);
  assert.equal(a.gpu.weight, 1 - 10 + ((1 + 5) / 2 - 1));
});
