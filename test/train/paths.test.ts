// Pipelines and routes, as properties: how many there are, that each is whole, that whoever is left stands behind the chosen one.
import assert from 'node:assert/strict';
import test from 'node:test';
import fc from '../support/fast-check.ts';
import { pickHops, pipelines, routeOf, type Candidate } from '../../runtime/train/paths.ts';
import { parseUid, peerIdSchema } from '../../runtime/wire/ids.ts';

const peer = peerIdSchema.parse('p'.repeat(43));
const candidate = (stage: number, i: number, samplesPerSecond: number, outstanding = 0): Candidate => ({
  replica: { uid: parseUid(`s${stage}.0.${i}.0`).uid, peer, addresses: [] },
  samplesPerSecond,
  outstanding,
});

const widths = fc.array(fc.integer({ min: 1, max: 4 }), { minLength: 1, maxLength: 4 });
const stages = fc
  .array(
    fc.array(fc.tuple(fc.integer({ min: 0, max: 500 }), fc.integer({ min: 0, max: 8 })), {
      minLength: 1,
      maxLength: 5,
    }),
    { minLength: 1, maxLength: 4 },
  )
  .map((all) => all.map((stage, s) => stage.map(([rate, outstanding], i) => candidate(s, i, rate, outstanding))));

const isWithin = (path: readonly number[], of: readonly number[]): boolean =>
  path.length === of.length && path.every((index, stage) => index >= 0 && index < (of[stage] ?? 0));

test('all: every combination once; 2 × 2 gives 4', () => {
  assert.deepEqual(pipelines('all', [2, 2]), [[0, 0], [0, 1], [1, 0], [1, 1]]); // prettier-ignore
  fc.assert(
    fc.property(widths, (of) => {
      const paths = pipelines('all', of);
      assert.equal(paths.length, of.reduce((a, b) => a * b, 1)); // prettier-ignore
      assert.equal(new Set(paths.map(String)).size, paths.length);
      assert.ok(paths.every((path) => isWithin(path, of)));
    }),
  );
});

test('disjoint: as many as the widest stage has replicas, each replica in its turn', () => {
  fc.assert(
    fc.property(widths, (of) => {
      const paths = pipelines('disjoint', of);
      const widest = Math.max(...of);
      assert.equal(paths.length, widest);
      assert.ok(paths.every((path) => isWithin(path, of)));
      for (const [stage, width] of of.entries()) {
        const uses = Array.from({ length: width }, (_, i) => paths.filter((path) => path[stage] === i).length);
        assert.ok(Math.min(...uses) >= 1, 'each replica is in a pipeline');
        assert.ok(Math.max(...uses) - Math.min(...uses) <= 1, 'and none in many more than another');
        if (width === widest) assert.ok(uses.every((count) => count === 1), 'no two share one of the widest stage'); // prettier-ignore
      }
    }),
  );
});

test('routed: one; and none for any policy while a stage has no replica', () => {
  fc.assert(
    fc.property(widths, fc.nat(), (of, at) => {
      assert.equal(pipelines('routed', of).length, 1);
      const lacking = of.map((width, stage) => (stage === at % of.length ? 0 : width));
      for (const policy of ['all', 'disjoint', 'routed'] as const) assert.deepEqual(pipelines(policy, lacking), []);
    }),
  );
});

test('a route has each active replica once a hop: the chosen one first, then the quickest', () => {
  fc.assert(
    fc.property(stages, fc.array(fc.nat(), { minLength: 4, maxLength: 4 }), (all, picks) => {
      const path = all.map((stage, s) => (picks[s] ?? 0) % stage.length);
      const route = routeOf(all, path);
      assert.equal(route.length, all.length);
      for (const [s, hop] of route.entries()) {
        const stage = all[s] ?? [];
        assert.equal(hop[0], stage[path[s] ?? 0]?.replica);
        assert.deepEqual(new Set(hop), new Set(stage.map(({ replica }) => replica)));
        assert.equal(hop.length, stage.length);
        const rates = hop
          .slice(1)
          .map((replica) => stage.find((one) => one.replica === replica)?.samplesPerSecond ?? 0);
        assert.deepEqual(rates, [...rates].sort((a, b) => b - a)); // prettier-ignore
      }
    }),
  );
});

test('there is no route while a stage has no replica', () => {
  for (const all of [[], [[]], [[candidate(0, 0, 1)], []]])
    assert.throws(() => routeOf(all, [0, 0]), { name: 'MeshError', code: 'no-stage' });
});

test('pickHops takes the replica that is through soonest', () => {
  assert.deepEqual(pickHops([[candidate(0, 0, 100), candidate(0, 1, 300)]]), [1]);
  assert.deepEqual(pickHops([[candidate(0, 0, 100), candidate(0, 1, 300, 3)]]), [0]);
  assert.deepEqual(pickHops([[candidate(0, 0, 0), candidate(0, 1, 0)]]), [0], 'the first where nothing is known');
  assert.deepEqual(pickHops([[candidate(0, 0, 50, 1), candidate(0, 1, 0)]]), [1], 'newcomers get work');
  fc.assert(
    fc.property(stages, (all) => {
      for (const [s, index] of pickHops(all).entries()) {
        const stage = all[s] ?? [];
        const wait = ({ outstanding, samplesPerSecond }: Candidate): number => (outstanding + 1) / samplesPerSecond;
        const picked = stage[index];
        assert.ok(picked);
        if (stage.every((one) => one.samplesPerSecond > 0)) assert.ok(stage.every((one) => wait(picked) <= wait(one)));
      }
    }),
  );
});

test('pickHops shares work out in proportion to throughput', () => {
  const rate = fc.integer({ min: 10, max: 400 });
  fc.assert(
    fc.property(fc.array(rate, { minLength: 2, maxLength: 4 }), (rates) => {
      const stage = rates.map((samplesPerSecond, i) => candidate(0, i, samplesPerSecond));
      const tasks = 200;
      for (let task = 0; task < tasks; task += 1) {
        const chosen = stage[pickHops([stage])[0] ?? -1];
        assert.ok(chosen);
        chosen.outstanding += 1;
      }
      const total = rates.reduce((a, b) => a + b, 0);
      for (const [i, { outstanding }] of stage.entries())
        assert.ok(Math.abs(outstanding - (tasks * (rates[i] ?? 0)) / total) <= rates.length, `${outstanding} of ${rates.join()}`); // prettier-ignore
    }),
  );
});
