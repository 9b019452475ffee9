// The parts of the simulator that have nothing to do with time: graphs, draws, layers, the learner, plans alone, comparisons.
import assert from 'node:assert/strict';
import test from 'node:test';
import fc from '../support/fast-check.ts';
import { compare, losses } from '../../runtime/simulate/compare.ts';
import { Draws, expOf } from '../../runtime/simulate/draws.ts';
import { Learner, rowsOf } from '../../runtime/simulate/learner.ts';
import type { SystemRun } from '../../runtime/simulate/measure.ts';
import { unitBytesOf, unitRanges } from '../../runtime/simulate/payload.ts';
import { sharedSeconds, simulatePlans } from '../../runtime/simulate/plans.ts';
import { systemOf } from '../../runtime/simulate/systems.ts';
import { neighboursOf, type Topology } from '../../runtime/simulate/topology.ts';
import { DATA, smallConfig } from './data.ts';

test('graphs are symmetric, connected, without loops', () => {
  const kinds: Topology[] = [
    { kind: 'ring' },
    { kind: 'full' },
    { kind: 'random', chance: 0.3 },
    { kind: 'sparse', degree: 4 },
  ];
  fc.assert(
    fc.property(fc.constantFrom(...kinds), fc.integer({ min: 2, max: 40 }), fc.nat(1000), (topology, workers, seed) => {
      const graph = neighboursOf(topology, workers, seed);
      assert.equal(graph.length, workers);
      for (const [i, others] of graph.entries())
        for (const m of others) assert.ok(m !== i && graph[m]?.includes(i), `${i} and ${m}`);
      const reached = new Set([0]);
      for (const worker of reached) for (const other of graph[worker] ?? []) reached.add(other);
      assert.equal(reached.size, workers);
      if (topology.kind === 'full') assert.ok(graph.every(({ length }) => length === workers - 1));
      if (topology.kind === 'ring' && workers > 2) assert.ok(graph.every(({ length }) => length === 2));
    }),
    { numRuns: 300 },
  );
});

test('draws have the moments that they are to have, and a stream of their own each', () => {
  const draws = new Draws(3, 'links');
  const mean = (of: () => number): number => Array.from({ length: 20_000 }, of).reduce((a, b) => a + b, 0) / 20_000;
  assert.ok(Math.abs(mean(() => draws.exponential(4)) - 4) < 0.15);
  assert.ok(Math.abs(mean(() => draws.normal())) < 0.03);
  assert.ok(Math.abs(mean(() => draws.normal() ** 2) - 1) < 0.05);
  assert.ok(Math.abs(mean(() => draws.between(2, 6)) - 4) < 0.05);
  assert.ok(Math.abs(mean(() => draws.logNormal(0.5)) - Math.exp(0.125)) < 0.03);
  assert.ok(Math.abs(expOf(3) - Math.exp(3)) < 1e-12 * Math.exp(3));
  const first = (seed: number, index: number): number => new Draws(seed, 'links', index).uniform();
  assert.equal(new Set([first(1, 0), first(1, 1), first(2, 0), new Draws(1, 'churn', 0).uniform()]).size, 4);
  assert.equal(first(1, 1), first(1, 1));
});

test('payloads have the sizes of the models that they stand for, and a learner is cut alike', () => {
  const total = (bytes: readonly number[]): number => bytes.reduce((a, b) => a + b, 0);
  const [nin, resnet] = [unitBytesOf('nin', 1000), unitBytesOf('resnet-18', 1000)];
  assert.deepEqual([nin.length, Math.round(total(nin) / 1e4) / 100], [9, 3.87]);
  assert.deepEqual([resnet.length, Math.round(total(resnet) / 1e5) / 10], [21, 44.8]);
  fc.assert(
    fc.property(
      fc.array(fc.integer({ min: 1, max: 1e6 }), { minLength: 1, maxLength: 30 }),
      fc.nat(5000),
      (bytes, more) => {
        const parameters = bytes.length + more;
        const ranges = unitRanges(bytes, parameters);
        assert.equal(ranges[0]?.from, 0);
        assert.equal(ranges.at(-1)?.to, parameters);
        for (const [i, { from, to }] of ranges.entries()) assert.ok(to > from && from === (ranges[i - 1]?.to ?? 0));
      },
    ),
  );
  assert.throws(() => unitRanges([1, 1, 1], 2), /cannot stand for 3 layers/);
});

test('the learner descends along the gradient of its loss', () => {
  const rows = rowsOf(DATA.train, 40, 2);
  const learner = new Learner(rows, 10, smallConfig({ learning: { hidden: 11, learningRate: 1e-3 } }).learning);
  const batch = Uint32Array.from({ length: 40 }, (_, i) => i);
  const weights = learner.initial(1);
  const loss = (of: Float32Array): number => {
    // The step of a tiny learning rate gives the gradient; the loss itself is computed here, plainly.
    const { starts, indices, values, labels, features, shift } = rows;
    let sum = 0;
    for (let row = 0; row < 40; row += 1) {
      const x = new Float64Array(features).fill(shift);
      for (let k = starts[row] ?? 0; k < (starts[row + 1] ?? 0); k += 1) x[indices[k] ?? 0] = shift + (values[k] ?? 0);
      const hidden = Array.from({ length: 11 }, (_, h) =>
        Math.max(
          0,
          x.reduce((total, value, f) => total + value * (of[f * 11 + h] ?? 0), of[features * 11 + h] ?? 0),
        ),
      );
      const at = features * 11 + 11;
      const out = Array.from({ length: 10 }, (_, c) =>
        hidden.reduce((total, value, h) => total + value * (of[at + h * 10 + c] ?? 0), of[at + 110 + c] ?? 0),
      );
      sum += Math.log(out.reduce((total, value) => total + Math.exp(value), 0)) - (out[labels[row] ?? 0] ?? 0);
    }
    return sum / 40;
  };
  const stepped = weights.slice();
  learner.step(stepped, batch);
  for (const at of [0, 57, 180, 16 * 11 + 3, 16 * 11 + 11 + 25, weights.length - 2]) {
    const [up, down] = [weights.slice(), weights.slice()];
    up[at] = (up[at] ?? 0) + 1e-2;
    down[at] = (down[at] ?? 0) - 1e-2;
    const slope = (loss(up) - loss(down)) / ((up[at] ?? 0) - (down[at] ?? 0));
    const moved = ((weights[at] ?? 0) - (stepped[at] ?? 0)) / 1e-3;
    assert.ok(Math.abs(slope - moved) < 2e-3 + 0.02 * Math.abs(slope), `${at}: ${slope}, ${moved}`);
  }
  const before = loss(weights);
  for (let i = 0; i < 50; i += 1) learner.step(stepped, batch);
  assert.ok(loss(stepped) < before);
});

test('images cannot be made smaller by what does not divide their side', () => {
  assert.throws(() => rowsOf(DATA.train, 10, 3), /cannot be made smaller by 3/);
});

test('flows behind one line: the slow links as fast as they are, the others share the rest', () => {
  assert.equal(sharedSeconds([{ bytes: 10, rate: 1 }, { bytes: 10, rate: 100 }], 11), 10); // prettier-ignore
  assert.equal(sharedSeconds([{ bytes: 30, rate: 100 }, { bytes: 10, rate: 100 }], 10), 4); // prettier-ignore
  assert.equal(sharedSeconds([{ bytes: 10, rate: 5 }], Infinity), 2);
  assert.equal(sharedSeconds([], 5), 0);
});

test('plans alone: MPLS takes less time than the others, and a clock tells how many plans a second', () => {
  const config = smallConfig({ workers: 20, topology: { kind: 'random', chance: 0.5 } });
  const of = (system: string, network: 'paper' | 'access' = 'paper') => {
    const figures = simulatePlans(config, { system: systemOf(system), seed: 1, network }, 3);
    assert.ok(figures);
    return figures;
  };
  const own = of('mpls');
  assert.equal(own.plans, 60);
  assert.equal(own.plansPerSecond, null);
  for (const system of ['mpls-random', 'netmax-lite', 'ad-psgd', 'appg'])
    assert.ok(of(system).linkSeconds > own.linkSeconds);
  assert.ok(of('mpls-paper-fill', 'access').accessSeconds > of('mpls', 'access').accessSeconds);
  assert.equal(simulatePlans(config, { system: systemOf('local-only'), seed: 1, network: 'paper' }, 1), null);
  let ms = 0;
  const timed = simulatePlans(config, { system: systemOf('mpls'), seed: 1, network: 'paper' }, 1, () => (ms += 1));
  assert.equal(timed?.plansPerSecond, 1000);
});

test('comparisons: ratios over the seeds that both reached, and what the first system loses', () => {
  const runOf = (
    system: string,
    seed: number,
    seconds: number | null,
    accuracy: number,
    megabytes = 10,
  ): SystemRun => ({
    ...{
      system,
      network: 'paper',
      seed,
      idleShare: 0,
      roundSeconds: 1,
      roundModels: 1,
      plansPerSecond: 1,
      failedPulls: 0,
    },
    targets: [{ accuracy: 0.5, seconds, megabytes: seconds === null ? null : megabytes, iterations: seconds }],
    samples: [
      {
        seconds: 100,
        meanAccuracy: accuracy,
        worstAccuracy: accuracy,
        megabytes,
        consensus: 0,
        iterations: 9,
        workers: 2,
      },
    ],
    ...{ upMegabytes: { mean: 1, max: 2 }, downMegabytes: { mean: 1, max: 2 } },
  });
  const runs = [
    ...[runOf('mpls', 1, 10, 0.8), runOf('mpls', 2, 20, 0.8), runOf('mpls', 3, 20, 0.8)],
    ...[runOf('slow', 1, 20, 0.7, 5), runOf('slow', 2, 30, 0.7, 5), runOf('slow', 3, null, 0.4)],
    ...[runOf('never', 1, null, 0.1), runOf('quick', 1, 5, 0.9)],
  ];
  const all = compare(runs, ['paper']);
  const target = (name: string) => all.find(({ system }) => system === name)?.targets[0];
  assert.equal(target('slow')?.timesAsLong, 1.75);
  assert.equal(target('slow')?.reached, 2);
  assert.equal(target('slow')?.timesTheBytes, 0.5);
  assert.deepEqual([target('never')?.timesAsLong, target('never')?.atLeastTimesAsLong], [null, 5]);
  const text = losses(all, 'mpls', 'paper').join('\n');
  assert.match(text, /mpls is not the first at 50 %: quick needs 0\.50 of its time\./);
  assert.match(text, /less: slow \(0\.50\)/);
  assert.match(text, /not the most accurate at the end \(80\.0 %\); better: quick \(90\.0 %\)/);
});
