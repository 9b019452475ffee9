// Rounds of averaging on the real device: what they make of the weights, and what stays as it was where peers fail, lie or die.
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

const round = (replicas: Replicas, index: number, stop = signal, inStep?: number): Promise<unknown> => {
  const { averager } = replicas.at(index).averaging;
  assert.ok(averager);
  return averager.round(replicas.replicas, stop, inStep);
};
const near = (a: readonly number[] | undefined, b: readonly number[], what: string, tolerance = 1e-6): void => {
  assert.equal(a?.length, b.length, what);
  const worst = Math.max(0, ...b.map((value, i) => Math.abs(value - (a?.[i] ?? NaN))));
  assert.ok(worst <= tolerance, `${what}: off by ${worst}`);
};
const mean = (...lists: number[][]): number[] =>
  (lists[0] ?? []).map((_, i) => lists.reduce((sum, list) => sum + (list[i] ?? NaN), 0) / lists.length);
const gone = (): MeshError => new MeshError('link-lost', 'The link is gone.', 'Wait.');

test('a round with everyone is Eq. 1: the mean of all', async (t) => {
  const replicas = await open(t, 4, { planner: 'appg' }, 2);
  const before = await replicas.everyUnits();
  await round(replicas, 0);
  const [after] = await replicas.everyUnits();
  for (const unit of after?.keys() ?? [])
    near(after?.[unit], mean(...before.map((units) => units[unit] ?? [])), `unit ${unit}`);
  const [merged] = replicas.events(0, 'layers.merged');
  assert.deepEqual(merged?.peers, replicas.all.slice(1).map(({ uid }) => uid)); // prettier-ignore
  assert.equal(merged.units, replicas.at(0).averaging.shelf.units.length);
  for (const other of [1, 2, 3])
    assert.deepEqual(await replicas.units(other), before[other], 'the others stay as they are');
});

test('the last round takes in everyone, also who has not moved and whom the planner would pass over', async (t) => {
  const replicas = await open(t, 3, { planner: 'mpls', defence: 'finite' }, 2);
  await round(replicas, 0);
  for (let step = 0; step < 6; step += 1) await replicas.train(1); // number 2 has ended
  for (const other of [1, 2]) await replicas.at(other).averaging.shelf.snapshot();
  const before = await replicas.everyUnits();
  await replicas.at(0).averaging.averager?.lastRound(replicas.replicas, signal);
  const after = await replicas.units(0);
  for (const unit of after.keys()) near(after[unit], mean(...before.map((units) => units[unit] ?? [])), `unit ${unit}`);
  assert.equal(new Set(replicas.events(0, 'layers.merged').at(-1)?.peers).size, 2);
});

test('steps taken during a round stay', async (t) => {
  const replicas = await open(t, 2, { planner: 'appg' }, 1);
  const [own, other] = await replicas.everyUnits();
  const alone = await open(t, 1, { planner: 'none' }, 1);
  await alone.train(0);
  const [trained] = await alone.everyUnits();
  let isFirst = true;
  replicas.before = async ({ kind }) => {
    if (kind !== 'layers.pull' || !isFirst) return;
    isFirst = false;
    await replicas.train(0);
  };
  await round(replicas, 0);
  const after = await replicas.units(0);
  for (const [unit, values] of after.entries()) {
    const [w, w2, theirs] = [own?.[unit] ?? [], trained?.[unit] ?? [], other?.[unit] ?? []];
    near(
      values,
      w2.map((value, i) => value + ((theirs[i] ?? NaN) - (w[i] ?? NaN)) / 2),
      `unit ${unit}`,
    );
  }
});

test('a round that is aborted in the middle merges nothing, and gives everything back', async (t) => {
  const replicas = await open(t, 3, { planner: 'appg' }, 1);
  await round(replicas, 0);
  const [before, used] = [await replicas.units(0), await replicas.usedBytes()];
  for (const pullsBefore of [0, 1]) {
    const stop = new AbortController();
    let pulls = 0;
    replicas.change = (passing, answer) => {
      if (passing.kind === 'layers.pull' && (pulls += 1) > pullsBefore) stop.abort(new Error('enough'));
      return answer;
    };
    await assert.rejects(round(replicas, 0, stop.signal));
    await compute.discard(replicas.at(0).handle, { keys: [] });
    assert.deepEqual(await replicas.units(0), before);
    assert.equal(await replicas.usedBytes(), used, `after ${pullsBefore} pulls`);
  }
});

test('what is being received when a round is aborted is given back too', async (t) => {
  const stop = new AbortController();
  const receive: typeof compute.receive = (...args) => {
    stop.abort(new Error('enough'));
    return compute.receive(...args);
  };
  const replicas = await Replicas.open({ ...compute, receive }, 3, { planner: 'appg' }, 1);
  t.after(() => replicas.close());
  const used = await replicas.usedBytes();
  let pulls = 0;
  replicas.before = ({ kind }) =>
    kind === 'layers.pull' && (pulls += 1) === 2 ? new Promise(() => {}) : Promise.resolve();
  await assert.rejects(round(replicas, 0, stop.signal), /enough/);
  await compute.discard(replicas.at(0).handle, { keys: [] });
  await new Promise((resolve) => setTimeout(resolve, 50));
  assert.equal(await replicas.usedBytes(), used);
});

/** Which of the peers a unit is the mean of, the own weights among them; fails where it is nothing of the kind, as half a unit would be. */
function mergedOf(after: number[] | undefined, before: number[][][], unit: number, own = 0): number[] {
  const others = before.map((_, i) => i).filter((i) => i !== own);
  for (let mask = 0; mask < 2 ** others.length; mask += 1) {
    const from = others.filter((_, bit) => (mask & (1 << bit)) !== 0);
    const wanted = mean(...[own, ...from].map((i) => before[i]?.[unit] ?? []));
    if (wanted.every((value, i) => Math.abs(value - (after?.[i] ?? NaN)) <= 1e-6)) return from;
  }
  assert.fail(`unit ${unit} is half merged`);
}

test('a peer that dies in the middle of its pull leaves every unit wholly old or wholly merged', async (t) => {
  for (const planner of ['appg', 'mpls', { name: 'epidemic', peers: 2 }, 'divshare'] as const) {
    const replicas = await open(t, 4, { planner }, 2);
    const before = await replicas.everyUnits();
    const used = await replicas.usedBytes();
    const dead = replicas.at(2);
    // Its answer is on its way when the link goes.
    replicas.change = (passing, answer) => {
      if (passing.kind === 'layers.pull' && passing.to === dead.uid) throw gone();
      return answer;
    };
    await round(replicas, 0);
    const after = await replicas.units(0);
    let merged = 0;
    for (const unit of after.keys()) {
      const from = mergedOf(after[unit], before, unit);
      assert.ok(!from.includes(2), 'nothing is of the dead one');
      merged += from.length;
    }
    assert.ok(merged > 0, 'the others count');
    assert.ok(replicas.events(0, 'layers.merged').every(({ peers }) => !peers.includes(dead.uid)));
    assert.deepEqual(replicas.events(0, 'peer.struck'), [], 'to die is no offence');
    assert.equal(await replicas.usedBytes(), used);
  }
});

test('what a peer fails to bring its spares bring', async (t) => {
  const replicas = await open(t, 4, { planner: 'mpls-random' }, 1);
  const before = await replicas.everyUnits();
  const dead = replicas.at(1).uid;
  replicas.before = ({ kind, to }) =>
    kind === 'layers.pull' && to === dead ? Promise.reject(gone()) : Promise.resolve();
  await round(replicas, 0);
  const asked = replicas.asked.filter(({ kind }) => kind === 'layers.pull');
  assert.ok(
    asked.some(({ to }) => to === dead),
    'this seed asks the dead one for something',
  );
  const after = await replicas.units(0);
  for (const unit of after.keys()) assert.equal(mergedOf(after[unit], before, unit).length, 1, `unit ${unit}`);
});

test('a peer that never answers costs a round no more than its deadline', async (t) => {
  const replicas = await open(t, 3, { planner: 'appg', patienceMs: 300 }, 1);
  replicas.before = ({ kind, to }) => (kind === 'layers.pull' && to === replicas.at(1).uid ? new Promise(() => {}) : Promise.resolve()); // prettier-ignore
  const started = performance.now();
  await round(replicas, 0);
  assert.ok(performance.now() - started < 8_000);
  assert.deepEqual(replicas.events(0, 'layers.merged').map(({ peers }) => peers), [[replicas.at(2).uid]]); // prettier-ignore
});

test('what ails a peer ends its own pull, not this worker', async (t) => {
  for (const code of ['gpu-lost', 'not-finite', 'out-of-memory', 'internal'] as const) {
    const replicas = await open(t, 3, { planner: 'appg' }, 1);
    const ill = replicas.at(1).uid;
    replicas.before = ({ kind, to }) =>
      kind === 'layers.pull' && to === ill
        ? Promise.reject(new MeshError(code, 'It has its own troubles.', 'Wait.'))
        : Promise.resolve();
    const stop = new AbortController();
    const { averager } = replicas.at(0).averaging;
    assert.ok(averager);
    let rests = 0;
    await averager.run(
      () => replicas.replicas,
      stop.signal,
      () => {
        if ((rests += 1) === 2) stop.abort();
        return Promise.resolve();
      },
    );
    assert.deepEqual(replicas.events(0, 'layers.merged').map(({ peers }) => peers), [[replicas.at(2).uid], [replicas.at(2).uid]]); // prettier-ignore
  }
});

test('without neighbours, or with none that answers, a round leaves everything as it is', async (t) => {
  const replicas = await open(t, 2, { planner: 'mpls' }, 1);
  const before = await replicas.units(0);
  const { averager } = replicas.at(0).averaging;
  assert.deepEqual(await averager?.round([replicas.at(0).replica], signal).then(({ peers }) => peers), []);
  replicas.before = () => Promise.reject(gone());
  await round(replicas, 0);
  assert.deepEqual(await replicas.units(0), before);
});

test('rounds beside training keep to their share of the machine; one that was held up does not make the next wait', async (t) => {
  let clock = 0;
  const costs = [30, 10, 10, 60_000, 10, 10];
  const left = [...costs];
  const merge: typeof compute.merge = async (...args) => {
    const merged = await compute.merge(...args);
    clock += left.shift() ?? 0;
    return merged;
  };
  const replicas = await Replicas.open({ ...compute, merge }, 2, { planner: 'appg', intervalMs: 10, share: 0.1 }, 1);
  t.after(() => replicas.close());
  replicas.now = () => clock;
  const stop = new AbortController();
  const rests: number[] = [];
  await replicas.at(0).averaging.averager?.run(
    () => replicas.replicas,
    stop.signal,
    (ms) => {
      rests.push(Math.round(ms));
      clock += ms;
      if (left.length === 0) stop.abort();
      return Promise.resolve();
    },
  );
  assert.deepEqual(rests, [0, 90, 90, 0, 140, 130]);
});
