// Who is at the other end of a pipe: the honest get through; strangers, impostors, replays and those in between do not.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { chooseTransport, expectedSeconds, type Measurement } from '../../runtime/mesh/choose.ts';
import { handshake } from '../../runtime/mesh/handshake.ts';
import { createIdentity, type Identity } from '../../runtime/mesh/identity.ts';
import { localPair } from '../../runtime/mesh/local.ts';
import type { PeerId } from '../../runtime/wire/ids.ts';
import type { Pipe } from '../../runtime/wire/pipe.ts';

const TOKEN = 'the-token';
const [ann, bob, eve] = [await createIdentity(), await createIdentity(), await createIdentity()];
const text = (value: unknown): Uint8Array<ArrayBuffer> => new TextEncoder().encode(JSON.stringify(value));
const bound = (pipe: Pipe, binding: string): Pipe => ({
  ...pipe,
  binding,
  send: (message) => pipe.send(message),
  listen: (listener) => pipe.listen(listener),
  close: (reason) => pipe.close(reason),
});

interface Side {
  identity?: Identity;
  token?: string;
  expected?: PeerId | null;
  isDialer?: boolean;
  withinMs?: number;
}
const dial = (
  pipe: Pipe,
  { identity = ann, token = TOKEN, expected = bob.peer, isDialer = true, withinMs = 2_000 }: Side = {},
) => handshake(pipe, { identity, token, isDialer, expected, signal: AbortSignal.timeout(withinMs) });
const accept = (pipe: Pipe, side: Side = {}) => dial(pipe, { identity: bob, expected: null, isDialer: false, ...side });

const codes = async (...sides: Promise<unknown>[]): Promise<string[]> =>
  (await Promise.allSettled(sides)).map((side) =>
    side.status === 'fulfilled' ? 'fulfilled' : String((side.reason as { code?: string }).code),
  );
const BOTH_REFUSED = ['unauthorized', 'unauthorized'];

test('both ends learn whom they talk to, and what follows stays in the pipe', async () => {
  const [near, far] = localPair();
  const dialled = dial(bound(near, 'tls')).then(async (peer) => {
    await near.send(text('first'));
    return peer;
  });
  assert.deepEqual(await Promise.all([dialled, accept(bound(far, 'tls'))]), [bob.peer, ann.peer]);
  const first = await new Promise((resolve) => far.listen({ message: resolve, closed: resolve }));
  assert.deepEqual(first, text('first'));
});

test('a wrong token is refused, at both ends', async () => {
  const [near, far] = localPair();
  assert.deepEqual(await codes(dial(near, { token: 'guess' }), accept(far)), BOTH_REFUSED);
  await assert.rejects(near.send(text('more')), { code: 'link-lost' });
});

test('another peer than the one that was meant is refused', async () => {
  const [near, far] = localPair();
  const outcomes = await codes(dial(near), accept(far, { identity: eve }));
  assert.equal(outcomes[0], 'unauthorized');
  assert.notEqual(outcomes[1], 'fulfilled');
});

test('a name without its key is refused', async () => {
  const [near, far] = localPair();
  const impostor: Identity = { peer: bob.peer, sign: (purpose, what) => eve.sign(purpose, what) };
  assert.equal((await codes(dial(near), accept(far, { identity: impostor })))[0], 'unauthorized');
});

test('a reflected handshake is refused: one cannot be one’s own peer', async () => {
  const [near, far] = localPair();
  far.listen({ message: (bytes) => void far.send(bytes), closed: () => undefined });
  await assert.rejects(dial(near, { expected: null }), { code: 'unauthorized' });
  const [left, right] = localPair();
  assert.deepEqual(await codes(dial(left), accept(right, { isDialer: true })), BOTH_REFUSED);
});

/** Messages of b as an eavesdropper keeps them, from a handshake that went well. */
async function overheard(): Promise<Uint8Array<ArrayBuffer>[]> {
  const [near, far] = localPair();
  const kept: Uint8Array<ArrayBuffer>[] = [];
  const tapped = {
    ...bound(far, ''),
    send: (message: Uint8Array<ArrayBuffer>) => (kept.push(message), far.send(message)),
  };
  await Promise.all([dial(near), accept(tapped)]);
  return kept;
}

test('a replayed proof is refused', async () => {
  const [near, far] = localPair();
  for (const message of await overheard()) await far.send(message);
  await assert.rejects(dial(near), { code: 'unauthorized', message: /signature/ });
});

test('somebody between two secured pipes is refused, though every message is passed on unchanged', async () => {
  const [near, left] = localPair();
  const [right, far] = localPair();
  const pass = (from: Pipe, to: Pipe) =>
    from.listen({ message: (bytes) => void to.send(bytes).catch(() => undefined), closed: (why) => to.close(why) });
  pass(left, right);
  pass(right, left);
  assert.deepEqual(await codes(dial(bound(near, 'session 1')), accept(bound(far, 'session 2'))), BOTH_REFUSED);
});

test('noise, silence and a hang-up end it with the same code, in time', async () => {
  const hello = { skein: 1, dialer: false, peer: bob.peer, nonce: 'n'.repeat(43) };
  const bad = [
    [new Uint8Array(0)],
    [text(7)],
    [text({ ...hello, nonce: 'short' })],
    [text({ ...hello, skein: 2 })],
    [text({ ...hello, more: 1 })],
    [text(hello), text({ signature: '?'.repeat(86), mac: 'm'.repeat(43) })],
    [text(hello), text({ signature: 's'.repeat(86), mac: 'm'.repeat(43) })],
    [new Uint8Array(200_000).fill(0x5b)],
  ];
  for (const messages of bad) {
    const [near, far] = localPair();
    for (const message of messages) await far.send(message);
    await assert.rejects(dial(near), { code: 'unauthorized' });
  }
  const [near] = localPair();
  await assert.rejects(dial(near, { withinMs: 100 }), { code: 'deadline' });
  const [left, right] = localPair();
  right.close('no');
  await assert.rejects(dial(left), (cause: { code: string }) => /^(unauthorized|link-lost)$/.test(cause.code));
});

const m = (transport: Measurement['transport'], rttMs: number, megabytesPerSecond: number): Measurement => ({
  transport,
  rttMs,
  bytesPerSecond: megabytesPerSecond * 1e6,
});

test('the choice: the quickest for a typical message, with the figures of the others and why the rest are none', () => {
  assert.equal(chooseTransport([], new Map([['tcp', 'no address']])), null);
  assert.deepEqual(chooseTransport([m('tcp', 0.2, 400)], new Map()), { index: 0, reason: 'tcp 0.20 ms, 400 MB/s' });
  const failures = new Map([['local' as const, 'not in this process']]);
  assert.deepEqual(chooseTransport([m('webrtc', 0.5, 60), m('tcp', 0.2, 400)], failures), {
    index: 1,
    reason: 'tcp 0.20 ms, 400 MB/s; quicker than webrtc 0.50 ms, 60 MB/s; local: not in this process',
  });
  // 256 KB: a slow start is worth it where the rate makes up for it, and not otherwise.
  assert.equal(chooseTransport([m('tcp', 20, 100), m('webrtc', 1, 10)], new Map())?.index, 0);
  assert.equal(chooseTransport([m('tcp', 40, 100), m('webrtc', 1, 10)], new Map())?.index, 1);
  assert.ok(Number.isFinite(expectedSeconds(m('relay', 1, 0))));
});
