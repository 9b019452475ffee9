// What replicas do about peers that lie, on the real device: strikes, bans, clipping, trimming, and that nothing of it is left behind.
import assert from 'node:assert/strict';
import test, { type TestContext } from 'node:test';
import { f32Tensor, type Tensor } from '../../runtime/tensor.ts';
import type { Reply } from '../../runtime/wire/messages.ts';
import { testCompute } from '../model/harness.ts';
import { Replicas, signal, type Passing } from './replicas.ts';

const compute = testCompute();

async function open(t: TestContext, count: number, average: object, trained = 0): Promise<Replicas> {
  const replicas = await Replicas.open(compute, count, average, trained);
  t.after(() => replicas.close());
  return replicas;
}

const round = (replicas: Replicas, index = 0): Promise<unknown> => {
  const { averager } = replicas.at(index).averaging;
  assert.ok(averager);
  return averager.round(replicas.replicas, signal);
};
const isPullOf = (replicas: Replicas, index: number, { kind, to }: Passing): boolean =>
  kind === 'layers.pull' && to === replicas.at(index).uid;
const near = (a: readonly number[], b: readonly number[], what: string, tolerance = 1e-6): void => {
  assert.equal(a.length, b.length, what);
  const worst = Math.max(0, ...a.map((value, i) => Math.abs(value - (b[i] ?? NaN))));
  assert.ok(worst <= tolerance, `${what}: off by ${worst}`);
};

type Data = Map<string, Tensor>;
const changed = (tensors: ReadonlyMap<string, Tensor>, change: (values: Float32Array) => void): Data => {
  const data = tensors.get('data');
  assert.ok(data);
  const values = new Float32Array(data.data.slice().buffer);
  change(values);
  return new Map([['data', f32Tensor(data.shape, values)]]);
};
type Pulled = { body: Reply<'layers.pull'>; tensors: ReadonlyMap<string, Tensor> };
/** What a pull from replica 1 brings instead. */
const lieIn = (replicas: Replicas, lie: (answer: Pulled) => Pulled): void => {
  replicas.change = (passing, answer) =>
    isPullOf(replicas, 1, passing) ? (lie(answer as unknown as Pulled) as unknown as typeof answer) : answer;
};

const LIES: [string, string, (answer: Pulled) => Pulled][] = [
  ['NaN', 'not-finite', ({ body, tensors }) => ({ body, tensors: changed(tensors, (all) => (all[7] = NaN)) })],
  ['huge', 'too-far', ({ body, tensors }) => ({ body, tensors: changed(tensors, (all) => all.forEach((v, i) => (all[i] = v * 1e6))) })], // prettier-ignore
  ['reversed', 'reversed', ({ body, tensors }) => ({ body, tensors: changed(tensors, (all) => all.forEach((v, i) => (all[i] = -v))) })], // prettier-ignore
  ['too few values', 'malformed', ({ body, tensors }) => ({ body, tensors: new Map([['data', f32Tensor([64], new Float32Array(64))], ...[...tensors].slice(1)]) })], // prettier-ignore
  ['too many tensors', 'malformed', ({ body, tensors }) => ({ body, tensors: new Map([...tensors, ['more', f32Tensor([1], new Float32Array(1))]]) })], // prettier-ignore
  ['no tensors', 'malformed', ({ body }) => ({ body, tensors: new Map() })],
  ['too few counters', 'malformed', ({ body, tensors }) => ({ body: { ...body, progress: [] }, tensors })],
  ['counters that went back', 'progress', ({ body, tensors }) => ({ body: { ...body, progress: body.progress.map(() => 0) }, tensors })], // prettier-ignore
];

for (const [name, offence, lie] of LIES)
  test(`${name}: struck, left out of the round, banned, and not asked any more`, async (t) => {
    const replicas = await open(t, 3, { planner: 'appg' }, 3);
    for (const index of [1, 2]) {
      await round(replicas, index); // so that they have moved since their first snapshot
      await replicas.train(index);
      await round(replicas, index);
    }
    const before = await replicas.everyUnits();
    const used = await replicas.usedBytes();
    lieIn(replicas, lie);
    await round(replicas);
    const after = await replicas.units(0);
    for (const [unit, values] of after.entries()) {
      const mean = (before[0]?.[unit] ?? []).map((value, i) => (value + (before[2]?.[unit]?.[i] ?? NaN)) / 2);
      // Its neighbour shows what it merged last, and has trained since.
      near(values, mean, `unit ${unit}`, 0.1);
    }
    assert.deepEqual(replicas.events(0, 'peer.struck').map((event) => [event.peer, event.offence]), [[replicas.at(1).uid, offence]]); // prettier-ignore
    for (let more = 0; more < 2; more += 1) await round(replicas);
    const [ban] = replicas.events(0, 'peer.banned');
    assert.equal(ban?.peer, replicas.at(1).uid);
    replicas.asked.splice(0);
    await round(replicas);
    assert.deepEqual([...new Set(replicas.asked.map(({ to }) => to))], [replicas.at(2).uid]); // prettier-ignore
    assert.equal(await replicas.usedBytes(), used);
  });

test('a ban ends by the clock', async (t) => {
  const replicas = await open(t, 3, { planner: 'appg' }, 1);
  let now = 0;
  replicas.now = () => now;
  lieIn(replicas, ({ body }) => ({ body, tensors: new Map() }));
  for (let i = 0; i < 2; i += 1) await round(replicas);
  assert.equal(replicas.events(0, 'peer.banned').length, 1);
  replicas.change = (_, answer) => answer;
  now += 600_001;
  await round(replicas);
  assert.ok(replicas.events(0, 'layers.merged').at(-1)?.peers.includes(replicas.at(1).uid));
});

test('what is far is drawn in to the radius; without a defence everything counts', async (t) => {
  const distances: number[] = [];
  for (const defence of ['clip', 'none'] as const) {
    const replicas = await open(t, 3, { planner: 'appg', defence }, 1);
    await round(replicas);
    const before = await replicas.units(0);
    lieIn(replicas, ({ body, tensors }) => ({ body, tensors: changed(tensors, (all) => all.forEach((v, i) => (all[i] = v + 3))) })); // prettier-ignore
    await round(replicas);
    const after = await replicas.units(0);
    distances.push(Math.hypot(...after.flat().map((value, i) => value - (before.flat()[i] ?? NaN))));
  }
  const [clipped = NaN, whole = NaN] = distances;
  assert.ok(clipped < whole / 3, `${clipped} and ${whole}`);
  const broken = await open(t, 2, { planner: 'appg', defence: 'none' }, 1);
  lieIn(broken, ({ body, tensors }) => ({ body, tensors: changed(tensors, (all) => (all[0] = NaN)) }));
  await round(broken);
  assert.ok((await broken.units(0)).flat().some(Number.isNaN));
});

test('the median of five ignores two that lie; of seventeen all count, drawn in', async (t) => {
  const five = await open(t, 5, { planner: 'appg', defence: 'median' }, 1);
  const before = await five.everyUnits();
  five.change = (passing, answer) =>
    [1, 2].some((index) => isPullOf(five, index, passing))
      ? { ...answer, tensors: changed(answer.tensors, (all) => all.forEach((value, i) => (all[i] = value + 0.05))) }
      : answer;
  await round(five);
  const after = (await five.units(0)).flat();
  const flat = before.map((units) => units.flat());
  const wanted = after.map((_, i) => {
    const shifted = flat.map((values, peer) => (values[i] ?? NaN) + (peer === 1 || peer === 2 ? 0.05 : 0));
    return shifted.sort((a, b) => a - b)[2] ?? NaN;
  });
  near(after, wanted, 'median');

  const seventeen = await open(t, 17, { planner: 'appg', defence: { kind: 'trimmed', trim: 2 } }, 1);
  const all = (await seventeen.everyUnits()).map((units) => units.flat());
  await round(seventeen);
  assert.deepEqual(seventeen.events(0, 'layers.merged').map(({ peers }) => peers.length), [16]); // prettier-ignore
  near((await seventeen.units(0)).flat(), after.map((_, i) => all.reduce((sum, one) => sum + (one[i] ?? NaN) / 17, 0)), 'mean of seventeen', 1e-5); // prettier-ignore
});

test('layers travel as f16, int8 and int4 too', async (t) => {
  for (const [format, share] of [
    ['f16', 0.6],
    ['int8', 0.35],
    ['int4', 0.2],
  ] as const) {
    // prettier-ignore
    const replicas = await open(t, 3, { planner: 'appg', format }, 2);
    const before = (await replicas.everyUnits()).map((units) => units.flat());
    const used = await replicas.usedBytes();
    await round(replicas);
    const after = (await replicas.units(0)).flat();
    const mean = after.map((_, i) => before.reduce((sum, one) => sum + (one[i] ?? NaN) / 3, 0));
    near(after, mean, format, 0.05);
    const [merged] = replicas.events(0, 'layers.merged');
    const whole = 2 * 4 * replicas.at(0).averaging.shelf.units.reduce((sum, { count }) => sum + Math.ceil(count / 64) * 64, 0); // prettier-ignore
    assert.ok((merged?.bytes ?? NaN) < whole * share, `${merged?.bytes} of ${whole}`);
    // What quantisation lost is kept by the others, once; of parts nothing is.
    const kept = await replicas.usedBytes();
    await round(replicas);
    assert.equal(await replicas.usedBytes(), kept);
    assert.ok(format !== 'f16' || kept === used);
  }
});
