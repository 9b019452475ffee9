// How a sync step ends: what both ends of the model share gets the same bits at both, the norm counts it once, the step is paced.
import assert from 'node:assert/strict';
import test, { type TestContext } from 'node:test';
import { MeshError } from '../../runtime/errors.ts';
import { i32Tensor, type Tensors } from '../../runtime/tensor.ts';
import { firstSpec, lastSpec, microbatch, RUN, scalar, TestMesh, withCode, type TestStage } from './stages.ts';

const options = { deadlineMs: 1_000 };
const at = { run: RUN, step: 0, attempt: 0 };
type Ends = { mesh: TestMesh; fronts: TestStage[]; backs: TestStage[] };

/** Two replicas of either end of a model that shares `w`; the fronts' gradients are 3 and 4, the backs' 5 and 6, reduced if asked for. */
async function ends(t: TestContext, isReduced = true): Promise<Ends> {
  const mesh = new TestMesh();
  t.after(() => mesh.close());
  const make = (names: string[], letters: string): TestStage[] =>
    names.map((name, i) => mesh.add(name, letters[i] ?? ''));
  const fronts = make(['front.0.0.0', 'front.0.1.0'], 'ab');
  const backs = make(['back.0.0.0', 'back.0.1.0'], 'de');
  for (const { gpu } of [...fronts, ...backs]) gpu.isTied = true;
  await Promise.all([
    ...fronts.map((stage) => mesh.open(stage, { spec: firstSpec })),
    ...backs.map((stage) => mesh.open(stage, { spec: lastSpec })),
  ]);
  for (const [i, stage] of fronts.entries()) stage.gpu.gradient = 3 + i;
  for (const [i, stage] of backs.entries()) {
    await mesh.forward(stage, 5 + i, { key: microbatch(i) });
  }
  if (isReduced) for (const members of [fronts, backs]) await reduce(mesh, members);
  return { mesh, fronts, backs };
}

/** The fronts hold what the test put there: no microbatch came through them, so nothing is pulled. */
async function reduce(mesh: TestMesh, members: TestStage[]): Promise<void> {
  const isBack = members[0]?.uid.startsWith('back') ?? false;
  const holders = members.map(({ replica }, i) => ({ replica, microbatches: isBack ? [i] : [] }));
  for (const stage of members)
    await mesh.ask(stage.replica, 'stage.reduce', { ...at, uid: stage.uid, members: holders }, options);
  if (!isBack) for (const { gpu } of members) gpu.gradient = 7;
}

const tie = (mesh: TestMesh, { uid, replica }: TestStage, others: TestStage[]): Promise<unknown> =>
  mesh.ask(replica, 'stage.tie', { ...at, uid, others: others.map((other) => other.replica) }, options);
const apply = (mesh: TestMesh, { uid, replica }: TestStage, more: object = {}) =>
  mesh.ask(replica, 'stage.apply', { ...at, uid, ...more }, options);
const norm = async (mesh: TestMesh, { uid, replica }: TestStage): Promise<number | null> =>
  (await mesh.ask(replica, 'stage.norm', { ...at, uid }, options)).body.squaredNorm;

test('both ends hold first plus last, added in that order, however often it is asked for', async (t) => {
  const { mesh, fronts, backs } = await ends(t);
  const all = [...fronts.map((one) => [one, backs] as const), ...backs.map((one) => [one, fronts] as const)];
  await Promise.all([...all, ...all].map(([one, others]) => tie(mesh, one, others)));
  for (const { gpu } of [...fronts, ...backs]) {
    assert.equal(gpu.gradient, 18);
    assert.ok(gpu.calls.filter((call) => call.startsWith('set')).slice(-2).every((call) => call === 'set gradients 7 11')); // prettier-ignore
  }
  await Promise.all([...fronts, ...backs].map((one) => apply(mesh, one, { lr: 0.5, gradientScale: 0.1 })));
  for (const { gpu } of [...fronts, ...backs]) assert.ok(Math.abs(gpu.weight - (1 - 0.5 * 0.1 * 18)) < 1e-12);
});

test('the norm counts what is shared at the first stage only', async (t) => {
  const { mesh, fronts, backs } = await ends(t);
  const [front, back] = [fronts[0], backs[0]];
  assert.ok(front && back);
  await assert.rejects(norm(mesh, front), withCode('stale'), 'not before both ends are added');
  await tie(mesh, front, backs);
  await tie(mesh, back, fronts);
  assert.deepEqual([await norm(mesh, front), await norm(mesh, back)], [18 * 18, 0]);
  front.gpu.gradient = Infinity;
  assert.equal(await norm(mesh, front), null);
});

test('the other end is asked replica by replica; when none answers the gradient stays as it was', async (t) => {
  const { mesh, fronts, backs } = await ends(t);
  const [front] = fronts;
  assert.ok(front);
  mesh.onMessage = (kind, to) =>
    kind === 'stage.tied' && to.uid === backs[0]?.uid
      ? Promise.reject(new MeshError('link-lost', 'Gone.', 'Wait.'))
      : Promise.resolve();
  await tie(mesh, front, backs);
  assert.equal(front.gpu.gradient, 18);
  const [, other] = fronts;
  assert.ok(other);
  mesh.onMessage = (kind) =>
    kind === 'stage.tied' ? Promise.reject(new MeshError('link-lost', 'Gone.', 'Wait.')) : Promise.resolve();
  await assert.rejects(tie(mesh, other, backs), withCode('link-lost'));
  assert.equal(other.gpu.gradient, 7);
  await assert.rejects(apply(mesh, other), withCode('stale'), 'half a gradient is not applied');
});

test('nothing is added before the replicas of a stage are, and nothing of an attempt that is over', async (t) => {
  const { mesh, fronts, backs } = await ends(t, false);
  const [front] = fronts;
  assert.ok(front);
  await assert.rejects(tie(mesh, front, backs), withCode('stale'));
  await reduce(mesh, fronts);
  await assert.rejects(tie(mesh, front, backs), withCode('stale'), 'the other end is not reduced');
  await reduce(mesh, backs);
  const gate = Promise.withResolvers<void>();
  mesh.onMessage = (kind) => (kind === 'stage.tied' ? gate.promise : Promise.resolve());
  const old = tie(mesh, front, backs);
  const members = [{ replica: front.replica, microbatches: [] }];
  await mesh.ask(front.replica, 'stage.reduce', { ...at, attempt: 1, uid: front.uid, members }, options);
  gate.resolve();
  await assert.rejects(old, withCode('stale'));
  assert.equal(front.gpu.gradient, 0, 'of the newer attempt, which has gathered nothing');
});

test('a stage that shares nothing refuses, and needs nothing of the kind', async (t) => {
  const mesh = new TestMesh();
  t.after(() => mesh.close());
  const stage = mesh.add('back.0.0.0', 'a');
  await mesh.openLast(stage);
  await mesh.forward(stage, 3);
  const members = [{ replica: stage.replica, microbatches: [0] }];
  await mesh.ask(stage.replica, 'stage.reduce', { ...at, uid: stage.uid, members }, options);
  await assert.rejects(tie(mesh, stage, [stage]), withCode('malformed'));
  assert.equal(await norm(mesh, stage), 9);
  await apply(mesh, stage, { gradientScale: 0.5 });
  assert.equal(stage.gpu.weight, 1 - 1.5);
});

test('a stage opened with a checkpoint is at its step; what comes when it is there already changes nothing', async (t) => {
  const mesh = new TestMesh();
  t.after(() => mesh.close());
  const stage = mesh.add('back.0.0.0', 'a');
  const body = { uid: stage.uid, run: RUN, spec: lastSpec, mode: 'sync' as const, accumulate: 1, start: 200 };
  const open = (weight: number) =>
    mesh.ask(stage.replica, 'stage.open', body, { ...options, tensors: stateOf(weight) });
  assert.equal((await open(5)).body.step, 200);
  assert.deepEqual([stage.gpu.weight, stage.gpu.optimizerStep], [5, 77]);
  const again = await open(9);
  assert.deepEqual([again.body.step, again.body.isNew, stage.gpu.weight], [200, false, 5]);
  await mesh.forward(stage, 1, { step: 200 });
});

test('a checkpoint that does not fit leaves no stage behind', async (t) => {
  const mesh = new TestMesh();
  t.after(() => mesh.close());
  const stage = mesh.add('back.0.0.0', 'a');
  stage.gpu.before = (call) =>
    call === 'write optimizer' ? Promise.reject(new MeshError('malformed', 'No.', 'Mend it.')) : Promise.resolve();
  const body = { uid: stage.uid, run: RUN, spec: lastSpec, mode: 'sync' as const, accumulate: 1, start: 2 };
  await assert.rejects(
    mesh.ask(stage.replica, 'stage.open', body, { ...options, tensors: stateOf(5) }),
    withCode('malformed'),
  );
  await assert.rejects(mesh.forward(stage, 1, { step: 2 }), withCode('no-stage'));
});

const stateOf = (weight: number): Tensors =>
  new Map([
    ['weights/w', scalar(weight)],
    ['optimizer/step', i32Tensor([1], Int32Array.of(77))],
  ]);
