// What a round tells about peers: each offence is found, with the numbers; what honest peers do is none, whatever they draw.
import assert from 'node:assert/strict';
import test from 'node:test';
import fc from '../support/fast-check.ts';
import { Clipping } from '../../runtime/average/clipping.ts';
import { Judge, type Claim, type Told } from '../../runtime/average/judge.ts';
import type { Arrival } from '../../runtime/average/round.ts';
import type { Verdict } from '../../runtime/average/trust.ts';
import { Population } from './population.ts';

const UNITS = 2;
const OWN = [4, 9];
const PATH = [0, 0];

const claim = (more: Partial<Claim> = {}): Claim => ({
  peer: 'a',
  version: 1,
  progress: [0, 0],
  labels: [0.25, 0.75],
  ...more,
});
const make = (classes = 2): { judge: Judge; clipping: Clipping } => {
  const clipping = new Clipping(UNITS, { factor: 2 });
  return { judge: new Judge({ units: UNITS, clipping, classes }), clipping };
};

/** What an honest copy close by looks like. */
const near = (unit: number, more: Partial<Arrival> = {}): Arrival => ({
  unit,
  isFinite: true,
  squaredDistance: 0.01,
  squaredNorm: OWN[unit] ?? 0,
  ...more,
});

type Came = ReadonlyMap<number, readonly (Arrival & { peer: string })[]>;
const came = (...all: (Arrival & { peer: string })[]): Came => Map.groupBy(all, ({ unit }) => unit);
const from = (peer: string, ...all: Arrival[]): (Arrival & { peer: string })[] => all.map((one) => ({ ...one, peer }));
const told = (peer: string, version: number, progress: readonly number[]): Map<string, Told> =>
  new Map(progress.map((sum, unit) => [`${peer} ${unit}`, { version, progress: sum }]));

const only = (verdicts: readonly Verdict[], offence: Verdict['offence'], detail: RegExp, peer = 'a'): void => {
  assert.deepEqual(
    verdicts.map((verdict) => [verdict.peer, verdict.offence]),
    [[peer, offence]],
  );
  assert.match(verdicts[0]?.detail ?? '', detail);
};

test('a first contact is only looked at for what it must be', () => {
  const { judge } = make();
  assert.deepEqual(judge.claims([claim({ version: 900, progress: [1e9, 1e9] })]), []);
  assert.deepEqual(judge.arrivals(came(...from('stranger', near(0), near(1))), OWN, PATH), []);
  only(make().judge.claims([claim({ progress: [0] })]), 'malformed', /counts 1 units, not 2/);
  only(make().judge.claims([claim({ labels: [1] })]), 'labels', /1 shares of 2 labels/);
  only(make().judge.claims([claim({ labels: [0.5, 0.9] })]), 'labels', /add up to 1\.4/);
  assert.deepEqual(make(0).judge.claims([claim({ labels: [] })]), [], 'text has no classes');
});

test('label shares stay those that were told at first', () => {
  const { judge } = make();
  judge.claims([claim()]);
  assert.deepEqual(judge.claims([claim({ version: 2, labels: [0.2505, 0.7495] })]), []);
  for (const version of [3, 4])
    only(judge.claims([claim({ version, labels: [0.75, 0.25] })]), 'labels', /not those that it told at first/);
});

test('NaN, weights that point the other way, weights far away', () => {
  const { judge, clipping } = make();
  only(
    judge.arrivals(came(...from('a', near(0), near(1, { isFinite: false }))), OWN, PATH),
    'not-finite',
    /unit 1 holds NaN/,
  );
  const opposite = (unit: number): Arrival => near(unit, { squaredDistance: 4 * (OWN[unit] ?? 0) });
  only(judge.arrivals(came(...from('a', opposite(0), opposite(1))), OWN, PATH), 'reversed', /cosine -1\.000/);
  const huge = near(0, { squaredDistance: 4e12, squaredNorm: 4e12 });
  const others = [...from('b', near(0)), ...from('c', near(0))];
  only(judge.arrivals(came(...from('a', huge), ...others), OWN, PATH), 'too-far', /unit 0 is .* times as far/);
  for (let i = 0; i < 10; i += 1) clipping.accept(0, 0.1, Infinity);
  const off = near(0, { squaredDistance: 9, squaredNorm: 13 });
  only(judge.arrivals(came(...from('a', off), ...others), OWN, PATH), 'too-far', /unit 0 is 30\.0 times as far/);
  const leap = near(0, { squaredDistance: 3.9 });
  assert.deepEqual(judge.arrivals(came(...from('a', leap), ...others), OWN, PATH), [], 'within its own size');
});

test('where most seem far away nobody is to blame; what is certain is told all the same', () => {
  const { judge } = make();
  const huge = near(0, { squaredDistance: 4e12, squaredNorm: 4e12 });
  const [a, b, c] = ['a', 'b', 'c'].map((peer) => from(peer, huge));
  const good = from('c', near(0));
  assert.ok(a && b && c);
  assert.deepEqual(judge.arrivals(came(...a, ...b, ...good), OWN, PATH), []);
  assert.deepEqual(judge.arrivals(came(...a), OWN, PATH), [], 'one alone is the majority');
  only(judge.arrivals(came(...a, ...good), OWN, PATH), 'too-far', /unit 0/);
  const broken = from('c', near(0, { isFinite: false }));
  only(judge.arrivals(came(...a, ...b, ...broken), OWN, PATH), 'not-finite', /unit 0/, 'c');
});

test('a unit of nothing but zeros tells nothing about how far is far', () => {
  const { judge } = make();
  const started = near(0, { squaredDistance: 1, squaredNorm: 1 });
  assert.deepEqual(judge.arrivals(came(...from('a', started), ...from('b', near(1)), ...from('c', near(1))), [0, 9], PATH), []); // prettier-ignore
});

test('the same weights under new versions and growing counters are frozen; those of one that is done are not', () => {
  const { judge } = make();
  judge.claims([claim()]);
  const weights = came(...from('a', near(0), near(1)));
  assert.deepEqual(judge.arrivals(weights, OWN, PATH, told('a', 1, [1, 1])), []);
  only(judge.arrivals(weights, OWN, PATH, told('a', 2, [2, 2])), 'frozen', /version 2 is the same as version 1/);
  assert.deepEqual(judge.arrivals(weights, OWN, PATH, told('a', 2, [3, 3])), [], 'the same version is no new one');

  const done = make().judge;
  done.claims([claim()]);
  for (let version = 1; version < 50; version += 1)
    assert.deepEqual(done.arrivals(weights, OWN, PATH, told('a', version, [7, 7])), []);
  const drifting = make().judge;
  drifting.claims([claim()]);
  for (let version = 1; version < 50; version += 1) {
    const moved = near(1, { squaredNorm: 9 + version * 1e-9 });
    const map = came(...from('a', near(0), moved));
    assert.deepEqual(drifting.arrivals(map, OWN, PATH, told('a', version, [version, version])), [], 'one unit moves');
  }
});

test('counters that lie in offers only are seen when the weights come; that it begins anew is an offence once', () => {
  const { judge } = make();
  judge.claims([claim({ progress: [1e6, 1e6] })]);
  const weights = came(...from('a', near(0), near(1)));
  only(judge.arrivals(weights, OWN, PATH, told('a', 1, [3, 3])), 'progress', /unit 0 came with a count of 3, after one of 1000000/); // prettier-ignore
  assert.deepEqual(judge.claims([claim({ version: 2, progress: [4, 4] })]), []);
  only(judge.claims([claim({ version: 3, progress: [5, 3] })]), 'progress', /unit 1 went back from 4 to 3/);
  only(judge.claims([claim({ version: 1, progress: [6, 6] })]), 'progress', /version went back from 3 to 1/);
  assert.deepEqual(judge.claims([claim({ version: 2, progress: [7, 7] })]), []);
  judge.claims([claim({ version: 3, progress: [1e6, 1e6] })]);
  only(judge.arrivals(weights, OWN, PATH, told('a', 3, [8, 8])), 'progress', /unit 0 came/);
  judge.claims([claim({ version: 4, progress: [1e6, 1e6] })]);
  only(judge.arrivals(weights, OWN, PATH, told('a', 4, [9, 9])), 'progress', /unit 0 came/);
});

test('counters that lie with the weights too claim more than these allow', () => {
  const { judge } = make();
  judge.claims([claim()]);
  const weights = came(...from('a', near(0), near(1)));
  assert.deepEqual(judge.arrivals(weights, OWN, PATH, told('a', 1, [0, 0])), []);
  const moved = came(...from('a', near(0, { squaredNorm: 4.001 }), near(1, { squaredNorm: 9.001 })));
  only(judge.arrivals(moved, OWN, PATH, told('a', 2, [500, 500])), 'progress', /unit 0 claims to have moved by 500, at most \d/); // prettier-ignore
  const back = came(...from('a', near(0), near(1)));
  assert.deepEqual(judge.arrivals(back, OWN, PATH, told('a', 4, [510, 510])), [], 'from there on it is plausible');
});

test('who is forgotten is a first contact again', () => {
  const { judge } = make();
  judge.claims([claim({ version: 9, progress: [5, 5] })]);
  judge.forget('a');
  assert.deepEqual(judge.claims([claim({ version: 1, labels: [1, 0] })]), []);
});

test('honest workers are never struck, whatever their speed, their data and their luck', () => {
  fc.assert(
    fc.property(
      fc.record({
        seed: fc.nat(1e6),
        workers: fc.integer({ min: 2, max: 7 }),
        rate: fc.constantFrom(0.001, 0.01, 0.05, 0.2),
        noise: fc.constantFrom(1e-4, 1e-3, 1e-2, 5e-2),
        apart: fc.constantFrom(0, 0.1, 0.3, 0.6),
        rare: fc.integer({ min: 0, max: 1 }),
        slow: fc.integer({ min: 0, max: 20 }),
        /** From this round on the first worker has done its training, and goes on merging. */
        idleFrom: fc.integer({ min: 0, max: 120 }),
      }),
      ({ slow, idleFrom, ...options }) => {
        const steps = (worker: number, round: number): number =>
          worker === 0 && round >= idleFrom ? 0 : worker === 1 ? 1 + slow : (round + worker) % 3;
        const population = new Population({ ...options, units: 3, size: 20, steps });
        for (let round = 0; round < 100; round += 1)
          for (let worker = 0; worker < options.workers; worker += 1)
            assert.deepEqual(population.turn(worker, round), [], `worker ${worker}, round ${round}`);
      },
    ),
    { numRuns: 60 },
  );
});

test('one that lies about its counters is struck by each of the others within eight rounds', () => {
  const population = new Population({
    ...{ seed: 3, workers: 5, units: 3, size: 20, rate: 0.05, noise: 0.01, apart: 0.3 },
    steps: () => 2,
  });
  const seen = new Map<number, number>();
  for (let round = 0; round < 12; round += 1)
    for (let worker = 0; worker < 5; worker += 1) {
      const verdicts = population.turn(worker, round, (peer, _, honest) =>
        peer === 'p4' ? { ...honest, progress: honest.progress + 1e4 * (round + 1) ** 2 } : honest,
      );
      if (worker === 4) continue;
      for (const { peer, offence } of verdicts) {
        assert.deepEqual([peer, offence], ['p4', 'progress']);
        if (!seen.has(worker)) seen.set(worker, round);
      }
    }
  assert.deepEqual([...seen.keys()].sort(), [0, 1, 2, 3]);
  assert.ok([...seen.values()].every((round) => round < 8), [...seen.values()].join(', ')); // prettier-ignore
});
