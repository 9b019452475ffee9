// Whose turn it is at a GPU: what a run prefers goes first, two at a time are with the worker, who gives up leaves the queue.
import assert from 'node:assert/strict';
import test from 'node:test';
import { Meter, metered } from '../../runtime/server/meter.ts';
import { Turns, type Prefer } from '../../runtime/server/turns.ts';
import { FakeCompute } from './stages.ts';

const { signal } = new AbortController();
const settled = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

class Worker {
  readonly started: string[] = [];
  readonly #ends = new Map<string, PromiseWithResolvers<void>>();

  work(name: string): () => Promise<void> {
    const end = Promise.withResolvers<void>();
    this.#ends.set(name, end);
    return () => {
      this.started.push(name);
      return end.promise;
    };
  }

  async end(name: string): Promise<void> {
    this.#ends.get(name)?.resolve();
    await settled();
  }
}

/** Forward passes f0, f1 under way, then f2, b0, f3, b1 in the queue. */
function queued(prefer: Prefer | undefined): { worker: Worker; done: Promise<unknown> } {
  const turns = new Turns();
  const worker = new Worker();
  const names = ['f0', 'f1', 'f2', 'b0', 'f3', 'b1'];
  const done = Promise.all(
    names.map((name) => turns.take(name.startsWith('f') ? 'forward' : 'backward', prefer, signal, worker.work(name))),
  );
  return { worker, done };
}

for (const [prefer, order] of [
  ['backward', ['f0', 'f1', 'b0', 'b1', 'f2', 'f3']],
  ['forward', ['f0', 'f1', 'f2', 'f3', 'b0', 'b1']],
] as const)
  test(`where ${prefer} passes go first, the others wait`, async () => {
    const { worker, done } = queued(prefer);
    await settled();
    for (const [i, name] of order.entries()) {
      assert.deepEqual(worker.started, order.slice(0, i + 2), 'two at a time');
      await worker.end(name);
    }
    await done;
  });

test('a run without a preference waits for nobody', async () => {
  const { worker, done } = queued(undefined);
  assert.deepEqual(worker.started, ['f0', 'f1', 'f2', 'b0', 'f3', 'b1']);
  for (const name of worker.started) await worker.end(name);
  await done;
});

test('who gives up leaves the queue and is not begun; a failure gives its place on', async () => {
  const turns = new Turns();
  const worker = new Worker();
  const stop = new AbortController();
  const take = (name: string, by = signal): Promise<void> => turns.take('forward', 'backward', by, worker.work(name));
  const first = [take('a'), take('b')];
  const late = take('c', stop.signal);
  const next = take('d');
  stop.abort(new Error('given up'));
  await assert.rejects(late, /given up/);
  await worker.end('a');
  assert.deepEqual(worker.started, ['a', 'b', 'd']);
  await assert.rejects(turns.take('forward', 'backward', stop.signal, worker.work('e')), /given up/);
  const failing = assert.rejects(
    turns.take('forward', 'backward', signal, () => Promise.reject(new Error('lost'))),
    /lost/,
  );
  const after = take('f');
  await worker.end('b');
  await failing;
  await settled();
  assert.deepEqual(worker.started, ['a', 'b', 'd', 'f']);
  await worker.end('d');
  await worker.end('f');
  await Promise.all([...first, next, after]);
});

test('the meter tells how long the worker had nothing to do, and counts no time twice', async () => {
  let now = 0;
  const meter = new Meter(() => now);
  const gpu = new FakeCompute();
  const gates = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  let calls = 0;
  gpu.before = () => gates[calls++]?.promise ?? Promise.resolve();
  const compute = metered(gpu.compute, meter);
  const both = [compute.discard(0, {}), compute.discard(0, {})];
  now = 400;
  gates[0]?.resolve();
  await both[0];
  now = 600;
  gates[1]?.resolve();
  await both[1];
  now = 1_000;
  meter.sample();
  assert.ok(Math.abs(meter.idleShare - 0.4) < 1e-9);
  const gate = Promise.withResolvers<void>();
  gpu.before = () => gate.promise;
  now = 1_500;
  const last = compute.discard(0, {});
  now = 2_000;
  meter.sample();
  assert.ok(Math.abs(meter.idleShare - 0.5) < 1e-9, 'a call that goes on counts up to the end of the window');
  now = 3_000;
  meter.sample();
  assert.equal(meter.idleShare, 0);
  gate.resolve();
  await last;
});
