// When low-communication training exchanges what, and with whom: found alike by every replica from its own count of steps.
import assert from 'node:assert/strict';
import test from 'node:test';
import fc from '../support/fast-check.ts';
import { outerSpecSchema } from '../../runtime/average-spec.ts';
import {
  dueAfter,
  lastExchanges,
  nextExchange,
  outerPlan,
  partnerOf,
  type OuterPlan,
} from '../../runtime/average/outer-schedule.ts';
import { paddedTo } from '../../runtime/layer-store.ts';
import type { Unit } from '../../runtime/model/units.ts';

const unitsOf = (counts: readonly number[]): Unit[] =>
  counts.map((count, i) => ({ name: `u${i}`, ranges: [{ name: 'w', start: 0, count }], count }));
const specOf = (kind: string, more: object = {}): Parameters<typeof outerPlan>[0] =>
  outerSpecSchema.parse({ kind, steps: 10, ...more });

const plans = fc
  .record({
    units: fc.integer({ min: 1, max: 20 }),
    kind: fc.constantFrom('diloco', 'streaming-diloco', 'noloco'),
    steps: fc.integer({ min: 1, max: 40 }),
    fragments: fc.integer({ min: 1, max: 30 }),
  })
  .map(({ units, kind, steps, fragments }) => {
    const more = kind === 'streaming-diloco' ? { steps, fragments } : { steps };
    return outerPlan(specOf(kind, more), unitsOf(Array<number>(units).fill(64)), 2 ** 30);
  });
const stepsOf = (most: number): number[] => Array.from({ length: most }, (_, i) => i + 1);
const groupOf = (plan: OuterPlan, round: number): number => round % plan.groups.length;

test('every unit is in one group, and no group of several is larger than allowed', () => {
  fc.assert(
    fc.property(
      fc.array(fc.integer({ min: 1, max: 5_000 }), { minLength: 1, maxLength: 64 }),
      fc.integer({ min: 1, max: 8 }),
      fc.integer({ min: 4_096, max: 200_000 }),
      (counts, fragments, mostBytes) => {
        for (const spec of [specOf('diloco'), specOf('streaming-diloco', { fragments })]) {
          const { groups } = outerPlan(spec, unitsOf(counts), mostBytes);
          assert.deepEqual(groups.flat().sort((a, b) => a - b), counts.map((_, unit) => unit)); // prettier-ignore
          for (const group of groups) {
            const bytes = group.reduce((sum, unit) => sum + paddedTo(counts[unit] ?? 0) * 4, 0);
            assert.ok(group.length === 1 || bytes <= mostBytes, `${group.length} units of ${bytes} bytes`);
          }
        }
      },
    ),
  );
});

test('fragments are as many as wanted where there are units enough, and strided', () => {
  const units = unitsOf(Array<number>(10).fill(64));
  assert.deepEqual(outerPlan(specOf('streaming-diloco', { fragments: 3 }), units, 2 ** 30), {
    groups: [[0, 3, 6, 9], [1, 4, 7], [2, 5, 8]], // prettier-ignore
    steps: 10,
    isSpread: true,
  });
  assert.equal(outerPlan(specOf('streaming-diloco', { fragments: 99 }), units, 2 ** 30).groups.length, 10);
  assert.deepEqual(outerPlan(specOf('diloco'), units, 2 ** 30).groups.length, 1);
});

test('exchanges come in order, and each group exactly once in any `steps` steps', () => {
  fc.assert(
    fc.property(plans, fc.integer({ min: 0, max: 30 }), (plan, offset) => {
      const { steps, groups, isSpread } = plan;
      const rounds = stepsOf(3 * steps + offset).flatMap((taken) => dueAfter(plan, taken));
      assert.deepEqual(rounds, rounds.map((_, i) => i), 'none left out, none twice'); // prettier-ignore
      const within = stepsOf(steps).flatMap((i) => dueAfter(plan, offset + i));
      if (isSpread || offset % steps === 0)
        assert.deepEqual(
          within.map((round) => groupOf(plan, round)).sort((a, b) => a - b),
          groups.map((_, group) => group),
        );
      if (!isSpread) for (const taken of stepsOf(2 * steps)) assert.equal(dueAfter(plan, taken).length > 0, taken % steps === 0); // prettier-ignore
    }),
  );
  assert.deepEqual(dueAfter(outerPlan(specOf('diloco'), unitsOf([64]), 2 ** 30), 0), []);
});

test('what follows a group’s exchange is due when it is said to be', () => {
  fc.assert(
    fc.property(plans, (plan) => {
      const all = stepsOf(4 * plan.steps).flatMap((taken) => dueAfter(plan, taken).map((round) => ({ round, taken })));
      for (const { round, taken } of all) {
        const group = groupOf(plan, round);
        const last = round < plan.groups.length ? -1 : round - plan.groups.length;
        assert.deepEqual(nextExchange(plan, group, last), { round, due: taken });
      }
    }),
  );
});

test('after the last step each group is exchanged once more, but for those that just were', () => {
  fc.assert(
    fc.property(plans, fc.integer({ min: 1, max: 100 }), (plan, taken) => {
      const done = stepsOf(taken).flatMap((step) => dueAfter(plan, step));
      const just = new Set(dueAfter(plan, taken).map((round) => groupOf(plan, round)));
      const last = lastExchanges(plan, taken);
      for (const round of last) {
        const before = done.filter((one) => groupOf(plan, one) === groupOf(plan, round)).at(-1) ?? -1;
        assert.equal(nextExchange(plan, groupOf(plan, round), before).round, round, 'it is the next of its group');
      }
      const groups = [...just, ...last.map((round) => groupOf(plan, round))].sort((a, b) => a - b);
      assert.deepEqual(groups, plan.groups.map((_, group) => group)); // prettier-ignore
    }),
  );
});

test('pairs are a matching, found alike by all, with one left alone of an odd number', () => {
  const ids = fc.uniqueArray(fc.stringMatching(/^[a-z]{1,4}$/), { minLength: 1, maxLength: 12 });
  fc.assert(
    fc.property(ids, fc.nat(), fc.nat(1e6), (all, seed, round) => {
      const partners = new Map(all.map((id, i) => [id, partnerOf(id, [...all.slice(i), ...all.slice(0, i)].filter((other) => other !== id), seed, round)])); // prettier-ignore
      const alone = [...partners].filter(([, partner]) => partner === null);
      assert.equal(alone.length, all.length % 2);
      for (const [id, partner] of partners) {
        assert.notEqual(partner, id);
        if (partner !== null) assert.equal(partners.get(partner), id);
      }
    }),
  );
});

test('who pairs with whom changes from exchange to exchange, and everyone meets everyone', () => {
  const all = ['a', 'b', 'c', 'd', 'e', 'f'];
  const met = new Set(Array.from({ length: 60 }, (_, round) => partnerOf('a', all.slice(1), 7, round)));
  assert.deepEqual([...met].sort(), all.slice(1));
});
