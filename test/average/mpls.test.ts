// MPLS against vectors that were computed by hand from the paper's equations, and its promises as properties.
import assert from 'node:assert/strict';
import test from 'node:test';
import fc from '../support/fast-check.ts';
import { usableOf } from '../../runtime/average/planners/common.ts';
import { assign } from '../../runtime/average/planners/mpls-assign.ts';
import { mpls, mplsLayer, progressOf, scoresOf } from '../../runtime/average/planners/mpls.ts';
import { plannerOf } from '../../runtime/average/planners/index.ts';
import type { Plan, PlanInput } from '../../runtime/average/planner.ts';
import { askable, given, inputOf } from './inputs.ts';

const BYTES = [4, 2, 1, 3];
const RATES = [10, 20, 5];
const input = (peers: PlanInput['peers'], more: Partial<PlanInput> = {}): PlanInput => ({
  ...{ self: 'self', peers, unitBytes: BYTES, downlink: Infinity, random: () => 0, round: 1 },
  ...more,
});
const THREE = input([
  { id: 'a', bytesPerSecond: 10, divergence: 0.6, progress: [4, 1, 2, 1], degree: 3 },
  { id: 'b', bytesPerSecond: 20, divergence: 0.2, progress: [2, 3, 1, 1], degree: 3 },
  { id: 'c', bytesPerSecond: 5, divergence: 1.2, progress: [2, 2, 1, 2], degree: 3 },
]);
const HALVES = { tau1: 0.5, tau2: 0.5 };

const near = (actual: readonly number[], wanted: readonly number[]): void => {
  assert.equal(actual.length, wanted.length);
  for (const [i, value] of actual.entries())
    assert.ok(
      value === wanted[i] || Math.abs(value - (wanted[i] ?? NaN)) < 1e-6,
      `${actual.join()} is ${wanted.join()}`,
    );
};
const unitsOf = ({ pulls }: Plan): Record<string, readonly number[]> =>
  Object.fromEntries(pulls.map(({ peer, units }) => [peer, units]));
const bytesOf = (plan: Plan, unitBytes: readonly number[]): number =>
  plan.pulls.flatMap(({ units }) => units).reduce((sum, unit) => sum + (unitBytes[unit] ?? 0), 0);

test('golden vector 1: equations 3 to 9 and Algorithm 1', () => {
  const usable = usableOf(THREE);
  const scores = scoresOf(usable, progressOf(usable, BYTES), THREE, HALVES);
  near(scores.p, [0.292857, 0.335714, 0.371429]);
  near(scores.q[0] ?? [], [0.5, 0.166667, 0.5, 0.25]);
  near(scores.q[1] ?? [], [0.25, 0.5, 0.25, 0.25]);
  near(scores.q[2] ?? [], [0.25, 0.333333, 0.25, 0.5]);
  near(scores.theta, [0.107738, 0.113492, 0.107738, 0.114286]);
  near(scores.mu1[0] ?? [], [0.4, Infinity, 0.1, Infinity]);
  near(scores.mu1[1] ?? [], [Infinity, 0.1, Infinity, Infinity]);
  near(scores.mu1[2] ?? [], [Infinity, 0.4, Infinity, 0.6]);
  const { units, sums, limit, efficiency } = assign(scores, BYTES, RATES, 'paper', Infinity);
  near([efficiency[2]?.[1] ?? 0], [0.25]);
  assert.deepEqual(units.map((row) => row.toSorted()), [[0, 2], [1], [3]]); // prettier-ignore
  near(sums, [0.5, 0.1, 0.6]);
  near([limit], [0.6]);
  const plan = mpls({ fill: 'paper' }).plan(THREE);
  assert.deepEqual(unitsOf(plan), { a: [0, 2], b: [1], c: [3] });
  near(plan.pulls.map(({ etaSeconds }) => etaSeconds), [0.5, 0.1, 0.6]); // prettier-ignore
  assert.equal(bytesOf(plan, BYTES), 10);
  assert.deepEqual(plan.spares?.(1), ['c']);
  assert.deepEqual(plan.spares?.(0), [], 'the others are masked');
});

test('golden vector 2: without a mask, phase 1 gives all to the quickest and phase 2 fills up', () => {
  const third = [0, 1, 2].map(() => BYTES.map(() => 1 / 9));
  const mu1 = RATES.map((rate) => BYTES.map((bytes) => bytes / rate));
  const scores = { p: [], q: [], theta: [], mu2: third, mu1 };
  const bare = assign(scores, BYTES, RATES, 'none', Infinity);
  assert.deepEqual(bare.units.map((row) => row.toSorted()), [[], [0, 1, 2, 3], []]); // prettier-ignore
  near([bare.limit], [0.5]);
  const filled = assign(scores, BYTES, RATES, 'paper', Infinity);
  assert.deepEqual(filled.units.map((row) => row.toSorted()), [[0, 2], [0, 1, 2, 3], [1]]); // prettier-ignore
  near(filled.sums, [0.5, 0.5, 0.4]);
  assert.equal(filled.units.flat().reduce((sum, unit) => sum + (BYTES[unit] ?? 0), 0), 17); // prettier-ignore
});

test('golden vector 3: one peer gives everything, no peer nothing, and nothing to tell them apart is uniform', () => {
  const one = input(THREE.peers.slice(0, 1));
  for (const fill of ['access', 'paper', 'none'] as const)
    assert.deepEqual(unitsOf(mpls({ fill }).plan(one)), { a: [0, 1, 2, 3] });
  assert.deepEqual(mpls().plan(input([])), { pulls: [], mixing: { kind: 'uniform' } });
  const alike = input(THREE.peers.map((peer) => ({ ...peer, divergence: 0, progress: [0, 0, 0, 0] })));
  const usable = usableOf(alike);
  const scores = scoresOf(usable, progressOf(usable, BYTES), alike, { tau1: 0, tau2: 1 });
  near(scores.p, [1 / 3, 1 / 3, 1 / 3]);
  for (const row of scores.q) near(row, BYTES.map(() => 1 / 3)); // prettier-ignore
  assert.ok(scores.mu1.flat().every(Number.isFinite), 'equal scores mask no one');
});

test('equal scores mask no one, however many there are', () => {
  for (let count = 2; count < 60; count += 1) {
    const peers = Array.from({ length: count }, (_, i) => ({
      ...{ id: `p${i}`, bytesPerSecond: 7, divergence: 0.1, progress: [0.3, 0.3, 0.3, 0.3], degree: 1 },
    }));
    const usable = usableOf(input(peers));
    const scores = scoresOf(usable, progressOf(usable, BYTES), input(peers), HALVES);
    assert.ok(scores.mu1.flat().every(Number.isFinite), `${count} peers`);
  }
});

test('an unknown bandwidth is the median of the known, and its pull has no estimate', () => {
  const [a, b, c] = THREE.peers;
  if (!a || !b || !c) return assert.fail();
  const peers = [a, b, c, { ...a, id: 'd', bytesPerSecond: null }];
  assert.deepEqual(usableOf(input(peers)).rates, [10, 20, 5, 10]);
  const unknown = peers.map((peer) => ({ ...peer, bytesPerSecond: null }));
  assert.deepEqual(usableOf(input(unknown)).rates, [1, 1, 1, 1]);
  const plan = mpls().plan(input(unknown));
  assert.ok(plan.pulls.length > 0 && plan.pulls.every(({ etaSeconds }) => etaSeconds === 0));
});

test('a peer that overstates its progress counts three times the median of the others', () => {
  const liar = input(
    THREE.peers.map((peer) => (peer.id === 'c' ? { ...peer, progress: [1e12, 1e12, 1e12, 1e12] } : peer)),
  );
  const usable = usableOf(liar);
  near(progressOf(usable, BYTES)[2] ?? [], [9, 6, 4.5, 3]);
  const alone = input(THREE.peers.map((peer) => (peer.id === 'c' ? peer : { ...peer, progress: [0, 0, 0, 0] })));
  near(progressOf(usableOf(alone), BYTES)[2] ?? [], [2, 2, 1, 2]);
  // Among many honest peers it gets some of the pulls, and by far not all.
  const crowd = Array.from({ length: 14 }, (_, i) => ({
    ...{ id: `p${i}`, bytesPerSecond: 10 + i, divergence: 0.5 + (i % 5) / 10, degree: 14 },
    progress: BYTES.map((_, unit) => (i === 3 ? 1e12 : 1 + ((i * 7 + unit * 3) % 11))),
  }));
  const plan = mpls({ fill: 'none' }).plan(input(crowd));
  assert.ok((unitsOf(plan).p3 ?? []).length < BYTES.length, JSON.stringify(plan.pulls));
});

test('mpls-layer takes the largest movement, whatever the link', () => {
  assert.deepEqual(unitsOf(mplsLayer().plan(THREE)), { a: [0, 2], b: [1], c: [3] });
  const even = input(THREE.peers.map((peer) => ({ ...peer, progress: [] })));
  assert.deepEqual(unitsOf(mplsLayer().plan(even)), { c: [0, 1, 2, 3] }, 'ties go to the most different data');
});

test('phase 2 keeps every peer below the longest pull of phase 1', () => {
  fc.assert(
    fc.property(given({ least: 1, isSane: true }), (one) => {
      const whole = { ...inputOf(one), downlink: Infinity };
      const known = {
        ...whole,
        peers: whole.peers.map((peer) => ({ ...peer, bytesPerSecond: peer.bytesPerSecond ?? 1 })),
      };
      const longest = Math.max(
        ...mpls({ fill: 'none' })
          .plan(known)
          .pulls.map(({ etaSeconds }) => etaSeconds),
      );
      const filled = mpls({ fill: 'paper' }).plan(known);
      for (const { etaSeconds } of filled.pulls) assert.ok(etaSeconds <= longest * (1 + 1e-9) + 1e-9);
    }),
    { numRuns: 2000 },
  );
});

test('phase 2 behind a downlink takes no longer than phase 1 needs there', () => {
  const downlinks = fc.double({ min: 0.01, max: 5000, noNaN: true });
  fc.assert(
    fc.property(given({ least: 1, isSane: true }), downlinks, (one, downlink) => {
      const whole = { ...inputOf(one), downlink };
      const known = {
        ...whole,
        peers: whole.peers.map((peer) => ({ ...peer, bytesPerSecond: peer.bytesPerSecond ?? 1 })),
      };
      const seconds = (plan: Plan): number =>
        Math.max(bytesOf(plan, known.unitBytes) / downlink, ...plan.pulls.map(({ etaSeconds }) => etaSeconds));
      const bare = mpls({ fill: 'none' }).plan(known);
      const filled = mpls({ fill: 'access' }).plan(known);
      assert.ok(seconds(filled) <= seconds(bare) * (1 + 1e-9) + 1e-9);
      const rateOf = ({ pulls }: Plan): number =>
        pulls.reduce((sum, { peer }) => sum + (known.peers.find(({ id }) => id === peer)?.bytesPerSecond ?? 0), 0);
      assert.ok(rateOf(filled) <= Math.max(downlink * (1 + 1e-9), rateOf(bare)), 'the links in use fit into the line');
    }),
    { numRuns: 2000 },
  );
});

test('each unit comes from a peer that may serve it, and its spares are others that may', () => {
  fc.assert(
    fc.property(given({ least: 1 }), fc.constantFrom('mpls', 'mpls-peer'), (one, name) => {
      const plan = plannerOf({ name }).plan(inputOf(one));
      const able = new Set(askable(one.input).map(({ id }) => id));
      const asked = unitsOf(plan);
      for (const unit of one.input.unitBytes.keys()) {
        const spares = plan.spares?.(unit) ?? [];
        assert.equal(new Set(spares).size, spares.length);
        for (const id of spares) assert.ok(able.has(id) && !(asked[id] ?? []).includes(unit));
      }
    }),
    { numRuns: 1000 },
  );
});
