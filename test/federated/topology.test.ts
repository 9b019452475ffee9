// Who is whose neighbour: symmetric, without oneself, the same on every worker, and in one piece.
import assert from 'node:assert/strict';
import test from 'node:test';
import fc from '../support/fast-check.ts';
import { neighbours, topologySchema, type Topology } from '../../runtime/federated/topology.ts';

const workers = fc.integer({ min: 1, max: 24 });
const topologies: fc.Arbitrary<Topology> = fc.oneof(
  fc.constantFrom<Topology>('ring', 'full'),
  fc.double({ min: 0, max: 1, noNaN: true }).map((random) => ({ random })),
);

/** How many can be reached from the first. */
function reached(lists: readonly number[][]): number {
  const seen = new Set([0]);
  for (const worker of seen) for (const next of lists[worker] ?? []) seen.add(next);
  return seen.size;
}

test('neighbourhood is mutual, ascending, without oneself, and leads from everyone to everyone', () => {
  fc.assert(
    fc.property(topologies, workers, fc.nat(), (topology, count, seed) => {
      const lists = neighbours(topology, count, seed);
      assert.equal(lists.length, count);
      for (const [worker, list] of lists.entries()) {
        assert.deepEqual(list, [...new Set(list)].sort((a, b) => a - b)); // prettier-ignore
        assert.ok(!list.includes(worker) && list.every((other) => other >= 0 && other < count));
        for (const other of list) assert.ok(lists[other]?.includes(worker));
      }
      assert.equal(reached(lists), count);
      assert.deepEqual(neighbours(topology, count, seed), lists, 'the same everywhere');
    }),
  );
});

test('ring and full', () => {
  assert.deepEqual(neighbours('ring', 4, 0), [[1, 3], [0, 2], [1, 3], [0, 2]]); // prettier-ignore
  assert.deepEqual([neighbours('ring', 1, 0), neighbours('ring', 2, 0), neighbours('full', 1, 0)], [[[]], [[1], [0]], [[]]]); // prettier-ignore
  assert.deepEqual(neighbours('full', 3, 0), [[1, 2], [0, 2], [0, 1]]); // prettier-ignore
});

test('random: as many edges as the probability says, others for another seed, a tree where it is 0', () => {
  const edges = (lists: readonly number[][]): number => lists.reduce((sum, list) => sum + list.length, 0) / 2;
  const counts = Array.from({ length: 40 }, (_, seed) => edges(neighbours({ random: 0.4 }, 30, seed)));
  const mean = counts.reduce((a, b) => a + b, 0) / counts.length;
  assert.ok(Math.abs(mean - 0.4 * 435) < 8, `${mean} edges`);
  assert.notDeepEqual(neighbours({ random: 0.4 }, 30, 1), neighbours({ random: 0.4 }, 30, 2));
  assert.equal(edges(neighbours({ random: 0 }, 12, 3)), 11);
  assert.deepEqual(neighbours({ random: 1 }, 5, 3), neighbours('full', 5, 0));
});

test('a list of edges is taken as it stands', () => {
  assert.deepEqual(neighbours({ edges: [[2, 0], [0, 2], [2, 3]] }, 4, 0), [[2], [], [0, 3], [2]]); // prettier-ignore
  for (const edge of [[0, 4], [4, 0], [1, 1]] as [number, number][]) // prettier-ignore
    assert.throws(() => neighbours({ edges: [edge] }, 4, 0), { code: 'usage', message: /joins no two of 4 workers/, fix: /0 to 3/ }); // prettier-ignore
});

test('what a configuration may say', () => {
  for (const good of ['ring', 'full', { random: 0 }, { random: 1 }, { edges: [[0, 1]] }])
    assert.ok(topologySchema.safeParse(good).success, JSON.stringify(good));
  for (const bad of [
    'star',
    { random: -0.1 },
    { random: 1.1 },
    { random: 0.5, seed: 1 },
    { edges: [] },
    { edges: [[0]] },
    { edges: [[0, 1, 2]] },
    { edges: [[-1, 0]] },
    { edges: [[0.5, 1]] },
    {},
    null,
  ])
    // prettier-ignore
    assert.ok(!topologySchema.safeParse(bad).success, JSON.stringify(bad));
});
