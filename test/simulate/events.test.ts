// The virtual clock: what happens when, in which order, also where timers are moved and cancelled.
import assert from 'node:assert/strict';
import test from 'node:test';
import fc from '../support/fast-check.ts';
import { Clock, type Timer } from '../../runtime/simulate/events.ts';

test('in the order of time, and of asking where times are the same', () => {
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.nat(20), fc.constantFrom('keep', 'cancel', 'move'), fc.nat(20))), (all) => {
      const clock = new Clock();
      const happened: { at: number; i: number }[] = [];
      const timers = all.map(([at], i): Timer => clock.at(at, () => happened.push({ at: clock.now, i })));
      const wanted = all.map(([at], i) => ({ at, i, order: i }));
      let order = all.length;
      for (const [i, [, what, to]] of all.entries()) {
        const timer = timers[i];
        const entry = wanted.find((one) => one.i === i);
        if (!timer || !entry) continue;
        if (what === 'cancel') {
          clock.cancel(timer);
          wanted.splice(wanted.indexOf(entry), 1);
        }
        if (what === 'move') {
          clock.move(timer, to);
          Object.assign(entry, { at: to, order: order++ });
        }
      }
      clock.run(100);
      wanted.sort((a, b) => a.at - b.at || a.order - b.order);
      assert.deepEqual(happened, wanted.map(({ at, i }) => ({ at, i }))); // prettier-ignore
      assert.equal(clock.now, 100);
    }),
    { numRuns: 500 },
  );
});

test('what is due at the end still happens, what comes later waits, and time stands at the end', () => {
  const clock = new Clock();
  const happened: number[] = [];
  for (const at of [1, 2, 3]) clock.at(at, () => happened.push(at));
  clock.at(2, () => clock.after(0, () => happened.push(2.5)));
  clock.run(2);
  assert.deepEqual(happened, [1, 2, 2.5]);
  assert.equal(clock.now, 2);
  clock.run(10);
  assert.deepEqual(happened, [1, 2, 2.5, 3]);
});

test('quiet is when all that was due at one time has happened', () => {
  const clock = new Clock();
  const log: string[] = [];
  clock.onQuiet = () => log.push(`quiet ${clock.now}`);
  clock.at(1, () => log.push('a'));
  clock.at(1, () => log.push('b'));
  clock.run(2);
  assert.deepEqual(log, ['quiet 0', 'a', 'b', 'quiet 1']);
});
