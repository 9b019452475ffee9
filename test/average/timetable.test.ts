// How long iterations take in the whole network, as neighbours tell it: the fresher row wins, old ones go, and nobody can fill it up.
import assert from 'node:assert/strict';
import test from 'node:test';
import fc from '../support/fast-check.ts';
import { Timetable } from '../../runtime/average/timetable.ts';
import { uidSchema, type Uid } from '../../runtime/wire/ids.ts';
import { messages, type Times } from '../../runtime/wire/messages.ts';

const uidOf = (worker: number): Uid => uidSchema.parse(`worker.0.${worker}.0`);
const [a, b, c] = [uidOf(0), uidOf(1), uidOf(2)];
const STALE_MS = 300_000;

const row = (uid: Uid, alone: number, ageMs = 0, peers: [Uid, number][] = []): Times => ({
  uid,
  ageMs,
  alone,
  peers: peers.map(([peer, seconds]) => ({ uid: peer, seconds })),
});
const aloneOf = (table: Timetable, now: number): Record<string, number> =>
  Object.fromEntries(table.told(now).map(({ uid, alone }) => [uid, alone]));

test('the fresher of two rows stays, and its own row nobody else tells', () => {
  const table = new Timetable();
  table.measured(a, 1, new Map([[b, 3]]), 1_000);
  table.learn([row(a, 99), row(b, 2, 500)], a, 1_000);
  assert.deepEqual(aloneOf(table, 1_000), { [a]: 1, [b]: 2 });
  table.learn([row(b, 7, 600)], a, 1_000);
  assert.equal(aloneOf(table, 1_000)[b], 2, 'older');
  table.learn([row(b, 7, 600)], a, 1_200);
  assert.equal(aloneOf(table, 1_200)[b], 7, 'fresher: 600 ms at 1,200');
  table.measured(a, 5, new Map(), 2_000);
  assert.equal(aloneOf(table, 2_000)[a], 5);
});

test('rows age as they are handed on, and go when nobody renews them', () => {
  const table = new Timetable();
  table.learn([row(b, 2, 1_000)], a, 10_000);
  assert.deepEqual(table.told(12_000).map(({ ageMs }) => ageMs), [3_000]); // prettier-ignore
  table.learn([row(c, 2, STALE_MS + 1)], a, 10_000);
  assert.deepEqual(Object.keys(aloneOf(table, 10_000)), [b], 'one that is old already is not learnt');
  assert.deepEqual(table.told(9_000 + STALE_MS + 1), []);
});

test('the view has a row for each that is known, null where there is no link', () => {
  const table = new Timetable();
  table.measured(a, 1, new Map([[b, 3]]), 0);
  table.learn([row(b, 2, 0, [[a, 4], [c, 5]]), row(c, 6, 0, [[b, 7]])], a, 0); // prettier-ignore
  const ids = new Map<string, string>([[a, 'A'], [b, 'B'], [c, 'C']]); // prettier-ignore
  assert.deepEqual(
    table.view((uid) => ids.get(uid), 0.1, 0),
    {
      ids: ['A', 'B', 'C'],
      seconds: [[1, 3, null], [4, 2, 5], [null, 7, 6]], // prettier-ignore
      learningRate: 0.1,
    },
  );
  const without = table.view((uid) => (uid === b ? undefined : ids.get(uid)), 0.1, 0);
  assert.deepEqual(without.seconds, [[1, null], [null, 6]]); // prettier-ignore
});

test('a neighbour that makes workers up fills no memory and displaces nobody', () => {
  const table = new Timetable();
  const self = uidOf(999_999);
  table.learn([row(b, 2)], self, 0);
  for (let i = 0; i < 20; i += 1)
    table.learn(Array.from({ length: 256 }, (_, n) => row(uidOf(1_000 + i * 256 + n), 1)), self, i); // prettier-ignore
  table.measured(self, 9, new Map(), 20);
  const told = table.told(20);
  assert.ok(told.length <= 256, `${told.length} rows`);
  assert.ok(messages['layers.offer'].reply.shape.times.safeParse(told).success);
  assert.deepEqual([aloneOf(table, 20)[b], aloneOf(table, 20)[self]], [2, 9]);
  table.learn([row(b, 3)], self, 30);
  assert.equal(aloneOf(table, 30)[b], 3, 'who is known is still renewed');
  table.learn([row(c, 4)], self, 30 + STALE_MS);
  assert.equal(aloneOf(table, 30 + STALE_MS)[c], 4, 'when they are stale there is room again');
});

test('two that tell each other everything agree', () => {
  const rows = fc.array(
    fc.record({ worker: fc.integer({ min: 2, max: 6 }), alone: fc.nat(100), ageMs: fc.nat(2 * STALE_MS) }),
    { maxLength: 12 },
  );
  fc.assert(
    fc.property(rows, rows, (left, right) => {
      const now = 10 * STALE_MS;
      const tables = [left, right].map((some, i) => {
        const table = new Timetable();
        for (const { worker, alone, ageMs } of some) table.learn([row(uidOf(worker), alone, ageMs)], uidOf(i), now);
        return table;
      });
      const [x, y] = tables;
      assert.ok(x && y);
      const before = x.told(now);
      x.learn(y.told(now), uidOf(0), now);
      y.learn(before, uidOf(1), now);
      const ages = (table: Timetable): unknown => table.told(now).map(({ uid, ageMs }) => [uid, ageMs]);
      assert.deepEqual(ages(x), ages(y));
    }),
  );
});
