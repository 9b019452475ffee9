// Passing a microbatch on: which failures are tried again, which are given to the next replica, and which to nobody.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { MeshError, type MeshErrorCode } from '../../runtime/errors.ts';
import type { MeshEvent } from '../../runtime/events.ts';
import { askerOf, isReplaceable, passOn, type Ask } from '../../runtime/mesh/ask.ts';
import { parseUid } from '../../runtime/wire/ids.ts';
import type { Hop } from '../../runtime/wire/messages.ts';
import { aborted } from '../conformance/channels.ts';
import { testPeer } from './helpers.ts';

const peerOf = (letter: string) => letter.repeat(43) as Hop[number]['peer'];
const hop: Hop = ['a', 'b', 'c'].map((letter, i) => ({
  uid: parseUid(`front.0.${i}.0`).uid,
  peer: peerOf(letter),
  addresses: [],
}));
const key = { run: 'r', trainer: 't', step: 1, microbatch: 2 };
const failed = (code: MeshErrorCode) => new MeshError(code, `it failed: ${code}`, 'Nothing to do.');

/** Answers of the replicas in turn: an error's code, or fine. */
async function pass(outcomes: (MeshErrorCode | 'fine')[], over: { signal?: AbortSignal; deadlineMs?: number } = {}) {
  const asked: string[] = [];
  const deadlines: number[] = [];
  const events: MeshEvent[] = [];
  const ask: Ask = (replica, _kind, _body, options) => {
    asked.push(replica.peer.charAt(0));
    deadlines.push(options.deadlineMs);
    const outcome = outcomes[asked.length - 1] ?? 'fine';
    return outcome === 'fine'
      ? Promise.resolve({ body: {} as never, tensors: new Map() })
      : Promise.reject(failed(outcome));
  };
  const { signal = new AbortController().signal, deadlineMs = 9_000 } = over;
  const code = await passOn(hop, 'stage.infer', ({ uid }) => ({ uid, run: 'r' as never, route: [] }), {
    ask,
    emit: (event) => events.push(event),
    key,
    signal,
    deadlineMs,
    tensors: new Map(),
  }).then(
    () => 'fine',
    (cause: unknown) => (cause instanceof MeshError ? cause.code : String(cause)),
  );
  return { code, asked: asked.join(''), deadlines, events };
}

test('the first replica that does it answers, within its share of the time', async () => {
  const { code, asked, deadlines, events } = await pass([]);
  assert.deepEqual([code, asked, events], ['fine', 'a', []]);
  assert.ok(deadlines[0] && deadlines[0] <= 3_000 && deadlines[0] > 2_500);
});

test('a lost link is dialled once more, then its replica is replaced, with the reason', async () => {
  assert.equal((await pass(['link-lost'])).asked, 'aa');
  const { code, asked, events } = await pass(['link-lost', 'link-lost', 'fine']);
  assert.deepEqual([code, asked], ['fine', 'aab']);
  assert.deepEqual(events, [
    { kind: 'hop.replaced', uid: 'front.0.0.0', by: 'front.0.1.0', key, reason: 'it failed: link-lost' },
  ]);
});

test('what may go better elsewhere goes on; when nobody is left the last error is told', async () => {
  const { code, asked, events } = await pass(['no-stage', 'busy', 'deadline']);
  assert.deepEqual([code, asked, events.length], ['deadline', 'abc', 2]);
});

test('what is wrong everywhere is asked of nobody else', async () => {
  for (const wrong of ['not-finite', 'stale', 'conflict', 'malformed', 'too-large', 'cancelled', 'internal'] as const) {
    assert.equal(isReplaceable(failed(wrong)), false);
    const { code, asked, events } = await pass([wrong]);
    assert.deepEqual([code, asked, events], [wrong, 'a', []]);
  }
});

test('who has given up asks nobody else, and no time left is no replica asked', async () => {
  const { code, asked } = await pass(['link-lost'], { signal: AbortSignal.abort(failed('cancelled')) });
  assert.deepEqual([code, asked], ['link-lost', 'a']);
  assert.deepEqual((await pass([], { deadlineMs: 0 })).asked, '');
  assert.equal((await pass([], { deadlineMs: 0 })).code, 'no-replica');
});

test(
  'over real links: a replica that dies in the middle is replaced by one that lives',
  { timeout: 20_000 },
  async (t) => {
    const [a, b, c] = [
      await testPeer(t, { kinds: ['tcp'] }),
      await testPeer(t, { kinds: ['tcp'] }),
      await testPeer(t, { kinds: ['tcp'] }),
    ];
    const started = Promise.withResolvers<void>();
    let stopped = 0;
    b.handlers['stage.infer'] = async (_body, _tensors, { signal }) => {
      started.resolve();
      await aborted(signal);
      stopped += 1;
      return { body: {} };
    };
    c.handlers['stage.infer'] = (_body, tensors) => Promise.resolve({ body: {}, tensors });
    const replicas = [b, c].map(({ target }, i) => ({
      uid: parseUid(`front.0.${i}.0`).uid,
      peer: target.peer,
      addresses: [...target.addresses],
    }));
    const x = { dtype: 'u8' as const, shape: [3], data: Uint8Array.of(1, 2, 3) };
    const events: MeshEvent[] = [];
    const answer = passOn(replicas, 'stage.infer', ({ uid }) => ({ uid, run: 'r' as never, route: [] }), {
      ask: askerOf(
        a.target.peer,
        () => a.links,
        () => a.handlers,
      ),
      emit: (event) => events.push(event),
      key,
      signal: new AbortController().signal,
      deadlineMs: 15_000,
      tensors: new Map([['x', x]]),
    });
    await started.promise;
    await b.close();
    assert.deepEqual([...((await answer).tensors.get('x')?.data ?? [])], [1, 2, 3]);
    assert.equal(stopped, 1);
    assert.deepEqual(
      events.map(({ kind }) => kind),
      ['hop.replaced'],
    );
  },
);
