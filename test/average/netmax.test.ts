// NetMax: the properties of its policy that the paper's constraints promise, and who is pulled from.
import assert from 'node:assert/strict';
import test from 'node:test';
import fc from '../support/fast-check.ts';
import { mixingMatrix } from '../../runtime/average/planners/netmax-mixing.ts';
import {
  boundedPolicy,
  optimisePolicy,
  symmetricLinks,
  tiltedPolicy,
} from '../../runtime/average/planners/netmax-policy.ts';
import { netmax, netmaxLite } from '../../runtime/average/planners/netmax.ts';
import type { NetworkView, PlanInput } from '../../runtime/average/planner.ts';
import { networks, randomOf } from './inputs.ts';

const sum = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0);

test('the policy: rows sum to one, only links are used, nothing counts above ½, never worse than uniform', () => {
  fc.assert(
    fc.property(networks(20), (network) => {
      const { p, weight, convergenceSeconds } = optimisePolicy(network);
      const seconds = symmetricLinks(network);
      assert.ok(Number.isFinite(convergenceSeconds));
      assert.ok(convergenceSeconds <= tiltedPolicy(network.ids, seconds, 0).convergenceSeconds);
      assert.ok(convergenceSeconds <= (boundedPolicy(network)?.convergenceSeconds ?? Infinity));
      for (const [i, row] of p.entries()) {
        assert.ok(Math.abs(sum(row) - 1) < 1e-9);
        for (const [m, chance] of row.entries()) {
          assert.ok(chance >= 0);
          if (seconds[i]?.[m] === null) assert.equal(chance, 0);
          assert.ok((weight[i]?.[m] ?? 0) <= 0.5 + 1e-12);
        }
      }
    }),
    { numRuns: 300 },
  );
});

test("the paper's optimum: lower bounds kept, all take the same time, and Y is doubly stochastic", () => {
  let found = 0;
  fc.assert(
    fc.property(networks(4), (network) => {
      const policy = boundedPolicy(network);
      if (policy === null) return;
      found += 1;
      const { p, weight, rho } = policy;
      const seconds = symmetricLinks(network);
      const least = 2 * (rho ?? NaN) * network.learningRate;
      const times = p.map((row, i) => sum(row.map((chance, m) => chance * (seconds[i]?.[m] ?? 0))));
      for (const [i, row] of p.entries()) {
        assert.ok(Math.abs(sum(row) - 1) < 1e-9);
        assert.ok(Math.abs((times[i] ?? 0) / (times[0] ?? 1) - 1) < 1e-6, 'all take the same time');
        for (const [m, chance] of row.entries())
          if (m !== i && chance > 0) assert.ok(chance >= least - 1e-12, `${chance} is not below ${least}`);
      }
      const y = mixingMatrix(p, weight);
      for (const [i, row] of y.entries()) {
        assert.ok(Math.abs(sum(row) - 1) < 1e-9);
        for (const [m, value] of row.entries())
          assert.ok(value >= -1e-12 && Math.abs(value - (y[m]?.[i] ?? NaN)) < 1e-12);
      }
    }),
    { numRuns: 400 },
  );
  assert.ok(found > 100, `${found} networks have one`);
});

/** Two clusters of two, ten times slower between them. */
const CLUSTERS: NetworkView = {
  ids: ['a', 'b', 'c', 'd'],
  seconds: [
    [1, 1, 10, 10],
    [1, 1, 10, 10],
    [10, 10, 1, 1],
    [10, 10, 1, 1],
  ],
  learningRate: 0.01,
};
const inputFor = (more: Partial<PlanInput>, seed = 1): PlanInput => ({
  ...{ self: 'a', unitBytes: [3, 1], downlink: Infinity, random: randomOf(seed), round: 0 },
  peers: ['b', 'c', 'd'].map((id, i) => ({ id, bytesPerSecond: 5 + i, divergence: 0, progress: [], degree: 3 })),
  ...more,
});

test('a link that is far slower than the others is left out while the graph stays connected', () => {
  const slow = CLUSTERS.seconds.map((row, i) => row.map((_, m) => (i === m ? 1 : i + m === 1 ? 500 : 2)));
  const policy = boundedPolicy({ ...CLUSTERS, seconds: slow });
  assert.ok(policy !== null && policy.p[0]?.[1] === 0 && (policy.p[0]?.[2] ?? 0) > 0);
  const line = [[1, 500, null], [500, 1, 2], [null, 2, 1]]; // prettier-ignore
  const { p } = optimisePolicy({ ids: ['a', 'b', 'c'], seconds: line, learningRate: 0.1 });
  assert.ok((p[0]?.[1] ?? 0) > 0, 'the only way to it stays');
});

test('pulls follow the policy, with its weights; whoever is not in the network is not asked', () => {
  const policy = optimisePolicy(CLUSTERS);
  const planner = netmax();
  const random = randomOf(5);
  const counts: Record<string, number> = { none: 0, b: 0, c: 0, d: 0 };
  const draws = 4000;
  const odd = { id: 'z', bytesPerSecond: 1e9, divergence: 0, progress: [], degree: 1 };
  const input = inputFor({ network: CLUSTERS, random });
  for (let i = 0; i < draws; i += 1) {
    const { pulls, mixing } = planner.plan({ ...input, peers: [...input.peers, odd] });
    const peer = pulls[0]?.peer ?? 'none';
    counts[peer] = (counts[peer] ?? 0) + 1;
    const at = CLUSTERS.ids.indexOf(peer);
    if (mixing.kind === 'weights') assert.equal(mixing.of[peer], policy.weight[0]?.[at]);
  }
  const wanted = { none: policy.p[0]?.[0], b: policy.p[0]?.[1], c: policy.p[0]?.[2], d: policy.p[0]?.[3] };
  for (const [peer, chance = 0] of Object.entries(wanted))
    assert.ok(Math.abs((counts[peer] ?? 0) / draws - chance) < 0.03, `${peer}: ${counts[peer]} of ${draws}, ${chance}`);
  assert.equal(counts.z, undefined);
});

test('without a view of the network, or of this worker in it, every neighbour is as likely, and counts half', () => {
  const blank: NetworkView = { ids: ['a', 'b'], seconds: [[null, null], [null, 1]], learningRate: 1 }; // prettier-ignore
  for (const network of [undefined, blank, { ...CLUSTERS, ids: ['w', 'x', 'y', 'z'] }]) {
    const seen = new Map<string, number>();
    const random = randomOf(3);
    for (let i = 0; i < 3000; i += 1) {
      const plan = netmax().plan(inputFor({ random, ...(network ? { network } : {}) }));
      const [pull] = plan.pulls;
      assert.ok(pull && plan.pulls.length === 1);
      assert.deepEqual(pull.units, [0, 1]);
      assert.ok(plan.mixing.kind === 'weights' && plan.mixing.of[pull.peer] === 0.5);
      seen.set(pull.peer, (seen.get(pull.peer) ?? 0) + 1);
    }
    for (const id of ['b', 'c', 'd']) assert.ok(Math.abs((seen.get(id) ?? 0) - 1000) < 120, `${id}: ${seen.get(id)}`);
  }
});

test('a policy is kept while the network is about the same, and made anew when it is not', () => {
  const planner = netmax();
  const slower = (factor: number): NetworkView => ({
    ...CLUSTERS,
    seconds: CLUSTERS.seconds.map((row, i) => row.map((time, m) => (i === 0 && m === 1 ? (time ?? 1) * factor : time))),
  });
  const chosen = (network: NetworkView): string =>
    Array.from({ length: 40 }, (_, seed) => planner.plan(inputFor({ network }, seed * 7919)).pulls[0]?.peer ?? '').join(
      '',
    );
  const before = chosen(CLUSTERS);
  assert.equal(chosen(slower(1.05)), before);
  assert.notEqual(chosen(slower(30)), before);
});

test('netmax-lite: the quickest link, half of what comes, the next quickest as spares', () => {
  const plan = netmaxLite().plan(inputFor({}));
  assert.deepEqual(plan.pulls, [{ peer: 'd', units: [0, 1], etaSeconds: 4 / 7 }]);
  assert.deepEqual(plan.spares?.(0), ['c', 'b']);
  assert.ok(plan.mixing.kind === 'weights' && plan.mixing.of.d === 0.5);
});
