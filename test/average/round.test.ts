// One round as a state machine: until when each pull may take, who is asked instead, and what the answers become.
import assert from 'node:assert/strict';
import test from 'node:test';
import fc from '../support/fast-check.ts';
import { Clipping } from '../../runtime/average/clipping.ts';
import type { Mixing, Plan } from '../../runtime/average/planner.ts';
import { Round, type Arrival, type PullRequest, type RoundOptions, type UnitMix } from '../../runtime/average/round.ts';
import { randomOf } from './inputs.ts';

const UNIFORM: Mixing = { kind: 'uniform' };
const LEAST_MS = 2_000;

const pull = (peer: string, units: number[], etaSeconds = 1): Plan['pulls'][number] => ({ peer, units, etaSeconds });
const roundOf = (plan: Partial<Plan>, more: Partial<RoundOptions> = {}): Round =>
  new Round({
    plan: { pulls: [], mixing: UNIFORM, ...plan },
    squaredNorm: Array<number>(16).fill(1),
    clipping: new Clipping(16, { factor: Infinity }),
    now: 0,
    rttMs: () => 0,
    ...more,
  });
const came = (unit: number, distance = 1, isFinite = true): Arrival => ({
  unit,
  isFinite,
  squaredDistance: distance ** 2,
  squaredNorm: 1,
});
const nobody = (): boolean => false;
const asked = (requests: readonly PullRequest[]): unknown => requests.map(({ peer, units }) => [peer, units]);

test('a pull may take twice what is expected and a round trip, a least time, and patience where nothing is known', () => {
  const round = roundOf(
    { pulls: [pull('a', [0], 3), pull('b', [1], 0.1), pull('c', [2], 0)] },
    { rttMs: (peer) => (peer === 'a' ? 70 : 5), leastMs: LEAST_MS, patienceMs: 9_000 },
  );
  const requests = round.start();
  assert.deepEqual(asked(requests), [['a', [0]], ['b', [1]], ['c', [2]]]); // prettier-ignore
  assert.deepEqual(requests.map(({ deadlineMs }) => deadlineMs), [6_070, LEAST_MS, 9_000]); // prettier-ignore
});

test('what a peer fails to bring is asked of the next best that has not failed, each once', () => {
  const spares = (unit: number): string[] => (unit === 0 ? ['a', 'b', 'c', 'd'] : ['c', 'd', 'b', 'a']);
  const round = roundOf({ pulls: [pull('a', [0, 1, 2], 4), pull('b', [3], 4)], spares });
  const [a, b] = round.start();
  assert.ok(a && b);
  const first = round.failed(a, 100, [came(1)]);
  assert.deepEqual(asked(first), [['b', [0]], ['c', [2]]]); // prettier-ignore
  assert.deepEqual(first.map(({ deadlineMs }) => deadlineMs), [4_000, 4_000]); // prettier-ignore
  const second = first.flatMap((request) => round.failed(request, 200));
  assert.deepEqual(asked(second), [['c', [0]], ['d', [2]]]); // prettier-ignore
  const third = second.flatMap((request) => round.failed(request, 300));
  assert.deepEqual(asked(third), [['d', [0]]]); // prettier-ignore
  assert.deepEqual(third.flatMap((request) => round.failed(request, 400)), []); // prettier-ignore
  assert.deepEqual(asked(round.failed(b, 500)), [], 'all the others have failed by now');
  assert.ok(round.isOver);
});

test('late, nobody is asked instead; without spares neither', () => {
  const spares = (): string[] => ['b'];
  const pulls = [pull('a', [0], 4), pull('c', [1], 2)];
  const late = roundOf({ pulls, spares }, { now: 1_000 });
  const [a, c] = late.start();
  assert.ok(a && c);
  assert.deepEqual(asked(late.failed(a, 1_000 + 4_000 * 1.5)), [['b', [0]]], 'at the last moment'); // prettier-ignore
  assert.deepEqual(late.failed(c, 1_001 + 4_000 * 1.5), []);
  const without = roundOf({ pulls });
  const [only] = without.start();
  assert.ok(only);
  assert.deepEqual(without.failed(only, 1), []);
  const unknown = roundOf({ pulls: [pull('a', [0], 0)], spares }, { patienceMs: 5_000 });
  const [slow] = unknown.start();
  assert.ok(slow);
  assert.deepEqual(asked(unknown.failed(slow, 7_500)), [['b', [0]]], 'patience stands in for what is not known'); // prettier-ignore
});

test('nothing is asked anew that somebody brought or is bringing', () => {
  const round = roundOf({ pulls: [pull('a', [0, 1]), pull('b', [1, 2]), pull('c', [2])], spares: () => ['d'] });
  const [a, b, c] = round.start();
  assert.ok(a && b && c);
  round.arrived(c, [came(2)]);
  assert.deepEqual(asked(round.failed(a, 1)), [['d', [0]]], 'b is bringing unit 1'); // prettier-ignore
  assert.deepEqual(asked(round.failed(b, 2)), [['d', [1]]], 'c has brought unit 2'); // prettier-ignore
});

test('a round is over when nothing is outstanding, and late answers count until then', () => {
  const round = roundOf({ pulls: [pull('a', [0]), pull('b', [0])] });
  const [a, b] = round.start();
  assert.ok(a && b && !round.isOver);
  round.arrived(a, [came(0)]);
  assert.ok(!round.isOver);
  round.arrived(b, [came(0)]);
  assert.ok(round.isOver);
  assert.ok(roundOf({}).isOver, 'one without pulls');
  assert.deepEqual(roundOf({}).mixes(nobody), []);
  assert.deepEqual(round.mixes(nobody), [
    { unit: 0, from: [{ peer: 'a', coefficient: 1 / 3 }, { peer: 'b', coefficient: 1 / 3 }] }, // prettier-ignore
  ]);
});

/** All of a plan's pulls answered with these distances. */
function answered(
  plan: Partial<Plan>,
  distance: (peer: string, unit: number) => number,
  more: Partial<RoundOptions> = {},
): Round {
  // prettier-ignore
  const round = roundOf(plan, more);
  for (const request of round.start())
    round.arrived(request, request.units.map((unit) => came(unit, distance(request.peer, unit)))); // prettier-ignore
  return round;
}

test('weights: what a peer counts stays the same whoever else answers; who is not named counts nothing', () => {
  const mixing: Mixing = { kind: 'weights', of: { a: 0.5, b: 0.25 } };
  const round = answered({ pulls: [pull('a', [0, 1]), pull('b', [1]), pull('c', [1, 2])], mixing }, () => 1);
  assert.deepEqual(round.mixes(nobody), [
    { unit: 0, from: [{ peer: 'a', coefficient: 0.5 }] },
    { unit: 1, from: [{ peer: 'a', coefficient: 0.5 }, { peer: 'b', coefficient: 0.25 }] }, // prettier-ignore
  ]);
});

test('who is left out, and what is not finite, counts in nothing', () => {
  const round = roundOf({ pulls: [pull('a', [0, 1]), pull('b', [0, 1]), pull('c', [0])] });
  const [a, b, c] = round.start();
  assert.ok(a && b && c);
  round.arrived(a, [came(0), came(1)]);
  round.arrived(b, [came(0, 1, false), came(1)]);
  round.arrived(c, [came(0)]);
  assert.deepEqual(round.mixes((peer) => peer === 'a'), [
    { unit: 0, from: [{ peer: 'c', coefficient: 1 / 2 }] },
    { unit: 1, from: [{ peer: 'b', coefficient: 1 / 2 }] },
  ]); // prettier-ignore
  assert.equal(round.arrivals.get(0)?.length, 3, 'what came is there for the judge');
});

test('contributions beyond the radius are drawn in to it; the distances of those that count make the next radius', () => {
  const clipping = new Clipping(16, { factor: 2 });
  const plan = { pulls: [pull('a', [0]), pull('b', [0])] };
  const first = answered(plan, (peer) => (peer === 'a' ? 0.5 : 4), { clipping });
  assert.deepEqual(first.mixes(nobody), [
    { unit: 0, from: [{ peer: 'a', coefficient: 1 / 3 }, { peer: 'b', coefficient: 1 / 3 / 4 }] }, // prettier-ignore
  ]);
  for (let i = 0; i < 9; i += 1) answered(plan, () => 0.1, { clipping }).mixes((peer) => peer === 'b');
  const [mix] = answered(plan, () => 0.8, { clipping }).mixes(nobody);
  assert.deepEqual(mix?.from.map(({ coefficient }) => coefficient.toFixed(6)), ['0.083333', '0.083333'], '0.2 of 0.8, a third each'); // prettier-ignore
});

/** A plan, who answers how, and in which order. */
const scenario = fc.record({
  seed: fc.nat(),
  peers: fc.integer({ min: 1, max: 6 }),
  units: fc.integer({ min: 1, max: 8 }),
  isUniform: fc.boolean(),
});

function play(
  { seed, peers, units, isUniform }: { seed: number; peers: number; units: number; isUniform: boolean },
  order: number,
): { mixes: UnitMix[]; everyAsk: [string, number][]; isOver: boolean } {
  // prettier-ignore
  const random = randomOf(seed);
  const ids = Array.from({ length: peers }, (_, i) => `p${i}`);
  const mixing: Mixing = isUniform
    ? UNIFORM
    : { kind: 'weights', of: Object.fromEntries(ids.map((id) => [id, random() / peers])) };
  const clipping = new Clipping(units, { factor: 2 });
  for (let unit = 0; unit < units; unit += 1)
    for (let i = 0; i < 12; i += 1) clipping.accept(unit, 0.1 + random(), Infinity);
  const pulls = ids.flatMap((id) => {
    const wanted = Array.from({ length: units }, (_, unit) => unit).filter(() => random() < 0.5);
    return wanted.length === 0 ? [] : [pull(id, wanted, 100)];
  });
  const spareOrder = Array.from({ length: units }, () => ids.toSorted(() => random() - 0.5));
  const round = roundOf({ pulls, mixing, spares: (unit) => spareOrder[unit] ?? [] }, { clipping });
  const fails = new Map(ids.map((id) => [id, random() < 0.3]));
  const distances = ids.map(() => Array.from({ length: units }, () => random() * 6));
  const shuffle = randomOf(order);
  const open = round.start();
  const everyAsk: [string, number][] = [];
  const note = (requests: readonly PullRequest[]): void =>
    requests.forEach(({ peer, units: some }) => some.forEach((unit) => everyAsk.push([peer, unit])));
  note(open);
  while (open.length > 0) {
    const [request] = open.splice(Math.floor(shuffle() * open.length), 1);
    if (!request) break;
    const { peer } = request;
    const arrivals = request.units.map((unit) => came(unit, distances[ids.indexOf(peer)]?.[unit]));
    if (fails.get(peer) === true) {
      const instead = round.failed(request, 10);
      note(instead);
      open.push(...instead);
    } else round.arrived(request, arrivals);
  }
  return { mixes: round.mixes(nobody), everyAsk, isOver: round.isOver };
}

test('coefficients sum to no more than 1, nobody is asked twice for a unit, and a round always ends', () => {
  fc.assert(
    fc.property(scenario, fc.nat(), (given, order) => {
      const { mixes, everyAsk, isOver } = play(given, order);
      assert.ok(isOver);
      assert.equal(new Set(everyAsk.map(String)).size, everyAsk.length);
      for (const { unit, from } of mixes) {
        const sum = from.reduce((total, { coefficient }) => total + coefficient, 0);
        assert.ok(sum > 0 && sum <= 1 + 1e-12, `unit ${unit}: ${sum}`);
        assert.ok(from.every(({ coefficient }) => coefficient > 0));
        if (given.isUniform) assert.ok(from.every(({ coefficient }) => coefficient <= 1 / (from.length + 1) + 1e-12));
        assert.equal(new Set(from.map(({ peer }) => peer)).size, from.length, 'each peer once');
      }
      assert.deepEqual(mixes.map(({ unit }) => unit), [...new Set(mixes.map(({ unit }) => unit))].sort((a, b) => a - b)); // prettier-ignore
    }),
    { numRuns: 300 },
  );
});

test('where all answer, the order in which they do changes nothing, to the last bit', () => {
  fc.assert(
    fc.property(fc.nat(), fc.integer({ min: 1, max: 6 }), fc.nat(), fc.nat(), (seed, peers, one, other) => {
      const ids = Array.from({ length: peers }, (_, i) => `p${i}`);
      const random = randomOf(seed);
      const distances = ids.map(() => random() * 5);
      const mixed = (order: number): unknown => {
        const clipping = new Clipping(16, { factor: 2 });
        const shuffle = randomOf(order);
        let mixes: UnitMix[] = [];
        for (let rounds = 0; rounds < 20; rounds += 1) {
          const round = roundOf({ pulls: ids.map((id) => pull(id, [0, 1])) }, { clipping });
          const requests = round.start().toSorted(() => shuffle() - 0.5);
          for (const request of requests)
            round.arrived(request, request.units.map((unit) => came(unit, distances[ids.indexOf(request.peer)]))); // prettier-ignore
          mixes = round.mixes(nobody);
        }
        return mixes;
      };
      assert.deepEqual(mixed(one), mixed(other));
    }),
  );
});
