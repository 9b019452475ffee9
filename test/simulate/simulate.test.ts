// Whole simulations, small: the same result for the same seed, bounds where they belong, and what networks, churn and settings do.
import assert from 'node:assert/strict';
import test from 'node:test';
import type { NetworkMode, SimulationConfig } from '../../runtime/simulate/config.ts';
import { reachedOf, type Sample, type SystemRun } from '../../runtime/simulate/measure.ts';
import { runsOf, simulate } from '../../runtime/simulate/simulate.ts';
import { systemOf, SYSTEM_NAMES, type SystemSpec } from '../../runtime/simulate/systems.ts';
import { DATA, smallConfig } from './data.ts';

const run = (config: SimulationConfig, system: SystemSpec, seed = 1, network: NetworkMode = 'paper'): SystemRun =>
  simulate(config, { system: systemOf(system), seed, network }, DATA);
const last = ({ samples }: SystemRun): Sample => {
  const sample = samples.at(-1);
  assert.ok(sample);
  return sample;
};

test('the same seed gives the same result to the byte, another seed another one', () => {
  const config = smallConfig({ churn: { onSeconds: 40, offSeconds: 8 } });
  for (const system of ['mpls', 'netmax', 'ad-psgd', 'd-psgd', 'fedavg-oracle'])
    for (const network of ['paper', 'access'] as const) {
      const once = JSON.stringify(run(config, system, 1, network));
      assert.equal(JSON.stringify(run(config, system, 1, network)), once, system);
      assert.notEqual(JSON.stringify(run(config, system, 2, network)), once, system);
    }
});

test('every system runs, learns, and nobody beats the oracle by the clock', () => {
  const config = smallConfig();
  const best = last(run(config, 'fedavg-oracle'));
  assert.ok(best.meanAccuracy > 0.8, `the oracle is right in ${best.meanAccuracy}`);
  for (const name of SYSTEM_NAMES) {
    const result = run(config, name);
    assert.equal(result.samples.length, 7);
    assert.equal(result.samples[0]?.seconds, 0);
    const { meanAccuracy, worstAccuracy, workers } = last(result);
    assert.ok(meanAccuracy >= worstAccuracy && meanAccuracy <= best.meanAccuracy + 0.03, `${name}: ${meanAccuracy}`);
    assert.equal(workers, 8);
    assert.ok(result.downMegabytes.max >= result.downMegabytes.mean && result.idleShare >= 0 && result.idleShare < 1);
    const total = Math.abs(result.upMegabytes.mean - result.downMegabytes.mean);
    assert.ok(total < 1e-3 * Math.max(1, result.upMegabytes.mean), 'what one sends another receives');
  }
});

test('who averages is better than who trains alone, and nearer to the others', () => {
  const config = smallConfig();
  const [alone, together] = [last(run(config, 'local-only')), last(run(config, 'mpls'))];
  assert.ok(together.meanAccuracy > alone.meanAccuracy + 0.05, `${together.meanAccuracy}, ${alone.meanAccuracy}`);
  assert.ok(together.consensus < alone.consensus / 2);
});

test('lines that are shared make rounds longer, the more so the more is pulled', () => {
  const config = smallConfig({ access: { downMbitPerSecond: [20, 20], upMbitPerSecond: [20, 20] } });
  for (const system of ['appg', 'mpls-paper-fill', 'mpls-random']) {
    const [paper, access] = [run(config, system), run(config, system, 1, 'access')];
    assert.ok(access.roundSeconds > paper.roundSeconds, `${system}: ${access.roundSeconds}, ${paper.roundSeconds}`);
  }
  const [aware, blind] = ['mpls', 'mpls-paper-fill'].map((system) => run(config, system, 1, 'access'));
  assert.ok((aware?.roundSeconds ?? 9) < (blind?.roundSeconds ?? 0));
  assert.ok((aware?.roundModels ?? 9) < (blind?.roundModels ?? 0));
});

test('in step, all do the same number of iterations; freely, the quick ones do more', () => {
  const config = smallConfig();
  const spread = (system: SystemSpec): boolean => Number.isInteger(last(run(config, system)).iterations);
  assert.ok(spread('d-psgd') && spread('all-reduce'));
  assert.ok(!spread('mpls'));
});

test('training and collecting side by side is quicker than one after the other', () => {
  const [both, inTurn] = [true, false].map((overlap) => last(run(smallConfig({ overlap }), 'netmax')).iterations);
  assert.ok((both ?? 0) > (inTurn ?? 0), `${both}, ${inTurn}`);
});

test('workers leave and come back: their transfers fail, others go on, and they catch up', () => {
  const config = smallConfig({ churn: { onSeconds: 15, offSeconds: 10 }, seconds: 60 });
  for (const system of ['mpls', 'appg', 'ad-psgd', 'all-reduce']) {
    const result = run(config, system);
    const present = result.samples.map(({ workers }) => workers);
    assert.ok(Math.min(...present) < 8 && Math.max(...present) > Math.min(...present), `${system}: ${present.join()}`);
    assert.ok(result.failedPulls > 0, system);
    const [before, after] = [result.samples[0]?.meanAccuracy ?? 1, last(result).meanAccuracy];
    assert.ok(after > before + 0.05, `${system}: ${before}, then ${after}`);
  }
  const empty = smallConfig({ workers: 2, churn: { onSeconds: 3, offSeconds: 10 }, seconds: 60 });
  for (const system of ['mpls', 'all-reduce'])
    assert.ok(
      run(empty, system).samples.some(({ workers }) => workers === 0),
      'also where nobody is left for a while',
    );
});

test('merges: Eq. 1 as printed counts local steps less; clipping keeps what is near', () => {
  const asPrinted = last(run(smallConfig({ merge: 'average' }), 'appg'));
  assert.ok(asPrinted.meanAccuracy < last(run(smallConfig(), 'appg')).meanAccuracy);
  const clipped = last(run(smallConfig({ clip: 2 }), 'mpls'));
  assert.ok(clipped.meanAccuracy > 0.5);
});

test('progress told exactly leads to about the same as by counters', () => {
  const [exact, counters] = ['exact', 'counters'].map((progress) => last(run(smallConfig({ progress }), 'mpls')));
  assert.ok(Math.abs((exact?.meanAccuracy ?? 0) - (counters?.meanAccuracy ?? 1)) < 0.1);
});

test('what meets no network runs once', () => {
  const config = smallConfig({ seeds: [1, 2], systems: ['mpls', 'local-only', 'fedavg-oracle'] });
  const runs = runsOf(config).map(({ system, network, seed }) => `${system.name} ${network} ${seed}`);
  assert.deepEqual(runs, [
    ...['mpls paper 1', 'local-only paper 1', 'fedavg-oracle paper 1'],
    ...['mpls paper 2', 'local-only paper 2', 'fedavg-oracle paper 2', 'mpls access 1', 'mpls access 2'],
  ]);
});

test('a target is reached between samples', () => {
  const sample = (seconds: number, meanAccuracy: number): Sample => ({
    ...{
      seconds,
      meanAccuracy,
      worstAccuracy: 0,
      megabytes: seconds * 2,
      consensus: 0,
      iterations: seconds,
      workers: 1,
    },
  });
  const [half, most] = reachedOf([0.5, 0.9], [sample(0, 0.1), sample(10, 0.4), sample(20, 0.6), sample(30, 0.55)]);
  assert.deepEqual(half, { accuracy: 0.5, seconds: 15, megabytes: 30, iterations: 15 });
  assert.deepEqual(most, { accuracy: 0.9, seconds: null, megabytes: null, iterations: null });
});
