// The schedule, as properties: an epoch is each row once, a step never more than a batch, and the figures told beforehand are true.
import assert from 'node:assert/strict';
import test from 'node:test';
import fc from '../support/fast-check.ts';
import { epochOrder } from '../../runtime/train/data.ts';
import { makeSchedule, type Schedule } from '../../runtime/train/schedule.ts';

const shape = fc.record({
  rows: fc.integer({ min: 1, max: 300 }),
  batch: fc.integer({ min: 1, max: 80 }),
  microbatch: fc.integer({ min: 1, max: 40 }),
  epochs: fc.integer({ min: 1, max: 3 }),
  seed: fc.nat(),
});
const make = (of: {
  rows: number;
  batch: number;
  microbatch: number;
  epochs: number;
  seed: number;
  maxSteps?: number;
}): Schedule =>
  // prettier-ignore
  makeSchedule({ ...of, order: (epoch) => epochOrder(of.rows, of.seed, epoch) });

test('each epoch has each row exactly once, in steps of a batch and a ragged last one', () => {
  fc.assert(
    fc.property(shape, (of) => {
      const schedule = make(of);
      assert.equal(schedule.stepsPerEpoch, Math.ceil(of.rows / of.batch));
      assert.equal(schedule.steps, schedule.stepsPerEpoch * of.epochs);
      for (let epoch = 0; epoch < of.epochs; epoch += 1) {
        const rows: number[] = [];
        for (let i = 0; i < schedule.stepsPerEpoch; i += 1) {
          const tasks = schedule.at(epoch * schedule.stepsPerEpoch + i);
          const ofStep = tasks.flatMap((task) => [...task.rows]);
          const isLast = i === schedule.stepsPerEpoch - 1;
          assert.equal(ofStep.length, isLast ? of.rows - i * of.batch : of.batch);
          assert.equal(schedule.rowsAt(epoch * schedule.stepsPerEpoch + i), ofStep.length);
          for (const [m, task] of tasks.entries()) {
            assert.deepEqual([task.microbatch, task.epoch, task.batchRows], [m, epoch, ofStep.length]);
            assert.ok(task.rows.length === of.microbatch || m === tasks.length - 1);
            assert.ok(task.rows.length >= 1 && task.rows.length <= of.microbatch);
          }
          rows.push(...ofStep);
        }
        assert.deepEqual(rows, [...epochOrder(of.rows, of.seed, epoch)]);
        assert.equal(new Set(rows).size, of.rows);
      }
    }),
    { numRuns: 60 },
  );
});

test('microbatches and samples told beforehand are those that come, also where maxSteps cuts an epoch short', () => {
  fc.assert(
    fc.property(shape, fc.integer({ min: 1, max: 40 }), (of, maxSteps) => {
      const schedule = make({ ...of, maxSteps });
      const tasks = Array.from({ length: schedule.steps }, (_, step) => schedule.at(step)).flat();
      assert.ok(schedule.steps <= maxSteps);
      assert.equal(schedule.microbatches, tasks.length);
      assert.equal(schedule.samples, tasks.reduce((sum, task) => sum + task.rows.length, 0)); // prettier-ignore
      assert.equal(new Set(tasks.map((task) => `${task.step}.${task.microbatch}`)).size, tasks.length);
    }),
    { numRuns: 60 },
  );
});

test('a step is the same whenever it is asked for', () => {
  fc.assert(
    fc.property(shape, fc.array(fc.nat(), { maxLength: 8 }), (of, asked) => {
      const schedule = make(of);
      for (const any of asked) {
        const step = any % schedule.steps;
        assert.deepEqual(schedule.at(step), make(of).at(step));
      }
    }),
    { numRuns: 40 },
  );
});
