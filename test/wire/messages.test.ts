// Messages that this version does not know, or whose bodies are broken: answered with an error, and the link goes on.
import assert from 'node:assert/strict';
import { test, type TestContext } from 'node:test';
import fc from '../support/fast-check.ts';
import { MeshError } from '../../runtime/errors.ts';
import { localPair } from '../../runtime/mesh/local.ts';
import { decodeFrame, encodeFrame } from '../../runtime/wire/frame.ts';
import { messages, type MessageKind } from '../../runtime/wire/messages.ts';
import { Mux } from '../../runtime/wire/mux.ts';
import { Channel, type Handlers } from '../../runtime/wire/channel.ts';
import { A, B, endOf, noise } from '../conformance/channels.ts';

fc.configureGlobal({ seed: 20_260 });
const kinds = Object.keys(messages) as MessageKind[];

/** A channel that answers everything, and a raw asker that may send any envelope body. */
function raw(t: TestContext) {
  const [near, far] = localPair();
  const handlers: Handlers = {};
  for (const kind of kinds) Object.assign(handlers, { [kind]: () => Promise.resolve({ body: {} }) });
  const rejected: string[] = [];
  const closed: MeshError[] = [];
  const channel = new Channel(far, {
    peer: A,
    handlers,
    onClosed: (error) => closed.push(error),
    onRejected: (reason) => rejected.push(reason),
  });
  const answers = new Map<number, (code: string) => void>();
  const mux = new Mux(near, {
    frame: ({ bytes, release }) => {
      const { envelope } = decodeFrame(bytes);
      answers.get(envelope.id)?.(envelope.type === 'error' ? envelope.error.code : envelope.type);
      release();
    },
    closed: () => undefined,
  });
  t.after(() => channel.close('test over'));
  let nextId = 1;
  const ask = async (kind: string, body: unknown): Promise<string> => {
    const id = nextId++;
    const { promise, resolve } = Promise.withResolvers<string>();
    answers.set(id, resolve);
    await mux.send('request', encodeFrame({ type: 'request', id, kind, deadlineMs: 5_000, body }));
    return promise;
  };
  return { ask, rejected, closed };
}

test('unknown kinds and broken bodies are answered, and the link stays', async (t) => {
  const { ask, rejected, closed } = raw(t);
  for (const kind of ['', 'stage.explode', '__proto__', 'constructor', 'toString', 'x'.repeat(64)])
    assert.equal(await ask(kind, {}), 'malformed', kind);
  assert.equal(rejected.length, 0);
  for (const kind of kinds.filter((name) => name !== 'link.probe'))
    for (const body of [null, 7, 'text', [], {}, { uid: 'front' }])
      assert.equal(await ask(kind, body), 'malformed', `${kind} ${JSON.stringify(body)}`);
  assert.equal(await ask('link.probe', JSON.parse('{"__proto__":{"a":1}}')), 'malformed');
  assert.equal(await ask('link.probe', { ['k'.repeat(9_000)]: 1 }), 'malformed', 'an error text of any length');
  assert.equal(await ask('link.probe', {}), 'reply');
  assert.deepEqual(closed, []);
});

test('any JSON as a body of any kind', async (t) => {
  const { ask, closed } = raw(t);
  const uid = fc.constantFrom('front.0.0.0', 'front', '');
  const shaped = fc.record(
    { uid, run: fc.constantFrom('r', '', '*'), step: fc.double(), attempt: fc.integer(), route: fc.jsonValue() },
    { requiredKeys: [] },
  );
  await fc.assert(
    fc.asyncProperty(fc.constantFrom(...kinds), fc.oneof(fc.jsonValue(), shaped), async (kind, body) => {
      assert.match(await ask(kind, body), /^(malformed|reply)$/);
    }),
    { numRuns: 1_000 },
  );
  assert.deepEqual(closed, []);
});

test('what a handler throws arrives as an error of any length, with its code; a bad answer is refused by the asker', async (t) => {
  const [near, far] = localPair();
  const a = endOf(near, B);
  let answer: () => Promise<{ body: never }> = () => Promise.reject(new MeshError('busy', 'x'.repeat(9_000), 'Wait.'));
  const b = endOf(far, A, { handler: () => answer() });
  t.after(() => a.channel.close('test over'));
  const ask = (deadlineMs = 5_000) => a.channel.request('link.probe', {}, { deadlineMs });
  await assert.rejects(ask(), { code: 'busy', message: 'x'.repeat(4_000), fix: 'Wait.' });
  answer = () => Promise.reject(new Error('oops'));
  await assert.rejects(ask(), { code: 'internal', message: 'oops' });
  answer = () => Promise.resolve({ body: { no: 'such field' } as never });
  await assert.rejects(ask(), { code: 'malformed' });
  answer = () => Promise.resolve({ body: 1n as never });
  await assert.rejects(ask(), { code: 'internal' });
  answer = () => Promise.resolve({ body: {} as never });
  await ask(1e12); // more than the wire knows: clamped
  await ask(0.001).catch((cause: unknown) => assert.equal((cause as MeshError).code, 'deadline'));
  await assert.rejects(a.channel.request('link.probe', {}, { deadlineMs: 9, signal: AbortSignal.abort() }), {
    code: 'cancelled',
  });
  const wrong = new Map([['x', { dtype: 'f32' as const, shape: [3], data: noise(4) }]]);
  await assert.rejects(a.channel.request('link.probe', {}, { deadlineMs: 9, tensors: wrong }), { code: 'malformed' });
  assert.deepEqual([a.closed, b.closed], [[], []]);
});

test('bodies of language runs: what may be left out, and what is too much', () => {
  const at = { uid: 'front.0.0.0', run: 'r' };
  const attempt = { step: 1, attempt: 0 };
  const takes = (kind: MessageKind, body: object): boolean => messages[kind].request.safeParse(body).success;
  const replies = (kind: MessageKind, body: object): boolean => messages[kind].reply.safeParse(body).success;
  const apply = { ...at, ...attempt };
  assert.ok(takes('stage.apply', apply) && takes('stage.apply', { ...apply, lr: 0, gradientScale: 0.5 }));
  for (const bad of [{ lr: -1 }, { lr: null }, { gradientScale: 0 }, { gradientScale: Infinity }, { scale: 1 }])
    assert.ok(!takes('stage.apply', { ...apply, ...bad }), JSON.stringify(bad));
  assert.ok(takes('stage.norm', apply) && replies('stage.norm', { squaredNorm: null }));
  assert.ok(!replies('stage.norm', { squaredNorm: -1 }) && !replies('stage.norm', {}));
  assert.ok(takes('stage.tied', apply) && !takes('stage.tie', { ...apply, others: [] }));
  assert.ok(takes('stage.infer', { ...at, route: [] }) && takes('stage.infer', { ...at, route: [], lastOnly: true }));
  assert.ok(replies('stage.infer', {}) && replies('stage.infer', { score: { loss: 1.5, correct: 3, counted: 4 } }));
  assert.ok(!replies('stage.infer', { score: { loss: NaN, correct: 3, counted: 4 } }));
  const key = { run: 'r', trainer: 't', step: 1, microbatch: 0 };
  const forward = { ...at, ...attempt, key, scale: 4096, route: [] };
  assert.ok(takes('stage.forward', forward) && takes('stage.forward', { ...forward, dropout: 4_294_967_295 }));
  assert.ok(!takes('stage.forward', { ...forward, dropout: -1 }));
  const model = { family: 'mlp', sizes: [1, 1] };
  const spec = { model, from: 0, to: 1, seed: 0, optimizer: { name: 'sgd', lr: 1 } };
  const open = { ...at, spec, mode: 'async', accumulate: 1 };
  const rate = { lr: 1, kind: 'cosine', warmup: 5, final: 0.1, steps: 100 };
  assert.ok(takes('stage.open', { ...open, rate, clip: 1, start: 7 }) && !takes('stage.open', { ...open, clip: 0 }));
  assert.ok(!takes('stage.open', { ...open, rate: { ...rate, final: 2 } }));
  const info = { inputShape: [-1], inputDtype: 'i32', outputShape: [-1, 9], maxTokens: 8, isFirst: true, isLast: true, parameters: [], tied: null, parameterBytes: 0 }; // prettier-ignore
  assert.ok(replies('stage.open', { info, step: 0, isNew: true }));
  assert.ok(!replies('stage.open', { info: { ...info, inputShape: [-2] }, step: 0, isNew: true }));
});
