// What a replica shows to others, without a device: whom it answers with what, whom it lets wait, and how much it keeps.
import assert from 'node:assert/strict';
import test from 'node:test';
import { batched, PULL_BYTES, Shelf, wireBytes } from '../../runtime/average/shelf.ts';
import { standingAfter } from '../../runtime/average/standing.ts';
import type { Compute, ParameterInfo } from '../../runtime/compute.ts';
import { MeshError } from '../../runtime/errors.ts';
import type { Snapshot } from '../../runtime/layer-store.ts';
import { f32Of, f32Tensor, type Tensors } from '../../runtime/tensor.ts';
import type { Answer, Context } from '../../runtime/wire/channel.ts';
import { uidSchema } from '../../runtime/wire/ids.ts';
import type { Request } from '../../runtime/wire/messages.ts';
import { peerId, RUN } from '../server/stages.ts';

const UID = uidSchema.parse('worker.0.0.0');
const PARAMETERS: ParameterInfo[] = [
  { name: 'a.weight', shape: [8, 16] },
  { name: 'b.weight', shape: [4, 16] },
];

/** A compute worker that shows its version as every value. */
class Showing {
  version = 0;
  snapshots = 0;
  /** Held back until told. */
  gate: Promise<void> = Promise.resolve();
  readonly served: unknown[] = [];
  readonly compute = {
    snapshot: async (): Promise<Snapshot> => {
      this.snapshots += 1;
      const version = (this.version += 1);
      await this.gate;
      return { version, squaredNorm: [1, 1], progress: [version, version] };
    },
    serve: async (_: number, request: { kind: string; units: readonly number[] }) => {
      this.served.push(request);
      await Promise.resolve();
      return { version: this.version, progress: request.units.map(() => this.version), tensors: dataOf(this.version) };
    },
  } as unknown as Compute;
}

const dataOf = (value: number, count = 64): Tensors => {
  const values = new Float32Array(count);
  values[0] = value;
  return new Map([['data', f32Tensor([count], values)]]);
};
const valueOf = ({ tensors }: Answer<'layers.pull'>): number => {
  const data = tensors?.get('data');
  return data ? (f32Of(data)[0] ?? NaN) : NaN;
};

function shelfOf(parameters = PARAMETERS, unitBytes?: number): { shelf: Shelf; showing: Showing } {
  const showing = new Showing();
  const options = { labels: [1], degree: () => 2, isDone: () => false, steps: () => 7, times: () => [] };
  return { shelf: new Shelf({ compute: showing.compute, handle: 0, parameters, unitBytes, ...options }), showing };
}
const contextOf = (letter = 'b', signal = new AbortController().signal): Context => ({
  ...{ peer: peerId(letter), transport: 'local', signal, deadlineMs: 1_000 },
  idle: (work) => work(),
});
const pull = (shelf: Shelf, more: Partial<Request<'layers.pull'>> = {}, context = contextOf()): Promise<Answer<'layers.pull'>> => // prettier-ignore
  shelf.pull({ uid: UID, run: RUN, digest: shelf.digest, kind: 'weights', units: [0, 1], format: 'f32', ...more }, new Map(), context); // prettier-ignore
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
const withCode = (code: string) => (error: unknown) => error instanceof MeshError && error.code === code;

test('an offer tells what is shown; the first to ask has it shown, once', async () => {
  const { shelf, showing } = shelfOf();
  const gate = Promise.withResolvers<void>();
  showing.gate = gate.promise;
  const asks = [shelf.offer({ uid: UID, run: RUN, digest: shelf.digest }), shelf.offer({ uid: UID, run: RUN, digest: shelf.digest }), pull(shelf)] as const; // prettier-ignore
  gate.resolve();
  const [first, second] = await Promise.all(asks);
  assert.equal(showing.snapshots, 1);
  assert.deepEqual(first, second);
  assert.deepEqual(first.body, { version: 1, steps: 7, round: 0, progress: [1, 1], labels: [1], degree: 2, isDone: false, times: [] }); // prettier-ignore
  await shelf.snapshot();
  assert.equal((await shelf.offer({ uid: UID, run: RUN, digest: shelf.digest })).body.version, 2);
});

test('an offer never goes back to an older snapshot that came in late', async () => {
  const { shelf, showing } = shelfOf();
  const gate = Promise.withResolvers<void>();
  showing.gate = gate.promise;
  const older = shelf.snapshot();
  showing.gate = Promise.resolve();
  await shelf.snapshot();
  gate.resolve();
  await older;
  assert.equal(shelf.latest?.version, 2);
});

test('other units, and too many at once, are refused', async () => {
  const { shelf } = shelfOf();
  await assert.rejects(pull(shelf, { digest: '0badf00d' }), withCode('stage-shapes'));
  await assert.rejects(shelf.offer({ uid: UID, run: RUN, digest: '' }), withCode('stage-shapes'));
  assert.notEqual(shelfOf(PARAMETERS, 64).shelf.digest, shelf.digest);
  const large = shelfOf([{ name: 'w', shape: [40, 2 ** 18] }], 2 ** 20).shelf;
  assert.equal(large.units.length, 40);
  const every = large.units.map((_, unit) => unit);
  await assert.rejects(pull(large, { units: every }), withCode('too-large'));
  const batches = batched(every, large.units);
  assert.deepEqual(batches.flat(), every);
  for (const units of batches) await pull(large, { units });
  assert.equal(batches.length, 2);
  const whole = shelfOf([{ name: 'w', shape: [1, PULL_BYTES] }], 64).shelf;
  await pull(whole, { units: [0] });
});

test('a pull of a round waits for it, and ends with its signal or the stage', async () => {
  const { shelf } = shelfOf();
  let answer: unknown = null;
  const waiting = pull(shelf, { round: 1 }).then((found) => (answer = found));
  await shelf.snapshot(undefined, 0);
  await turn();
  assert.equal(answer, null);
  await shelf.snapshot(undefined, 1);
  assert.equal((await waiting).body.round, 1);
  const stop = new AbortController();
  const given = pull(shelf, { round: 9 }, contextOf('b', stop.signal));
  stop.abort(new MeshError('cancelled', 'Enough.', 'Nothing to do.'));
  await assert.rejects(given, withCode('cancelled'));
  const closed = [pull(shelf, { round: 9 }), pull(shelf, { kind: 'outer', round: 9 }), pull(shelf, { kind: 'momentum', round: 9 })]; // prettier-ignore
  const outcomes = Promise.allSettled(closed);
  shelf.close('the stage was closed');
  for (const outcome of await outcomes) assert.ok(outcome.status === 'rejected' && withCode('closed')(outcome.reason));
});

test('a round is given when every neighbour has had every unit of it, and of no older one', async () => {
  const { shelf } = shelfOf();
  await shelf.snapshot(undefined, 4);
  const peers = [peerId('b'), peerId('c')];
  let isGiven = false;
  const given = shelf.untilGiven(peers, new AbortController().signal).then(() => (isGiven = true));
  await pull(shelf, { round: 4 });
  await pull(shelf, { round: 3 }, contextOf('c'));
  await pull(shelf, { round: 3 }, contextOf('c'));
  await pull(shelf, {}, contextOf('c'));
  await pull(shelf, { round: 4, units: [1] }, contextOf('c'));
  await turn();
  assert.ok(!isGiven);
  await pull(shelf, { round: 4, units: [0] }, contextOf('c'));
  await given;
});

test('who asks for a later round needs nothing more of this one', async () => {
  const { shelf } = shelfOf();
  await shelf.snapshot(undefined, 4);
  assert.ok(!shelf.isGiven(peerId('b')));
  const stop = new AbortController();
  const later = pull(shelf, { round: 5 }, contextOf('b', stop.signal));
  await shelf.untilGiven([peerId('b')], AbortSignal.timeout(1_000));
  stop.abort(new MeshError('cancelled', 'Enough.', 'Nothing to do.'));
  await assert.rejects(later, withCode('cancelled'));
  await shelf.snapshot(undefined, 5);
  assert.ok(!shelf.isGiven(peerId('b')));
});

const exchange = (value: number, more: object = {}): Parameters<Shelf['show']>[1] => ({
  ...{ units: [0, 1], format: 'int8', before: standingAfter(null, [UID]) },
  tensors: new Map([['outer', dataOf(value)], ['slow', dataOf(-value)]]), // prettier-ignore
  ...more,
});

test('an exchange is waited for, and given as often as it is asked for', async () => {
  const { shelf, showing } = shelfOf();
  const waiting = pull(shelf, { kind: 'outer', round: 2, format: 'int8' });
  shelf.show(2, exchange(5));
  const first = await waiting;
  assert.deepEqual([valueOf(first), first.body.round, first.body.before?.merged], [5, 2, [UID]]);
  const sent = first.tensors?.get('data')?.data.buffer;
  structuredClone(sent, { transfer: sent ? [sent] : [] }); // as a worker that receives it takes it away
  assert.equal(valueOf(await pull(shelf, { kind: 'outer', round: 2, format: 'int8' })), 5);
  assert.equal(valueOf(await pull(shelf, { kind: 'slow', round: 2, format: 'f16' })), -5);
  assert.deepEqual(showing.served, [], 'nothing of it is asked of the compute worker');
});

test('an exchange that is over is stale; one in another format, or of other units, does not fit', async () => {
  const { shelf } = shelfOf();
  shelf.show(0, exchange(1));
  const others: Partial<Request<'layers.pull'>>[] = [{ format: 'int4' }, { units: [0] }, { kind: 'slow', units: [1, 0] }]; // prettier-ignore
  for (const more of others)
    await assert.rejects(pull(shelf, { kind: 'outer', round: 0, format: 'int8', ...more }), withCode('stage-shapes'));
  shelf.show(1, exchange(2, { tensors: new Map([['outer', dataOf(2)]]) }));
  await assert.rejects(pull(shelf, { kind: 'slow', round: 1, format: 'f16' }), withCode('stale'), 'no pair');
  for (let round = 2; round < 66; round += 1) shelf.show(round, exchange(round));
  await assert.rejects(pull(shelf, { kind: 'outer', round: 1, format: 'int8' }), withCode('stale'));
  assert.equal(valueOf(await pull(shelf, { kind: 'outer', round: 2, format: 'int8' })), 2);
  assert.equal(valueOf(await pull(shelf, { kind: 'outer', round: 65, format: 'int8' })), 65);
});

test('of large exchanges fewer are kept, and always the newest', async () => {
  const { shelf } = shelfOf();
  const large = (value: number, mebibytes: number): ReturnType<typeof exchange> =>
    exchange(value, { tensors: new Map([['outer', dataOf(value, (mebibytes * 2 ** 20) / 4)]]) });
  for (let round = 0; round < 6; round += 1) shelf.show(round, large(round, 100));
  const kept = async (): Promise<number[]> => {
    const found: number[] = [];
    for (let round = 0; round < 8; round += 1) {
      const stop = AbortSignal.timeout(20);
      const answer = await pull(shelf, { kind: 'outer', round, format: 'int8' }, contextOf('b', stop)).catch(() => null); // prettier-ignore
      if (answer) found.push(valueOf(answer));
    }
    return found;
  };
  assert.deepEqual(await kept(), [4, 5]);
  shelf.show(6, large(6, 300));
  assert.deepEqual(await kept(), [6]);
});

test('slow weights tell how many exchanges are in them and what made them; momentum is waited for', async () => {
  const { shelf } = shelfOf();
  assert.equal(shelf.lastExchange(1), -1);
  const standing = standingAfter(null, [UID]);
  shelf.exchanged([1], 4, standing);
  const slow = await pull(shelf, { kind: 'slow', units: [1] });
  assert.deepEqual([slow.body.round, slow.body.before], [5, standing]);
  assert.deepEqual((await pull(shelf, { kind: 'slow', units: [0] })).body.before, undefined);
  let isThere = false;
  const waiting = pull(shelf, { kind: 'momentum', units: [1], round: 5 }).then(() => (isThere = true));
  await pull(shelf, { kind: 'momentum', units: [1], round: 4 });
  await turn();
  assert.ok(!isThere);
  shelf.exchanged([1], 5, standing);
  await waiting;
  assert.equal((await shelf.offer({ uid: UID, run: RUN, digest: shelf.digest })).body.round, 6);
});

test('a unit takes on the wire what its encoding takes, of whole blocks of 64 values', () => {
  const bytes = (count: number): number[] => (['f32', 'f16', 'int8', 'int4'] as const).map((format) => wireBytes(format, count)); // prettier-ignore
  assert.deepEqual([bytes(1), bytes(64), bytes(65)], [[256, 128, 68, 36], [256, 128, 68, 36], [512, 256, 136, 72]]); // prettier-ignore
});
