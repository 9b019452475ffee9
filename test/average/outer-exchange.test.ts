// Low-communication training of replicas on the real device: what its exchanges make of the weights, also where peers lie and links go.
import assert from 'node:assert/strict';
import test from 'node:test';
import { MeshError } from '../../runtime/errors.ts';
import { testCompute } from '../model/harness.ts';
import { assertSameSlow, finish, indices, openOuter, outerOf, slows, steps, worst } from './outer.ts';
import { Replicas, signal } from './replicas.ts';

const compute = testCompute();

test('DiLoCo: after an exchange all have the same slow weights, by its formula, and train on from them', async (t) => {
  const replicas = await openOuter(t, compute, 3, { kind: 'diloco', steps: 2, rate: 0.5, momentum: 0.8 });
  const start = (await replicas.units(0)).flat();
  const used = await replicas.usedBytes();
  const trained: number[][] = [];
  await steps(replicas, 1);
  await Promise.all(indices(replicas).map((index) => replicas.train(index)));
  for (const units of await replicas.everyUnits()) trained.push(units.flat());
  await Promise.all(indices(replicas).map((index) => outerOf(replicas, index).stepped(2, () => replicas.replicas, signal))); // prettier-ignore
  await assertSameSlow(replicas);
  // g = mean of φ - θ, m = g, φ' = φ - rate · (g + momentum · m)
  const wanted = start.map((phi, i) => {
    const g = trained.reduce((sum, theta) => sum + (phi - (theta[i] ?? NaN)) / 3, 0);
    return phi - 0.5 * (1 + 0.8) * g;
  });
  for (const units of await replicas.everyUnits()) assert.ok(worst(units.flat(), wanted) <= 1e-6);
  await steps(replicas, 5);
  await finish(replicas);
  const slow = await assertSameSlow(replicas);
  assert.ok(slow.every(Number.isFinite));
  assert.deepEqual(replicas.events(0, 'layers.merged').map(({ round, peers }) => [round, peers.length]), [[0, 2], [1, 2], [2, 2], [3, 2]]); // prettier-ignore
  assert.equal(await replicas.usedBytes(), used);
  assert.deepEqual(indices(replicas).flatMap((index) => replicas.events(index, 'worker.adopted')), []); // prettier-ignore
});

test('Streaming DiLoCo: fragments are exchanged beside training, in every format, and no step is lost', async (t) => {
  for (const format of ['f32', 'int8', 'int4'] as const) {
    const replicas = await openOuter(t, compute, 2, { kind: 'streaming-diloco', steps: 4, fragments: 3 }, { format });
    await steps(replicas, 11);
    await finish(replicas);
    await assertSameSlow(replicas);
    const [a, b] = await replicas.everyUnits();
    assert.ok(worst(a?.flat() ?? [], b?.flat() ?? [NaN]) <= 1e-6, 'nothing was trained since');
    assert.deepEqual(replicas.events(1, 'log'), []);
  }
  // Slowed down, an exchange ends steps after it began: what was trained meanwhile is still there.
  const replicas = await openOuter(t, compute, 2, {
    kind: 'streaming-diloco',
    steps: 3,
    fragments: 1,
    rate: 1,
    momentum: 0,
  });
  const gate = Promise.withResolvers<void>();
  replicas.before = () => gate.promise;
  await steps(replicas, 5);
  const trained = await replicas.everyUnits();
  gate.resolve();
  await Promise.all(indices(replicas).map((index) => outerOf(replicas, index).settle()));
  const slow = (await assertSameSlow(replicas)).filter((value) => value !== 0);
  const alone = await Replicas.open(compute, 2, { planner: 'none' });
  for (let i = 0; i < 3; i += 1) await Promise.all([alone.train(0), alone.train(1)]);
  const shown = await alone.everyUnits();
  const after = await replicas.everyUnits();
  await alone.close();
  const mean = (shown[0]?.flat() ?? []).map((value, i) => (value + (shown[1]?.flat()[i] ?? NaN)) / 2);
  assert.ok(slow.length > 0 && mean.length > 0);
  for (const index of [0, 1]) {
    const [live, at, now] = [trained[index]?.flat() ?? [], shown[index]?.flat() ?? [], after[index]?.flat() ?? []];
    const wanted = mean.map((value, i) => value + (live[i] ?? NaN) - (at[i] ?? NaN));
    assert.ok(worst(now, wanted) <= 1e-5, 'the mean, and two steps on');
  }
});

test('NoLoCo: pairs draw together, whoever is left alone goes on by itself', async (t) => {
  const replicas = await openOuter(t, compute, 3, { kind: 'noloco', steps: 1 });
  const spread = async (): Promise<number> => {
    const all = await slows(replicas);
    return Math.max(...all.flatMap((a) => all.map((b) => worst(a, b))));
  };
  await steps(replicas, 1);
  const asked = replicas.asked.filter(({ kind }) => kind === 'layers.pull');
  assert.equal(new Set(asked.map(({ from, to }) => [from, to].sort().join())).size, 1, 'one pair of three');
  assert.deepEqual(asked.map(({ body }) => 'kind' in body && body.kind).sort(), ['outer', 'outer', 'slow', 'slow']); // prettier-ignore
  await steps(replicas, 5);
  const wide = await spread();
  assert.ok(wide > 0);
  for (let round = 0; round < 30; round += 1)
    await Promise.all(indices(replicas).map((index) => outerOf(replicas, index).exchange(100 + round, replicas.replicas, signal))); // prettier-ignore
  assert.ok((await spread()) < wide / 5, `${await spread()} of ${wide}`);
});

test('an exchange that is aborted changes nothing, and gives back what it was receiving', async (t) => {
  const stop = new AbortController();
  let isArmed = false;
  const receive: typeof compute.receive = (...args) => {
    if (isArmed) stop.abort(new Error('enough'));
    return compute.receive(...args);
  };
  const replicas = await Replicas.open({ ...compute, receive }, 3, { outer: { kind: 'diloco', steps: 1 } });
  t.after(() => replicas.close());
  await steps(replicas, 1);
  const [used, before] = [await replicas.usedBytes(), await replicas.slow(0)];
  let pulls = 0;
  replicas.before = ({ kind, from }) => {
    isArmed ||= kind === 'layers.pull' && from === replicas.at(0).uid;
    return kind === 'layers.pull' && (pulls += 1) === 2 ? new Promise(() => {}) : Promise.resolve();
  };
  await Promise.all([
    outerOf(replicas, 0).exchange(1, replicas.replicas, stop.signal),
    ...[1, 2].map((index) => outerOf(replicas, index).exchange(1, [], signal)),
  ]);
  await new Promise((resolve) => setTimeout(resolve, 50));
  assert.equal(await replicas.usedBytes(), used);
  assert.deepEqual(await replicas.slow(0), before);
  await outerOf(replicas, 0).settle();
});

test('a gradient that does not fit or is not finite is left out, and its sender banned; a sender in trouble is only left out', async (t) => {
  for (const [lie, offence] of [
    ['short', 'malformed'],
    ['NaN', 'not-finite'],
    ['gpu-lost', null],
  ] as const) {
    // prettier-ignore
    const replicas = await openOuter(t, compute, 3, { kind: 'diloco', steps: 1 });
    const liar = replicas.at(2).uid;
    const used = await replicas.usedBytes();
    replicas.change = ({ from, to, kind, body }, answer) => {
      if (to !== liar || from === liar || kind !== 'layers.pull' || !('kind' in body) || body.kind !== 'outer')
        return answer;
      if (lie === 'gpu-lost') throw new MeshError(lie, 'It lost its own.', 'Wait.');
      const data = answer.tensors.get('data');
      assert.ok(data);
      if (lie === 'short') return { ...answer, tensors: new Map() };
      new Float32Array(data.data.buffer)[3] = NaN;
      return answer;
    };
    await steps(replicas, 3);
    const [a, b] = await slows(replicas);
    assert.deepEqual(a, b);
    assert.ok(a?.every(Number.isFinite));
    const struck = replicas.events(0, 'peer.struck').map((event) => event.offence);
    assert.deepEqual(struck, offence === null ? [] : [offence, offence]); // prettier-ignore
    assert.equal(replicas.events(0, 'peer.banned').length, offence === null ? 0 : 1);
    assert.ok(replicas.events(0, 'layers.merged').every(({ peers }) => !peers.includes(liar)));
    assert.equal(await replicas.usedBytes(), used);
  }
});
