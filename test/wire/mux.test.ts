// The mux by itself, over a pipe that the test holds in its hand: turns, credits, cancelled frames, bytes that go missing.
import assert from 'node:assert/strict';
import { test, type TestContext } from 'node:test';
import { MeshError } from '../../runtime/errors.ts';
import { localPair } from '../../runtime/mesh/local.ts';
import { decodeChunk, encodeChunk, type Chunk, type Lane } from '../../runtime/wire/chunk.ts';
import { Mux, type MuxOptions, type Received } from '../../runtime/wire/mux.ts';
import { Outbox } from '../../runtime/wire/outbox.ts';
import { Inbox, type Pipe } from '../../runtime/wire/pipe.ts';

type Bytes = Uint8Array<ArrayBuffer>;
const OPTIONS: Partial<MuxOptions> = { windowBytes: 8_000, backlogBytes: 4_000 };
const MESSAGE = 1_020; // 1,000 bytes of payload
const settle = () => new Promise<void>((resolve) => setImmediate(resolve));

interface Hand {
  mux: Mux;
  /** Whether each was a goodbye. */
  closings: (boolean | undefined)[];
  inbox: Inbox;
  sent: Chunk[];
  frames: Received[];
  closed: MeshError[];
}

/** A mux whose other end is the test. */
async function byHand(t: TestContext): Promise<Hand> {
  const inbox = new Inbox();
  const sent: Chunk[] = [];
  const frames: Received[] = [];
  const closed: MeshError[] = [];
  const closings: (boolean | undefined)[] = [];
  const pipe: Pipe = {
    transport: 'local',
    maxMessageBytes: MESSAGE,
    binding: '',
    send: (message) => Promise.resolve(void sent.push(decodeChunk(message))),
    listen: (listener) => inbox.listen(listener),
    close: (reason, isGoodbye) => {
      closings.push(isGoodbye);
      inbox.end(reason);
    },
  };
  const mux = new Mux(pipe, { frame: (f) => frames.push(f), closed: (error) => closed.push(error) }, OPTIONS);
  t.after(() => mux.close('test over'));
  await settle();
  return { mux, inbox, sent, frames, closed, closings };
}

const credit = (lane: Lane, index: number): Bytes => encodeChunk({ type: 'credit', lane, index });
const dataOf = (sent: Chunk[]): Chunk[] => sent.filter(({ type }) => type === 'data');
const part = (size: number, fill = 1): [Bytes] => [new Uint8Array(size).fill(fill)];

test('a sender stops at its credit and goes on with more, lane by lane', async (t) => {
  const { mux, inbox, sent } = await byHand(t);
  const done = mux.send('request', part(20_000));
  await settle();
  assert.equal(dataOf(sent).length, 8); // 8 x 1,020 uses up 8,000
  const reply = mux.send('reply', part(2_000));
  await reply;
  assert.equal(dataOf(sent).length, 10);
  inbox.push(credit('request', 2_000));
  await settle();
  assert.equal(dataOf(sent).length, 12);
  for (let i = 0; i < 5; i += 1) {
    inbox.push(credit('request', 2_000));
    await settle();
  }
  await done;
  assert.equal(dataOf(sent).length, 22);
});

test('credit beyond what was sent ends the link', async (t) => {
  const { inbox, closed } = await byHand(t);
  inbox.push(credit('reply', 1));
  assert.equal(closed[0]?.code, 'malformed');
});

test('a receiver grants what it got, and nothing while its backlog is full', async (t) => {
  const { inbox, sent, frames } = await byHand(t);
  const granted = () => sent.reduce((sum, chunk) => sum + (chunk.type === 'credit' ? chunk.index : 0), 0);
  const push = (id: number) =>
    inbox.push(encodeChunk({ type: 'data', id, count: 1, frameBytes: 1_000, payload: new Uint8Array(1_000) }));
  for (let id = 1; id <= 4; id += 1) push(id);
  assert.equal(granted(), 2 * 2_040);
  for (let id = 5; id <= 10; id += 1) push(id);
  assert.equal(granted(), 2 * 2_040, 'the backlog holds 10,000 of 4,000 bytes');
  for (const frame of frames.slice(0, 5)) frame.release();
  assert.equal(granted(), 2 * 2_040);
  for (const frame of frames) for (let twice = 0; twice < 2; twice += 1) frame.release();
  assert.equal(granted(), 10 * 1_020);
});

test('credits survive cancelled frames', async (t) => {
  const [near, far] = localPair();
  const got: number[] = [];
  const options = { windowBytes: 1 << 20, backlogBytes: 1 << 20, maxOpenBytes: 3 << 20 };
  const a = new Mux(near, { frame: () => undefined, closed: () => undefined }, options);
  const b = new Mux(
    far,
    {
      frame: ({ bytes, release }) => {
        got.push(bytes.byteLength);
        release();
      },
      closed: () => undefined,
    },
    options,
  );
  t.after(() => [a, b].map((mux) => mux.close('test over')));
  for (let i = 0; i < 40; i += 1) {
    const stop = new AbortController();
    const sending = a.send('request', part(2 << 20), stop.signal);
    const before = b.bytesIn;
    while (b.bytesIn < before + (i % 4) * (256 << 10)) await settle();
    stop.abort();
    await assert.rejects(sending, { code: 'cancelled' });
    assert.equal(a.queuedFrames, 0);
  }
  await Promise.all([a.send('request', part(2 << 20)), a.send('request', part(100))]);
  while (got.length < 2) await settle();
  assert.deepEqual(got, [100, 2 << 20]);
});

test('bytes that are transferred away while they are sent cost their own frame only', async (t) => {
  const { mux, inbox, sent, closed } = await byHand(t);
  const [bytes] = part(20_000);
  const spoilt = mux.send('request', [bytes]);
  await settle();
  structuredClone(bytes, { transfer: [bytes.buffer] });
  inbox.push(credit('request', 8_000));
  await assert.rejects(spoilt, { code: 'internal', message: /transferred away/ });
  assert.equal(sent.at(-1)?.type, 'cancel');
  await mux.send('request', part(500));
  assert.deepEqual(closed, []);
});

test('what a pipe kept, its end included, reaches a mux that is made later', async () => {
  const [near, far] = localPair();
  await far.send(encodeChunk({ type: 'data', count: 1, frameBytes: 3, payload: new Uint8Array(3) }));
  far.close('gone before anybody looked');
  const seen: string[] = [];
  const mux = new Mux(near, {
    frame: ({ bytes }) => seen.push(`frame of ${bytes.byteLength}`),
    closed: ({ code }) => seen.push(code),
  });
  const waiting = assert.rejects(mux.send('request', part(10)), { code: 'link-lost' });
  await waiting;
  assert.deepEqual(seen, ['frame of 3', 'link-lost']);
});

test('a pipe is told whether the other end knows that this is the end', async (t) => {
  const parting = await byHand(t);
  parting.mux.close('enough');
  assert.deepEqual([parting.sent.at(-1)?.type, parting.closings], ['bye', [true]]);
  const left = await byHand(t);
  left.inbox.push(encodeChunk({ type: 'bye', payload: new TextEncoder().encode('enough') }));
  assert.deepEqual([left.sent, left.closings], [[], [false]]);
  await assert.rejects(left.mux.ping(1_000), { code: 'link-lost', message: /the other end closed it: enough/ });
});

test('a held-up process does not blame its peer for the silence', async (t) => {
  let now = 0;
  const [near, far] = localPair();
  far.listen({ message: () => undefined, closed: () => undefined });
  const closed: MeshError[] = [];
  const options = { heartbeatMs: 10, silenceMs: 1_000, now: () => now };
  const mux = new Mux(near, { frame: () => undefined, closed: (error) => closed.push(error) }, options);
  t.after(() => mux.close('test over'));
  const ticks = (count: number) => new Promise((resolve) => setTimeout(resolve, 15 * count));
  now = 60_000; // one tick, a minute late
  await ticks(3);
  assert.equal(closed.length, 0);
  for (let i = 0; i < 100 && closed.length === 0; i += 1) {
    now += 25;
    await ticks(1);
  }
  assert.match(closed[0]?.message ?? '', /nothing was heard/);
});

test('who is silent and whose host still answers is given longer, and no longer than that', async (t) => {
  for (const [isAnswered, least, most] of [
    [true, 3_000, 3_100],
    [false, 1_000, 1_100],
  ] as const) {
    let now = 0;
    const [near, far] = localPair();
    far.listen({ message: () => undefined, closed: () => undefined });
    let closedAt = NaN;
    const mux = new Mux(
      { ...near, isAnswered: () => isAnswered },
      { frame: () => undefined, closed: () => (closedAt = now) },
      { heartbeatMs: 10, silenceMs: 1_000, now: () => now },
    );
    t.after(() => mux.close('test over'));
    for (let i = 0; i < 400 && Number.isNaN(closedAt); i += 1) {
      now += 25;
      await new Promise((resolve) => setTimeout(resolve, 12));
    }
    assert.ok(closedAt > least && closedAt < most, `${closedAt}`);
  }
});

/** The order in which an outbox sends, one letter a chunk. */
function orderOf(
  frames: [name: string, lane: Lane, chunks: number][],
  take: number,
  lanes: Lane[] = ['request', 'reply'],
) {
  const outbox = new Outbox(10);
  const names = new Map(
    frames.map(([name, lane, chunks]) => {
      const settled = { resolve: () => undefined, reject: () => undefined };
      return [outbox.add(lane, part(chunks * 10), settled), name] as const;
    }),
  );
  const allowed = { request: lanes.includes('request') ? 1 : 0, reply: lanes.includes('reply') ? 1 : 0 };
  let order = '';
  for (let i = 0; i < take; i += 1) {
    const frame = outbox.pick(allowed);
    if (!frame) break;
    outbox.cut(frame);
    order += names.get(frame) ?? '?';
  }
  return order;
}

test('small frames first, in order; big ones take turns, four at a time in each lane', () => {
  const big = (names: string, lane: Lane, chunks: number) =>
    names.split('').map((name): [string, Lane, number] => [name, lane, chunks]);
  assert.equal(orderOf([...big('AB', 'request', 3), ...big('xyz', 'request', 1)], 99), 'xyzABABAB');
  assert.equal(orderOf(big('ABCDEF', 'request', 2), 99), 'ABCDABCDEFEF');
  // Requests that may not go on, for want of credit, do not keep replies from starting: the replies may be what they wait for.
  const both = [...big('ABCDE', 'request', 9), ...big('rs', 'reply', 2)];
  assert.equal(orderOf(both, 99, ['reply']), 'rsrs');
  assert.equal(orderOf(both, 8), 'rAsBrCsD');
  assert.equal(orderOf(both, 5, ['request']), 'ABCDA');
});

test('a flood of small frames does not starve a big one', () => {
  const flood = Array.from({ length: 500 }, (): [string, Lane, number] => ['.', 'reply', 1]);
  const order = orderOf([['A', 'request', 5], ...flood], 200);
  assert.equal(order.replaceAll('.', ''), 'AAAAA');
});
