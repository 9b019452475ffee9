// Schedules of a pipeline: every microbatch once each way at every stage, nothing before what it needs, idle as the theory says, and no
// more kept than each schedule promises.
import assert from 'node:assert/strict';
import test from 'node:test';
import fc from '../support/fast-check.ts';
import { parseRunConfig } from '../../runtime/train/config.ts';
import {
  drivenBy,
  gpipe,
  oneForwardOneBackward,
  simulate,
  theoreticalIdle,
  type PipelineSchedule,
} from '../../runtime/train/pipeline-schedule.ts';
import { withCode } from '../server/stages.ts';

const stages = fc.integer({ min: 1, max: 8 });
const microbatches = fc.integer({ min: 1, max: 20 });
const times = fc.integer({ min: 1, max: 50 });
const SCHEDULES = { gpipe, '1f1b': oneForwardOneBackward };
const equal = (count: number, ms: number): number[] => Array.from({ length: count }, () => ms);

for (const [name, make] of Object.entries(SCHEDULES)) {
  test(`${name}: every microbatch once forward and once backward at every stage, in that order`, () => {
    fc.assert(
      fc.property(stages, microbatches, (S, M) => {
        const schedule = make(S, M);
        assert.equal(schedule.length, S);
        for (const passes of schedule) {
          const names = passes.map(({ kind, microbatch }) => `${kind} ${microbatch}`);
          assert.equal(names.length, 2 * M);
          assert.equal(new Set(names).size, 2 * M);
          for (let m = 0; m < M; m += 1)
            assert.ok(names.includes(`forward ${m}`) && names.indexOf(`forward ${m}`) < names.indexOf(`backward ${m}`));
        }
      }),
    );
  });

  test(`${name}: it never waits for itself, and takes no less than its longest stage`, () => {
    fc.assert(
      fc.property(
        microbatches,
        fc.array(fc.tuple(times, times), { minLength: 1, maxLength: 8 }),
        times,
        (M, perStage, transferMs) => {
          const forwardMs = perStage.map(([ms]) => ms);
          const backwardMs = perStage.map(([, ms]) => ms);
          const { makespanMs, busyMs, idleShare } = simulate(make(perStage.length, M), {
            forwardMs,
            backwardMs,
            transferMs,
          });
          assert.deepEqual(busyMs, perStage.map(([f, b]) => M * (f + b))); // prettier-ignore
          // One microbatch has to go there and back.
          const alone = perStage.reduce((sum, [f, b]) => sum + f + b, 0) + 2 * (perStage.length - 1) * transferMs;
          assert.ok(makespanMs >= Math.max(alone, ...busyMs));
          assert.ok(idleShare >= 0 && idleShare < 1);
        },
      ),
    );
  });

  test(`${name}: with equal stages and no transfers it idles as the theory says`, () => {
    fc.assert(
      fc.property(stages, microbatches, times, times, (S, M, f, b) => {
        const result = simulate(make(S, M), { forwardMs: equal(S, f), backwardMs: equal(S, b), transferMs: 0 });
        assert.ok(Math.abs(result.idleShare - theoreticalIdle(S, M)) < 1e-9, `${result.idleShare}`);
        assert.equal(result.makespanMs, (M + S - 1) * (f + b));
      }),
    );
  });
}

test('gpipe keeps every microbatch, 1f1b at most S − i at stage i', () => {
  fc.assert(
    fc.property(stages, microbatches, (S, M) => {
      const even = { forwardMs: equal(S, 1), backwardMs: equal(S, 2), transferMs: 0 };
      assert.deepEqual(simulate(gpipe(S, M), even).peakKept, equal(S, M));
      const bound = Array.from({ length: S }, (_, i) => Math.min(S - i, M));
      assert.deepEqual(simulate(oneForwardOneBackward(S, M), even).peakKept, bound);
    }),
  );
});

test('a schedule that waits for itself is refused', () => {
  const backwards: PipelineSchedule = [
    [
      { kind: 'backward', microbatch: 0 },
      { kind: 'forward', microbatch: 0 },
    ],
  ];
  assert.throws(() => simulate(backwards, { forwardMs: [1], backwardMs: [1], transferMs: 0 }), RangeError);
});

test('how a run is driven: without a name as configured, gpipe the whole step, 1f1b as many as there are stages', () => {
  assert.deepEqual(drivenBy(undefined, 4, 8, 3), { inflight: 3 });
  assert.deepEqual(drivenBy('gpipe', 4, 8, 3), { inflight: 8, prefer: 'forward' });
  assert.deepEqual(drivenBy('1f1b', 4, 8, 3), { inflight: 5, prefer: 'backward' });
  assert.deepEqual(drivenBy('1f1b', 4, 2, 3), { inflight: 2, prefer: 'backward' });
});

test('a configuration names the schedule and the wire format; gpipe needs steps in common', () => {
  const { pipeline, wire } = parseRunConfig({ pipeline: '1f1b', wire: 'int8', mode: 'async' });
  assert.deepEqual([pipeline, wire], ['1f1b', 'int8']);
  assert.throws(() => parseRunConfig({ pipeline: 'gpipe', mode: 'async' }), withCode('usage'));
  assert.throws(() => parseRunConfig({ wire: 'int4' }), withCode('usage'));
});
