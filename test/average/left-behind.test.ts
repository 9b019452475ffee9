// Low-communication training, left behind: who missed exchanges, slept through them or comes late ends with the slow weights of the others.
import assert from 'node:assert/strict';
import test from 'node:test';
import { catchUp } from '../../runtime/federated/catch-up.ts';
import type { StageRun } from '../../runtime/server/stage-run.ts';
import { testCompute } from '../model/harness.ts';
import { randomOf } from './inputs.ts';
import { assertSameSlow, finish, gone, indices, openOuter, outerOf, slows, step, steps } from './outer.ts';
import { RUN, signal, type Replicas } from './replicas.ts';

const compute = testCompute();

test('who misses an exchange takes over what the others made of it', async (t) => {
  for (const kind of ['diloco', 'streaming-diloco']) {
    const replicas = await openOuter(t, compute, 3, { kind, steps: 2 });
    const sleeper = replicas.at(2).uid;
    const settle = (): Promise<unknown> =>
      Promise.all(indices(replicas).map((index) => outerOf(replicas, index).settle()));
    await steps(replicas, 2);
    await settle();
    replicas.before = ({ from, to }) => (from === sleeper || to === sleeper ? Promise.reject(gone()) : Promise.resolve()); // prettier-ignore
    await steps(replicas, 2);
    await settle();
    const [a, b, c] = await slows(replicas);
    assert.deepEqual(a, b);
    assert.notDeepEqual(a, c, 'it went on by itself');
    replicas.before = () => Promise.resolve();
    await steps(replicas, 4);
    await settle();
    await finish(replicas);
    await assertSameSlow(replicas);
    const adopted = replicas.events(2, 'worker.adopted');
    assert.ok(adopted.length > 0 && adopted.every(({ from }) => from !== sleeper));
    assert.deepEqual([0, 1].flatMap((index) => replicas.events(index, 'worker.adopted')), []); // prettier-ignore
  }
});

test('where the one to take over from dies meanwhile, the next is asked, or all of them in the next exchange', async (t) => {
  const replicas = await openOuter(t, compute, 3, { kind: 'diloco', steps: 1 });
  const sleeper = replicas.at(2).uid;
  await steps(replicas, 1);
  replicas.before = ({ from, to }) => (from === sleeper || to === sleeper ? Promise.reject(gone()) : Promise.resolve());
  await steps(replicas, 1);
  let refused = 0;
  replicas.before = ({ from, body }) => {
    if (from !== sleeper || !('kind' in body) || body.kind !== 'momentum') return Promise.resolve();
    return (refused += 1) <= 2 ? Promise.reject(gone()) : Promise.resolve();
  };
  await steps(replicas, 1);
  assert.equal(refused, 2, 'both were asked');
  assert.deepEqual(replicas.events(2, 'worker.adopted'), []);
  assert.equal(replicas.events(2, 'log').filter(({ message }) => message.includes('is behind')).length, 2);
  await steps(replicas, 2);
  await assertSameSlow(replicas);
  assert.equal(replicas.events(2, 'worker.adopted').length, 1);
});

test('who slept so long that nobody has its exchanges any more takes over too', async (t) => {
  const replicas = await openOuter(t, compute, 3, { kind: 'diloco', steps: 1 });
  await steps(replicas, 1);
  const asleep = replicas.at(2);
  const pair = replicas.replicas.slice(0, 2);
  for (let round = 1; round < 70; round += 1)
    await Promise.all([0, 1].map((index) => outerOf(replicas, index).exchange(round, pair, signal)));
  await step(replicas, 2);
  const [a, , c] = await slows(replicas);
  assert.deepEqual(c, a);
  assert.equal(replicas.events(2, 'worker.adopted').length, 1);
  assert.equal(asleep.averaging.shelf.lastExchange(0), 69);
  await step(replicas, 2);
  assert.deepEqual(await replicas.slow(2), a, 'what it took over is not exchanged once more');
});

/** A replica that comes when the others have trained, as a worker does it. Resolves with the steps that it goes on from. */
async function join(replicas: Replicas): Promise<number> {
  const late = await replicas.add();
  let at = 0;
  const run = { run: RUN, handle: late.handle, jump: (steps: number) => (at = steps) } as unknown as StageRun;
  const others = replicas.replicas.slice(0, -1);
  const found = await catchUp({
    ...{ run, averaging: late.averaging, replicas: others, compute, signal },
    ask: replicas.askAs(late.uid),
    emit: (event) => void late.events.push(event),
  });
  assert.ok(typeof found === 'object');
  assert.equal(found.steps, at);
  late.steps = at;
  return at;
}

test('who comes late begins with the slow weights of the others, and ends with theirs', async (t) => {
  for (const [kind, more] of [
    ['diloco', {}],
    ['streaming-diloco', { fragments: 3 }],
  ] as const) {
    // prettier-ignore
    const replicas = await openOuter(t, compute, 2, { kind, steps: 3, ...more });
    await steps(replicas, 7);
    await Promise.all([0, 1].map((index) => outerOf(replicas, index).settle()));
    assert.equal(await join(replicas), 7);
    assert.deepEqual(await replicas.slow(2), await replicas.slow(0));
    await steps(replicas, 7);
    await finish(replicas);
    await assertSameSlow(replicas);
    assert.deepEqual([0, 1].flatMap((index) => replicas.events(index, 'worker.adopted')), []); // prettier-ignore
  }
});

test('who comes late and is faster than the others does not fall back behind them', async (t) => {
  const replicas = await openOuter(t, compute, 2, { kind: 'diloco', steps: 2 });
  await steps(replicas, 4);
  await join(replicas);
  // The others get what they ask each other for only later than the newcomer has done its exchange.
  const late = replicas.at(2).uid;
  replicas.change = async ({ from, kind }, answer) => {
    if (from !== late && kind === 'layers.pull') await new Promise((resolve) => setTimeout(resolve, 100));
    return answer;
  };
  await steps(replicas, 2);
  await steps(replicas, 2);
  await assertSameSlow(replicas);
});

test('of a takeover whose momentum is none nothing is kept', async (t) => {
  const replicas = await openOuter(t, compute, 2, { kind: 'diloco', steps: 1 });
  await steps(replicas, 2);
  await replicas.add();
  const before = await replicas.units(2);
  replicas.change = ({ body }, answer) => {
    const data = answer.tensors.get('data');
    if ('kind' in body && body.kind === 'momentum' && data) new Float32Array(data.data.buffer)[0] = NaN;
    return answer;
  };
  await assert.rejects(outerOf(replicas, 2).adopt(0, replicas.at(0).replica, signal), { code: 'not-finite' });
  assert.deepEqual(await replicas.units(2), before);
  assert.equal(replicas.at(2).averaging.shelf.lastExchange(0), -1);
});

test('exchanges that are lost here and there leave nobody apart', async (t) => {
  const random = randomOf(11);
  const replicas = await openOuter(t, compute, 3, { kind: 'diloco', steps: 1 });
  replicas.before = () => (random() < 0.3 ? Promise.reject(gone()) : Promise.resolve());
  await steps(replicas, 6);
  replicas.before = () => Promise.resolve();
  await steps(replicas, 2);
  await assertSameSlow(replicas);
  assert.ok(indices(replicas).some((index) => replicas.events(index, 'worker.adopted').length > 0));
  assert.deepEqual(indices(replicas).flatMap((index) => replicas.events(index, 'peer.struck')), []); // prettier-ignore
});
