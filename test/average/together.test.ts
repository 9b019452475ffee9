// Rounds in which several replicas depend on each other: exchanges both ways, and rounds that all do in step.
import assert from 'node:assert/strict';
import test, { type TestContext } from 'node:test';
import { MeshError } from '../../runtime/errors.ts';
import { testCompute } from '../model/harness.ts';
import { Replicas, signal } from './replicas.ts';

const compute = testCompute();

async function open(t: TestContext, count: number, average: object, trained = 0): Promise<Replicas> {
  const replicas = await Replicas.open(compute, count, average, trained);
  t.after(() => replicas.close());
  return replicas;
}

const round = (replicas: Replicas, index: number, inStep?: number): Promise<unknown> => {
  const { averager } = replicas.at(index).averaging;
  assert.ok(averager);
  return averager.round(replicas.replicas, signal, inStep);
};
const together = (replicas: Replicas, inStep?: number): Promise<unknown> =>
  Promise.all(replicas.all.map((_, index) => round(replicas, index, inStep)));
const apart = (a: readonly number[][], b: readonly number[][]): number =>
  Math.max(...a.flat().map((value, i) => Math.abs(value - (b.flat()[i] ?? NaN))));
const sum = (all: readonly number[][][]): number[] =>
  (all[0]?.flat() ?? []).map((_, i) => all.reduce((total, units) => total + (units.flat()[i] ?? NaN), 0));
const worst = (a: readonly number[], b: readonly number[]): number =>
  Math.max(...a.map((value, i) => Math.abs(value - (b[i] ?? NaN))));

test('ad-psgd: an exchange changes both sides alike and keeps the sum', async (t) => {
  const replicas = await open(t, 2, { planner: 'ad-psgd' }, 2);
  await round(replicas, 0);
  assert.deepEqual(replicas.events(0, 'layers.merged'), [], 'nobody takes in what a stranger brings');
  replicas.at(1).averaging.averager?.peers.admitted(replicas.replicas);
  const before = await replicas.everyUnits();
  await round(replicas, 0);
  const after = await replicas.everyUnits();
  assert.ok(worst(sum(before), sum(after)) <= 1e-6);
  for (const [i, units] of after.entries()) {
    const half = (before[0]?.flat() ?? []).map((value, k) => (value + (before[1]?.flat()[k] ?? NaN)) / 2);
    assert.ok(worst(units.flat(), half) <= 1e-6, `replica ${i}`);
  }
});

test('ad-psgd: all at once nobody waits for anybody, and the sum nearly stays', async (t) => {
  const replicas = await open(t, 4, { planner: 'ad-psgd', defence: 'finite' }, 1);
  for (const { averaging } of replicas.all) averaging.averager?.peers.admitted(replicas.replicas);
  const before = await replicas.everyUnits();
  const used = await replicas.usedBytes();
  const started = performance.now();
  for (let rounds = 0; rounds < 3; rounds += 1) await together(replicas);
  assert.ok(performance.now() - started < 5_000, 'less than three of the shortest deadlines');
  const after = await replicas.everyUnits();
  assert.equal(replicas.all.flatMap((_, i) => replicas.events(i, 'layers.merged')).length, 12);
  // What is served and what is taken in are two operations, and another exchange may come between.
  assert.ok(
    worst(sum(before), sum(after)) <=
      0.2 *
        worst(
          sum(before),
          sum(before).map(() => 0),
        ),
  );
  assert.ok(apart(after[0] ?? [], after[1] ?? []) < apart(before[0] ?? [], before[1] ?? []));
  assert.equal(await replicas.usedBytes(), used);
});

test('ad-psgd: of one that is banned, and of what is not finite, nothing is taken in; elsewhere nothing at all', async (t) => {
  const replicas = await open(t, 2, { planner: 'ad-psgd' }, 1);
  const [, , used] = [await round(replicas, 0), await round(replicas, 1), await replicas.usedBytes()];
  const { averager, shelf } = replicas.at(1).averaging;
  assert.ok(averager);
  const push = async (value: number): Promise<void> => {
    const { tensors } = await compute.serve(replicas.at(0).handle, { kind: 'weights', units: [0, 1], format: 'f32' });
    const data = tensors.get('data');
    assert.ok(data);
    new Float32Array(data.data.buffer)[0] = value;
    const context = { peer: replicas.at(0).replica.peer, transport: 'local' as const, signal, deadlineMs: 1_000, idle: <T>(work: () => Promise<T>): Promise<T> => work() }; // prettier-ignore
    const body = { uid: replicas.at(1).uid, run: 'run', digest: shelf.digest, kind: 'weights', units: [0, 1], format: 'f32' }; // prettier-ignore
    await shelf.pull(body as never, new Map([['data', data]]), context);
  };
  const before = await replicas.units(1);
  for (let i = 0; i < 2; i += 1) {
    await push(NaN);
    assert.deepEqual(await replicas.units(1), before);
    averager.peers.endRound([]);
  }
  assert.deepEqual(replicas.events(1, 'peer.struck').map(({ offence }) => offence), ['not-finite', 'not-finite']); // prettier-ignore
  assert.equal(replicas.events(1, 'peer.banned').length, 1);
  await push(1);
  assert.deepEqual(await replicas.units(1), before, 'banned');
  assert.equal(await replicas.usedBytes(), used);
  const others = await open(t, 2, { planner: 'appg' }, 1);
  const { shelf: other } = others.at(1).averaging;
  const context = { peer: others.at(0).replica.peer, transport: 'local' as const, signal, deadlineMs: 1_000, idle: <T>(work: () => Promise<T>): Promise<T> => work() }; // prettier-ignore
  const { tensors } = await compute.serve(others.at(0).handle, { kind: 'weights', units: [0], format: 'f32' });
  const body = { uid: others.at(1).uid, run: 'run', digest: other.digest, kind: 'weights', units: [0], format: 'f32' };
  await assert.rejects(other.pull(body as never, tensors, context), { code: 'usage' });
});

test('in step, replicas of a full graph have the same weights after every round', async (t) => {
  for (const planner of ['all-reduce', 'd-psgd'] as const) {
    const replicas = await open(t, 3, { planner });
    for (let step = 0; step < 4; step += 1) {
      await Promise.all(replicas.all.map((_, index) => replicas.train(index)));
      await together(replicas, step);
      const [a, ...others] = await replicas.everyUnits();
      for (const other of others) assert.ok(apart(a ?? [], other) <= 1e-6, `${planner}, step ${step}`);
    }
    const merged = replicas.events(0, 'layers.merged');
    assert.deepEqual(merged.map(({ round: number, peers }) => [number, peers.length]), [[0, 2], [1, 2], [2, 2], [3, 2]]); // prettier-ignore
  }
});

test('in step, whoever is early waits for the others, and nobody shows the next round before all have this one', async (t) => {
  const replicas = await open(t, 3, { planner: 'all-reduce' });
  await together(replicas, 0);
  const early = round(replicas, 0, 1);
  let isDone = false;
  void early.then(() => (isDone = true));
  await new Promise((resolve) => setTimeout(resolve, 150));
  assert.ok(!isDone);
  const middle = round(replicas, 1, 1);
  await new Promise((resolve) => setTimeout(resolve, 50));
  assert.ok(!isDone);
  await Promise.all([early, middle, round(replicas, 2, 1)]);
  // Replica 2 has not fetched round 2 of the first: the first must not write over it.
  await Promise.all([0, 1].map((index) => replicas.train(index)));
  const [a, b] = [round(replicas, 0, 2), round(replicas, 1, 2)];
  await new Promise((resolve) => setTimeout(resolve, 50));
  await replicas.train(2);
  await Promise.all([a, b, round(replicas, 2, 2)]);
  const [x, y, z] = await replicas.everyUnits();
  assert.ok(apart(x ?? [], y ?? []) <= 1e-6 && apart(x ?? [], z ?? []) <= 1e-6);
});

for (const planner of ['all-reduce', 'd-psgd', 'appg'])
  test(`in step, who fetches late is given what the round began with, not what others have merged: ${planner}`, async (t) => {
    const replicas = await open(t, 3, { planner, defence: 'finite' }, 1);
    const before = await replicas.everyUnits();
    replicas.before = ({ kind, from }) =>
      new Promise((resolve) => setTimeout(resolve, kind === 'layers.pull' && from === replicas.at(1).uid ? 200 : 0));
    await together(replicas, 0);
    const mean = sum(before).map((value) => value / 3);
    for (const [i, units] of (await replicas.everyUnits()).entries())
      assert.ok(worst(units.flat(), mean) <= 1e-6, `replica ${i}`);
  });

test('in step, one that comes late in the count is waited for once, not in every round', async (t) => {
  const replicas = await open(t, 2, { planner: 'all-reduce', patienceMs: 3_000 });
  for (let step = 0; step < 3; step += 1) await together(replicas, step);
  await replicas.add();
  const started = performance.now();
  for (let step = 3; step < 6; step += 1) await together(replicas, step);
  assert.ok(performance.now() - started < 2_900, `${performance.now() - started} ms`);
  const [a, , c] = await replicas.everyUnits();
  assert.ok(apart(a ?? [], c ?? []) <= 1e-6);
});

test('in step, one that is dead is waited for no longer than patience lasts', async (t) => {
  const replicas = await open(t, 3, { planner: 'all-reduce', patienceMs: 400 }, 1);
  const dead = replicas.at(2).uid;
  replicas.before = ({ to }) =>
    to === dead ? Promise.reject(new MeshError('link-lost', 'Gone.', 'Wait.')) : Promise.resolve();
  const started = performance.now();
  for (let step = 0; step < 2; step += 1) await Promise.all([0, 1].map((index) => round(replicas, index, step)));
  assert.ok(performance.now() - started < 5_000);
  const [a, b] = await replicas.everyUnits();
  assert.ok(apart(a ?? [], b ?? []) <= 1e-6);
});

test('in step, one that serves and never fetches is waited for once, until it fetches again', async (t) => {
  const replicas = await open(t, 3, { planner: 'all-reduce', patienceMs: 1_000 });
  const deaf = replicas.at(2);
  const serves = (number: number): Promise<unknown> => deaf.averaging.shelf.snapshot(undefined, number);
  const waited: number[] = [];
  for (let step = 0; step < 4; step += 1) {
    const started = performance.now();
    await serves(step);
    await Promise.all([0, 1].map((index) => round(replicas, index, step)));
    waited.push(performance.now() - started);
  }
  assert.ok((waited[0] ?? 0) >= 900 && waited.slice(1).every((ms) => ms < 900), waited.join(' '));
  // It fetches again: the others wait for it as before.
  await together(replicas, 4);
  await together(replicas, 5);
  const [a, b, c] = await replicas.everyUnits();
  assert.ok(apart(a ?? [], b ?? []) <= 1e-6 && apart(a ?? [], c ?? []) <= 1e-6);
});

test('a stage that closes tells whoever waits for its round', async (t) => {
  const replicas = await open(t, 2, { planner: 'all-reduce' });
  const waiting = round(replicas, 0, 0);
  await new Promise((resolve) => setTimeout(resolve, 50));
  replicas.at(1).averaging.close('it was closed');
  const started = performance.now();
  await waiting;
  assert.ok(performance.now() - started < 5_000);
  assert.deepEqual(replicas.events(0, 'layers.merged'), []);
});
