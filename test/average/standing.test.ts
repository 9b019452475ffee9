// Who follows whom in low-communication training: of replicas that parted, however exchanges were lost, all are one again soon after.
import assert from 'node:assert/strict';
import test from 'node:test';
import fc from '../support/fast-check.ts';
import { standingAfter, whomToFollow, type Standing } from '../../runtime/average/standing.ts';
import { uidSchema, type Uid } from '../../runtime/wire/ids.ts';
import { randomOf } from './inputs.ts';

const uidOf = (i: number): Uid => uidSchema.parse(`worker.0.${i}.0`);
const [A, B, C, D] = [uidOf(0), uidOf(1), uidOf(2), uidOf(3)];
const of = (...merged: Uid[]): Standing => standingAfter(null, merged);
const whom = (self: Uid, own: Standing | null, others: [Uid, Standing | 'gone-on'][]): Uid[] =>
  whomToFollow(self, own, new Map(others));

test('lineages are the same for equal histories only', () => {
  assert.deepEqual(of(A, B), of(A, B));
  assert.deepEqual(of(A, B).merged, [A, B]);
  const longer = standingAfter(of(A, B), [A, B]);
  assert.notEqual(longer.lineage, of(A, B).lineage);
  assert.notEqual(longer.lineage, standingAfter(of(A), [A, B]).lineage);
});

test('who stands with most stays; who missed what most have follows them', () => {
  const all = of(A, B, C);
  assert.deepEqual(whom(A, all, [[B, all], [C, all]]), []); // prettier-ignore
  assert.deepEqual(whom(A, of(A, C), [[B, all], [C, all]]), [B, C]); // prettier-ignore
  assert.deepEqual(whom(B, all, [[A, of(A, C)], [C, all]]), [], 'that one missed it, not this'); // prettier-ignore
  assert.deepEqual(whom(A, null, []), []);
  assert.deepEqual(whom(A, all, []), []);
});

test('who was left behind follows, however much it has itself', () => {
  assert.deepEqual(whom(C, of(A, B, C), [[A, of(A, B)], [B, of(A, B)]]), [A, B]); // prettier-ignore
  assert.deepEqual(whom(A, of(A, B), [[B, of(A, B)], [C, of(A, B, C)]]), []); // prettier-ignore
  assert.deepEqual(whom(B, of(A, B), [[A, of(A)]]), [A]); // prettier-ignore
  assert.deepEqual(whom(A, of(A), [[B, of(A, B)]]), []); // prettier-ignore
  assert.deepEqual(whom(C, null, [[A, of(A, B)], [B, of(A, B)]]), [A, B], 'one that has exchanged nothing'); // prettier-ignore
});

test('two that lost each other do not change places', () => {
  assert.deepEqual([whom(A, of(A), [[B, of(B)]]), whom(B, of(B), [[A, of(A)]])], [[], [A]]); // prettier-ignore
  const [left, right] = [of(A, B), of(C, D)];
  assert.deepEqual(whom(A, left, [[B, left], [C, right], [D, right]]), []); // prettier-ignore
  assert.deepEqual(whom(D, right, [[A, left], [B, left], [C, right]]), [A, B]); // prettier-ignore
});

test('who took over stands where the other one stood', () => {
  assert.deepEqual(whom(C, of(A, B), [[A, of(A, B)], [B, of(A, B)]]), []); // prettier-ignore
  assert.deepEqual(whom(A, of(A, B), [[B, of(A, B)], [C, of(A, B)]]), []); // prettier-ignore
});

test('where most have gone on they are followed; where one has, and nobody else has all, that one', () => {
  assert.deepEqual(whom(A, of(A), [[B, 'gone-on'], [C, 'gone-on']]), [B, C]); // prettier-ignore
  assert.deepEqual(whom(A, of(A, B), [[B, 'gone-on'], [C, of(B, C)]]), [B]); // prettier-ignore
  assert.deepEqual(whom(A, of(A, C), [[B, 'gone-on'], [C, of(A, C)]]), [], 'one slow one may come back'); // prettier-ignore
});

test('however contributions and takeovers are lost, two exchanges without losses make all one', () => {
  interface Member { uid: Uid; state: string; standing: Standing | null; isBehind: boolean } // prettier-ignore
  const exchange = (members: Member[], isLost: () => boolean): void => {
    const came = members.map((own) => members.filter((other) => other === own || !isLost()));
    const done = members.map((own, i) => {
      const merged = (came[i] ?? []).map(({ uid }) => uid).sort();
      return { state: `${own.state}>${merged.join()}`, standing: standingAfter(own.standing, merged) };
    });
    const changes = members.map((own, i) => {
      const told = (came[i] ?? []).flatMap(({ uid, standing }) => (uid !== own.uid && standing ? [[uid, standing] as const] : [])); // prettier-ignore
      const leading = whomToFollow(own.uid, own.standing, new Map(told));
      const from = leading.length > 0 ? leading : own.isBehind ? members.filter((one) => one !== own).map(({ uid }) => uid) : null; // prettier-ignore
      if (from === null) return { ...done[i], isBehind: false };
      const taken = from.map((uid) => members.findIndex((one) => one.uid === uid)).find(() => !isLost());
      return taken === undefined ? { ...done[i], isBehind: true } : { ...done[taken], isBehind: false };
    });
    changes.forEach((change, i) => Object.assign(members[i] ?? {}, change));
  };
  fc.assert(
    fc.property(
      fc.nat(),
      fc.integer({ min: 2, max: 6 }),
      fc.integer({ min: 1, max: 6 }),
      fc.double({ min: 0, max: 1, noNaN: true }),
      (seed, count, lossy, share) => {
        const random = randomOf(seed);
        const members = Array.from({ length: count }, (_, i): Member => ({ uid: uidOf(i), state: '', standing: null, isBehind: false })); // prettier-ignore
        for (let i = 0; i < lossy; i += 1) exchange(members, () => random() < share);
        for (let i = 0; i < 2; i += 1) exchange(members, () => false);
        assert.equal(new Set(members.map(({ state }) => state)).size, 1, members.map(({ state }) => state).join('\n'));
        const before = members.map(({ isBehind }) => isBehind);
        assert.ok(before.every((isBehind) => !isBehind));
      },
    ),
    { numRuns: 2_000 },
  );
});
