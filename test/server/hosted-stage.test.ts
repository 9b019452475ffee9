// What a hosted stage lets into its gradient, and whom it serves: at most once, never for an asker that gave up, one run at a time.
import assert from 'node:assert/strict';
import test, { type TestContext } from 'node:test';
import { MeshError } from '../../runtime/errors.ts';
import { runIdSchema } from '../../runtime/wire/ids.ts';
import { CLIENT, firstSpec, lastSpec, microbatch, peerId, RUN, TestMesh, withCode } from './stages.ts';

function mesh(t: TestContext): TestMesh {
  const made = new TestMesh();
  t.after(() => made.close());
  return made;
}

test('a microbatch that comes again adds once, and is answered alike', async (t) => {
  const m = mesh(t);
  const back = m.add('back.0.0.0', 'a');
  await m.openLast(back);
  const answers = await Promise.all([m.forward(back, 3), m.forward(back, 3)]);
  answers.push(await m.forward(back, 3));
  assert.deepEqual(answers.map(({ body }) => body.loss), [3, 3, 3]); // prettier-ignore
  assert.equal(back.gpu.gradient, 3);
  await m.forward(back, 4, { key: microbatch(1) });
  assert.equal(back.gpu.gradient, 7);
});

test('through two stages: each adds once, and the path is told', async (t) => {
  const m = mesh(t);
  const front = m.add('front.0.0.0', 'a');
  const back = m.add('back.0.0.0', 'b');
  await m.open(front);
  await m.openLast(back);
  const route = [[back.replica]];
  for (let i = 0; i < 2; i += 1) {
    const { body } = await m.forward(front, 2, { route, scale: 0.5 });
    assert.deepEqual(body.path, ['front.0.0.0', 'back.0.0.0']);
  }
  assert.deepEqual([front.gpu.gradient, back.gpu.gradient], [1, 1]);
});

test('a request that is cancelled, or past its deadline, adds nothing, and its microbatch may come again', async (t) => {
  const m = mesh(t);
  const front = m.add('front.0.0.0', 'a');
  const back = m.add('back.0.0.0', 'b');
  await m.open(front);
  await m.openLast(back);
  const stop = new AbortController();
  const gate = Promise.withResolvers<void>();
  const route = [[back.replica]];
  m.onMessage = async (kind, to) => {
    if (kind !== 'stage.forward' || to.uid !== back.uid) return;
    stop.abort(new MeshError('cancelled', 'Given up.', 'Nothing to do.'));
    await gate.promise;
  };
  const asked = m.forward(front, 2, { route, signal: stop.signal });
  await new Promise((resolve) => setImmediate(resolve));
  gate.resolve();
  await assert.rejects(asked, withCode('cancelled'));
  assert.deepEqual([front.gpu.gradient, back.gpu.gradient], [0, 0]);
  assert.ok(front.gpu.calls.includes('forget'), 'what was kept for its backward pass is let go');
  await assert.rejects(m.forward(back, 2, { signal: AbortSignal.abort(new DOMException('late', 'TimeoutError')) }));
  assert.equal(back.gpu.gradient, 0);
  m.onMessage = () => Promise.resolve();
  await m.forward(front, 2, { route });
  assert.deepEqual([front.gpu.gradient, back.gpu.gradient], [2, 2]);
});

test('a newer attempt discards what the older one gathered, and the older one is turned away', async (t) => {
  const m = mesh(t);
  const back = m.add('back.0.0.0', 'a');
  await m.openLast(back);
  await m.forward(back, 3);
  await m.forward(back, 5, { key: microbatch(1) });
  await m.forward(back, 3, { attempt: 1 });
  assert.equal(back.gpu.gradient, 3);
  await assert.rejects(m.forward(back, 5, { key: microbatch(1) }), withCode('stale'));
  await assert.rejects(m.forward(back, 5, { step: 1 }), withCode('stale'));
  assert.equal(back.gpu.gradient, 3);
});

test('a GPU that refuses leaves the microbatch unclaimed', async (t) => {
  const m = mesh(t);
  const back = m.add('back.0.0.0', 'a');
  await m.openLast(back);
  back.gpu.before = (call) =>
    call === 'add' ? Promise.reject(new MeshError('gpu-lost', 'Gone.', 'Wait.')) : Promise.resolve();
  await assert.rejects(m.forward(back, 3), withCode('gpu-lost'));
  back.gpu.before = () => Promise.resolve();
  await m.forward(back, 3);
  assert.equal(back.gpu.gradient, 3);
});

test('a hop that fails is replaced by the next replica, which gets what was kept', async (t) => {
  const m = mesh(t);
  const [front, lost, spare] = [m.add('front.0.0.0', 'a'), m.add('back.0.0.0', 'b'), m.add('back.0.1.0', 'd')];
  await m.open(front);
  await m.openLast(spare);
  m.onMessage = (_, to) =>
    to.uid === lost.uid ? Promise.reject(new MeshError('link-lost', 'Gone.', 'Wait.')) : Promise.resolve();
  const { body } = await m.forward(front, 2, { route: [[lost.replica, spare.replica]] });
  assert.deepEqual(body.path, ['front.0.0.0', 'back.0.1.0']);
  assert.deepEqual(m.all('hop.replaced').map(({ uid, by }) => [uid, by]), [[lost.uid, spare.uid]]); // prettier-ignore
  assert.deepEqual([front.gpu.gradient, spare.gpu.gradient], [2, 2]);
});

test('what is not finite or of another shape is refused, reported, and the stage goes on', async (t) => {
  const m = mesh(t);
  const front = m.add('front.0.0.0', 'a');
  const back = m.add('back.0.0.0', 'b');
  await m.open(front);
  await m.openLast(back);
  await assert.rejects(m.forward(back, NaN), withCode('not-finite'));
  await assert.rejects(m.forward(front, Infinity, { route: [[back.replica]] }), withCode('not-finite'));
  await assert.rejects(m.forward(front, 1), withCode('stage-shapes'), 'a route that ends too early');
  const infer = (stage: typeof back): Promise<unknown> =>
    m.ask(stage.replica, 'stage.infer', { uid: stage.uid, run: RUN, route: [] }, { deadlineMs: 1_000 });
  await assert.rejects(infer(back), withCode('malformed'));
  assert.deepEqual(m.all('stage.rejected').map(({ uid }) => uid), [back.uid, front.uid, front.uid, back.uid]); // prettier-ignore
  await m.forward(back, 1);
  assert.equal(back.gpu.gradient, 1);
});

test('async: a step after every `accumulate` microbatches, each counted once', async (t) => {
  const m = mesh(t);
  const back = m.add('back.0.0.0', 'a');
  await m.openLast(back, { mode: 'async', accumulate: 3 });
  for (const i of [0, 0, 1, 1, 2, 2, 3, 4]) await m.forward(back, 1, { key: microbatch(i), step: 7 });
  assert.deepEqual(m.all('stage.stepped').map(({ step, contributions, gradientNorm }) => [step, contributions, gradientNorm]), [[1, 3, 3]]); // prettier-ignore
  assert.equal(back.gpu.weight, 1 - 3);
  assert.equal(back.gpu.gradient, 2, 'two wait for a third');
  await m.forward(back, 1, { key: microbatch(0, 8), step: 8 });
  assert.equal(m.all('stage.stepped').length, 2);
});

test('async, clipped: nothing is added between the norm and the step that it is for', async (t) => {
  const m = mesh(t);
  const back = m.add('back.0.0.0', 'a');
  await m.openLast(back, { mode: 'async', accumulate: 1, clip: 1 });
  const gate = Promise.withResolvers<void>();
  const atNorm = Promise.withResolvers<void>();
  back.gpu.before = (call) => {
    if (call !== 'norm') return Promise.resolve();
    atNorm.resolve();
    return gate.promise;
  };
  const first = m.forward(back, 4, { key: microbatch(0) });
  await atNorm.promise;
  const second = m.forward(back, 2, { key: microbatch(1) });
  await new Promise((resolve) => setTimeout(resolve, 10));
  gate.resolve();
  await Promise.all([first, second]);
  assert.deepEqual(back.gpu.calls.slice(1), ['add', 'norm', 'step', 'add', 'norm', 'step']);
  assert.equal(back.gpu.weight, 1 - 1 - 1);
});

test('one run at a time, while its client is connected', async (t) => {
  const m = mesh(t);
  const front = m.add('front.0.0.0', 'a');
  const other = { run: runIdSchema.parse('other') };
  const rival = peerId('r');
  await m.open(front);
  await assert.rejects(m.open(front, other, rival), withCode('busy'));
  await m.open(front, {}, CLIENT);
  assert.equal(front.gpu.calls.filter((call) => call === 'open').length, 1, 'the same run again is no new one');
  m.connected.delete(CLIENT);
  m.connected.add(rival);
  await m.open(front, other, rival);
  // `forget`: the look whether the worker still has it, before it is said to be there.
  assert.deepEqual(front.gpu.calls, ['open', 'forget', 'close', 'open']);
  await assert.rejects(m.forward(front, 1), withCode('no-stage'));
  m.connected.add(CLIENT);
  await assert.rejects(m.open(front), withCode('busy'));
});

test('a client that takes its run over from another link owns it', async (t) => {
  const m = mesh(t);
  const front = m.add('front.0.0.0', 'a');
  const [again, rival] = [peerId('d'), peerId('r')];
  await m.open(front);
  await m.open(front, {}, again);
  m.connected.delete(CLIENT);
  m.connected.add(again);
  await assert.rejects(m.open(front, { run: runIdSchema.parse('other') }, rival), withCode('busy'));
});

test('of two clients that open at once one wins', async (t) => {
  const m = mesh(t);
  const front = m.add('front.0.0.0', 'a');
  m.connected.add(peerId('r'));
  const outcomes = await Promise.allSettled([
    m.open(front),
    m.open(front, { run: runIdSchema.parse('other') }, peerId('r')),
  ]);
  assert.deepEqual(outcomes.map(({ status }) => status), ['fulfilled', 'rejected']); // prettier-ignore
  assert.deepEqual(front.gpu.calls, ['open']);
});

test('the same run with another spec is built anew; closing another run changes nothing', async (t) => {
  const m = mesh(t);
  const stage = m.add('front.0.0.0', 'a');
  await m.open(stage, { spec: firstSpec });
  await m.open(stage, { spec: lastSpec });
  assert.deepEqual(stage.gpu.calls, ['open', 'close', 'open']);
  const close = (run: string): Promise<unknown> =>
    m.ask(stage.replica, 'stage.close', { uid: stage.uid, run: runIdSchema.parse(run) }, { deadlineMs: 1_000 });
  await close('other');
  await m.forward(stage, 1);
  await close(RUN);
  await assert.rejects(m.forward(stage, 1), withCode('no-stage'));
});

test('after a lost device the next open builds the stage anew', async (t) => {
  const m = mesh(t);
  const front = m.add('front.0.0.0', 'a');
  await m.open(front);
  front.gpu.before = (call) =>
    call === 'forget' ? Promise.reject(new MeshError('gpu-lost', 'gone', 'x')) : Promise.resolve();
  await m.open(front);
  assert.equal(front.gpu.calls.filter((call) => call === 'open').length, 2);
});
