// What a stage remembers of its run: each microbatch at most once whatever is asked in whatever order; and the meter's figures.
import assert from 'node:assert/strict';
import test from 'node:test';
import fc from '../support/fast-check.ts';
import { MeshError } from '../../runtime/errors.ts';
import { Meter } from '../../runtime/server/meter.ts';
import { StageRun } from '../../runtime/server/stage-run.ts';
import { firstSpec, peerId, RUN, withCode } from './stages.ts';

const info = { inputShape: [1], inputDtype: 'f32' as const, outputShape: [1], maxTokens: 0, tied: null, isFirst: true, isLast: false, parameters: [], parameterBytes: 0 }; // prettier-ignore
const make = (mode: 'sync' | 'async' = 'sync'): StageRun =>
  new StageRun({ run: RUN, spec: firstSpec, mode, accumulate: 1, owner: peerId('c'), handle: 1, info, step: 0 });

type Ask = { kind: 'enter' | 'claim' | 'unclaim' | 'advance' | 'freeze'; m: number; step: number; attempt: number };
const asks: fc.Arbitrary<Ask[]> = fc.array(
  fc.record({
    kind: fc.constantFrom('enter', 'enter', 'claim', 'claim', 'claim', 'unclaim', 'advance', 'freeze'),
    m: fc.integer({ min: 0, max: 3 }),
    step: fc.integer({ min: 0, max: 2 }),
    attempt: fc.integer({ min: 0, max: 2 }),
  }),
  { maxLength: 60 },
);

test('sync: a claim succeeds only for the step and attempt that it is at, and once in each', () => {
  fc.assert(
    fc.property(asks, (all) => {
      const run = make();
      let held = new Set<number>();
      let isFrozen = false;
      for (const { kind, m, step, attempt } of all) {
        const isCurrent = step === run.step && attempt === run.attempt;
        const isNewer = step === run.step && attempt > run.attempt;
        if (kind === 'enter' && !isCurrent && !isNewer)
          assert.throws(() => run.enter(step, attempt), withCode('stale'));
        else if (kind === 'enter') {
          assert.equal(run.enter(step, attempt), isNewer);
          if (isNewer) [held, isFrozen] = [new Set(), false];
          assert.equal(run.attempt, attempt);
        } else if (kind === 'claim' && (!isCurrent || isFrozen))
          assert.throws(() => run.claim(String(m), step, attempt), withCode('stale'));
        else if (kind === 'claim') {
          assert.equal(run.claim(String(m), step, attempt), !held.has(m));
          held.add(m);
        } else if (kind === 'unclaim') {
          run.unclaim(String(m), step, attempt);
          if (isCurrent) held.delete(m);
        } else if (kind === 'freeze') {
          run.isSealed = true;
          isFrozen = true;
        } else {
          const before = run.step;
          assert.equal(run.advance(1.5), held.size);
          assert.deepEqual([run.step, run.attempt, run.lastGradientNorm, run.isReduced], [before + 1, 0, 1.5, false]);
          [held, isFrozen] = [new Set(), false];
        }
        run.expectHeld(run.step, run.attempt, [...held]);
      }
    }),
  );
});

test('sync: what is held must be exactly what the plan says, in any order', () => {
  const run = make();
  for (const m of ['10', '9', '2']) run.claim(m, 0, 0);
  run.expectHeld(0, 0, [2, 10, 9]);
  for (const wrong of [[2, 9], [2, 9, 11], [2, 9, 10, 11], [2, 9, 9], []])
    // prettier-ignore
    assert.throws(
      () => run.expectHeld(0, 0, wrong),
      (error) => error instanceof MeshError && error.code === 'conflict' && error.message.includes('[2, 9, 10]'),
    );
  assert.throws(() => run.expectHeld(0, 1, [2, 9, 10]), withCode('stale'));
  run.jump(5);
  assert.equal(run.step, 5);
  run.expectHeld(5, 0, []);
});

test('async: a key counts once for ever, at whatever step', () => {
  const run = make('async');
  fc.assert(
    fc.property(fc.uniqueArray(fc.uuid(), { maxLength: 20 }), fc.nat(9), (keys, step) => {
      for (const key of keys) assert.equal(run.claim(key, step, 0), true);
      for (const key of keys) assert.equal(run.claim(key, step + 1, 3), false);
      assert.equal(run.enter(step, 7), false);
    }),
  );
});

test('the meter: totals, a rate that follows, nothing from windows too short to measure', () => {
  let now = 0;
  const meter = new Meter(() => now);
  assert.deepEqual([meter.rate, meter.samples, meter.loss], [0, 0, null]);
  meter.count(100, 2);
  now = 100;
  assert.equal(meter.sample(), 0, 'too soon');
  now = 1_000;
  assert.equal(meter.sample(), 100);
  meter.count(300, 1);
  now = 2_000;
  assert.ok(Math.abs(meter.sample() - (100 * 0.6 + 300 * 0.4)) < 1e-9);
  assert.equal(meter.rate, 180);
  assert.equal(meter.samples, 400);
  assert.ok(Math.abs((meter.loss ?? 0) - (2 * 0.9 + 1 * 0.1)) < 1e-9);
  for (let i = 0; i < 60; i += 1) {
    now += 1_000;
    meter.sample();
  }
  assert.equal(meter.rate, 0, 'idle in the end');
});

test('the meter settles on a steady rate, whatever it is', () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 5_000 }), fc.integer({ min: 200, max: 3_000 }), (rows, windowMs) => {
      let now = 0;
      const meter = new Meter(() => now);
      for (let i = 0; i < 30; i += 1) {
        meter.count(rows, 1);
        now += windowMs;
        meter.sample();
      }
      const steady = (rows * 1_000) / windowMs;
      assert.ok(Math.abs(meter.rate - steady) <= 1e-6 * steady, `${meter.rate}, not ${steady}`);
    }),
  );
});
