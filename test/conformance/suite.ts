// One suite for every transport: order, whole tensors, fairness, backpressure, cancellation, deadlines, death, hostile bytes.
import assert from 'node:assert/strict';
import { describe, test, type TestContext } from 'node:test';
import {
  A,
  aborted,
  B,
  bufferBytes,
  bytesTensor,
  dataOf,
  endOf,
  equal,
  MB,
  noise,
  settlements,
  sleep,
  until,
  type End,
  type EndOptions,
} from './channels.ts';
import { HOSTILE } from './malformed.ts';
import type { PairMaker } from './pipes.ts';

const LONG_MS = 60_000;
/** The relay carries a quarter of what the others do where the amount proves nothing more. */
const scaleOf = (maker: PairMaker): number => (maker.name === 'relay' ? 0.25 : 1);
const NOISE = noise(64 * MB);

/** Declares the suite for one transport; a transport that cannot run here is skipped with its reason. */
export function transportSuite(maker: PairMaker): void {
  describe(maker.name, { ...(maker.skip === null ? {} : { skip: maker.skip }), timeout: 110_000 }, () => suite(maker));
}

async function linked(t: TestContext, maker: PairMaker, a: EndOptions, b: EndOptions) {
  const pair = await maker.make();
  t.after(() => pair.close());
  return { pair, a: endOf(pair.a, B, a), b: endOf(pair.b, A, b) };
}

/** A handler that never answers. */
const never = () => new Promise<never>(() => undefined);

const ask = (end: End, data: Uint8Array<ArrayBuffer>, options: { signal?: AbortSignal; deadlineMs?: number } = {}) =>
  end.channel.request('link.probe', {}, { deadlineMs: LONG_MS, ...options, tensors: bytesTensor(data) });

function suite(maker: PairMaker): void {
  test('2,000 messages arrive in order', async (t) => {
    const seen: number[] = [];
    const { a } = await linked(
      t,
      maker,
      {},
      {
        handler: (tensors) => {
          seen.push(new DataView(dataOf(tensors).slice().buffer).getUint32(0));
          return Promise.resolve({ body: {} });
        },
      },
    );
    const numbers = Array.from({ length: 2_000 }, (_, i) => i);
    await Promise.all(numbers.map((i) => ask(a, Uint8Array.of(i >>> 24, i >>> 16, i >>> 8, i))));
    assert.deepEqual(seen, numbers);
  });

  test('a tensor of 64 MB goes there and back byte by byte', async (t) => {
    const { a } = await linked(
      t,
      maker,
      {},
      { handler: (tensors) => Promise.resolve({ body: {}, tensors: bytesTensor(dataOf(tensors)) }) },
    );
    const sent = NOISE;
    assert.ok(equal(dataOf((await ask(a, sent)).tensors), sent));
  });

  const bigBytes = 32 * MB * scaleOf(maker);
  test(`a small request passes four of ${bigBytes / MB} MB`, async (t) => {
    const sent = NOISE.subarray(0, bigBytes);
    const { a, b } = await linked(t, maker, {}, {});
    let done = 0;
    const big = Array.from({ length: 4 }, () => ask(a, sent).then(() => (done += 1)));
    await until('the big ones are under way', () => b.channel.bytesIn > bigBytes / 8);
    await ask(a, noise(100));
    assert.equal(done, 0);
    assert.ok(b.channel.bytesIn < 4 * bigBytes, `only after ${b.channel.bytesIn} bytes`);
    await Promise.all(big);
  });

  test('many big requests and replies both ways at once do not lock each other', async (t) => {
    const echo: EndOptions = {
      handler: (tensors) => Promise.resolve({ body: {}, tensors: bytesTensor(dataOf(tensors)) }),
      maxConcurrent: 2,
      mux: { backlogBytes: MB },
    };
    const { a, b } = await linked(t, maker, echo, echo);
    const sent = NOISE.subarray(0, 2 * MB);
    const both = Array.from({ length: 6 }, () => [ask(a, sent), ask(b, sent)]).flat();
    for (const { tensors } of await Promise.all(both)) assert.equal(dataOf(tensors).byteLength, sent.byteLength);
  });

  test('a consumer that does not finish holds the sender back, in bounded memory', async (t) => {
    const total = 512 * scaleOf(maker);
    const gate = Promise.withResolvers<void>();
    let arrived = 0;
    const { a, b } = await linked(
      t,
      maker,
      {},
      {
        handler: async (tensors) => {
          await gate.promise;
          arrived += dataOf(tensors).byteLength;
          return { body: {} };
        },
        maxConcurrent: 2,
        mux: { backlogBytes: 16 * MB },
      },
    );
    const piece = noise(8 * MB);
    const before = bufferBytes();
    const all = Promise.all(Array.from({ length: total / 8 }, () => ask(a, piece)));
    // Held back is what has stood still for a second, heartbeats aside: on a busy machine bytes come in fits and starts.
    for (let [still, tries] = [0, 0]; still < 4 && tries < 100; tries += 1) {
      const previous = b.channel.bytesIn;
      await sleep(250);
      still = previous > 0 && b.channel.bytesIn - previous < 4_096 ? still + 1 : 0;
    }
    // running 2 x 8, backlog 16 and the frame that fills it, four half-finished ones, the window
    const bound = (16 + 24 + 32 + 4 + 1) * MB;
    assert.ok(a.channel.bytesOut < bound, `${a.channel.bytesOut} bytes were taken`);
    assert.ok(a.channel.bytesOut > 16 * MB, `only ${a.channel.bytesOut} bytes were taken`);
    const grown = bufferBytes() - before;
    assert.ok(grown < bound + 48 * MB, `buffers grew by ${grown} bytes`);
    await a.channel.ping(5_000); // the link itself is not stuck
    gate.resolve();
    await all;
    assert.equal(arrived, total * MB);
  });

  test('aborting a transfer of 64 MB half way takes it back, often, and the link goes on', async (t) => {
    let served = 0;
    const count = () => Promise.resolve({ body: {}, served: (served += 1) });
    const { a, b } = await linked(t, maker, {}, { handler: count, mux: { maxOpenBytes: 150 * MB } });
    const sent = NOISE;
    for (let i = 0; i < 5; i += 1) {
      const stop = new AbortController();
      const [outcome] = settlements([ask(a, sent, { signal: stop.signal })]);
      const from = b.channel.bytesIn;
      await until('it is under way', () => b.channel.bytesIn > from + 2 * MB);
      stop.abort();
      assert.equal(await outcome, 'cancelled');
    }
    await ask(a, noise(100));
    assert.equal(served, 1);
    await ask(a, sent);
    assert.deepEqual([a.closed, b.closed], [[], []]);
  });

  test('cancellation and a missed deadline reach the handler, and a late answer nobody', async (t) => {
    const reasons: unknown[] = [];
    const handler: EndOptions['handler'] = async (_tensors, { signal }) => {
      await aborted(signal);
      reasons.push((signal.reason as { code?: unknown }).code);
      return { body: {}, tensors: bytesTensor(noise(MB)) };
    };
    const { a, b } = await linked(t, maker, {}, { handler });
    const stop = new AbortController();
    const waiting = settlements([ask(a, noise(100), { signal: stop.signal }), ask(a, noise(100), { deadlineMs: 150 })]);
    await sleep(50);
    stop.abort();
    assert.deepEqual(await Promise.all(waiting), ['cancelled', 'deadline']);
    await until('both handlers know', () => reasons.length === 2);
    assert.equal(reasons[0], 'cancelled');
    assert.match(String(reasons[1]), /^(deadline|cancelled)$/);
    await b.channel.ping(2_000);
    assert.ok(b.channel.bytesOut < MB, 'an answer that nobody waits for was sent');
  });

  test('cancellations pass a full backlog and clear it', async (t) => {
    const first = Promise.withResolvers<void>();
    let served = 0;
    const handler: EndOptions['handler'] = async () => {
      served += 1;
      if (served === 1) await first.promise;
      return { body: {} };
    };
    const { a } = await linked(t, maker, {}, { handler, maxConcurrent: 1, mux: { backlogBytes: MB } });
    const stop = new AbortController();
    const held = ask(a, noise(100));
    const given = settlements(Array.from({ length: 8 }, () => ask(a, noise(MB), { signal: stop.signal })));
    await sleep(300);
    stop.abort();
    assert.deepEqual(new Set(await Promise.all(given)), new Set(['cancelled']));
    const next = ask(a, noise(MB));
    await sleep(100);
    first.resolve();
    await Promise.all([held, next]);
    assert.equal(served, 2);
  });

  test('when the peer dies every waiter is told once, and every handler', async (t) => {
    const signals: AbortSignal[] = [];
    const handler: EndOptions['handler'] = async (_tensors, { signal }) => {
      signals.push(signal);
      await aborted(signal);
      return { body: {} };
    };
    const options: EndOptions = { handler, mux: { heartbeatMs: 100 } };
    const { pair, a, b } = await linked(t, maker, options, options);
    const small = Array.from({ length: 20 }, () => [ask(a, noise(100)), ask(b, noise(100))]).flat();
    await until('all are being served', () => signals.length === 40);
    const outcomes = settlements([...small, ask(a, NOISE)]);
    pair.kill();
    assert.deepEqual(new Set(await Promise.all(outcomes)), new Set(['link-lost']));
    await until('all handlers know', () => signals.every((signal) => signal.aborted));
    assert.deepEqual([a.closed.length, b.closed.length], [1, 1]);
    await assert.rejects(ask(a, noise(1)), { code: 'link-lost' });
    await assert.rejects(a.channel.ping(100), { code: 'link-lost' });
  });

  test('a peer that falls silent is noticed', async (t) => {
    const pair = await maker.make();
    t.after(() => pair.close());
    pair.b.listen({ message: () => undefined, closed: () => undefined });
    const a = endOf(pair.a, B, { mux: { heartbeatMs: 100, silenceMs: 500 } });
    const started = performance.now();
    await assert.rejects(ask(a, noise(100)), { code: 'link-lost', message: /nothing was heard for/ });
    const tookMs = performance.now() - started;
    assert.ok(tookMs > 400 && tookMs < 5_000, `${tookMs} ms`);
  });

  test('hostile bytes end the link, with the reason, and nothing else', async (t) => {
    for (const [what, { code, messages }] of Object.entries(HOSTILE)) {
      const pair = await maker.make();
      t.after(() => pair.close());
      pair.b.listen({ message: () => undefined, closed: () => undefined });
      const a = endOf(pair.a, B, { handler: never, maxConcurrent: 1, mux: { backlogBytes: MB } });
      const pending = settlements([ask(a, noise(100))]);
      const bytes = messages();
      const before = process.memoryUsage().arrayBuffers;
      for (const message of bytes) await pair.b.send(message).catch(() => undefined); // it may be closed half way
      await until(`${what} is noticed`, () => a.closed.length > 0);
      assert.equal(a.closed[0]?.code, code, `${what}: ${a.closed[0]?.message}`);
      assert.equal(a.rejected.length, 1, what);
      assert.deepEqual(await Promise.all(pending), ['link-lost'], what);
      const grown = process.memoryUsage().arrayBuffers - before;
      assert.ok(grown < 200 * MB, `${what} took ${grown} bytes`);
    }
  });
}
