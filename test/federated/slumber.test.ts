// Who slept is noticed: late ticks and no steps. Slow steps, slow timers and short stalls are no sleep.
import assert from 'node:assert/strict';
import test from 'node:test';
import { Slumber } from '../../runtime/federated/slumber.ts';

function slumber(t: { after(end: () => void): void }): {
  of: Slumber;
  /** So many steps, equally far apart, and a tick after so long: whether it has slept. */
  pass(ms: number, steps: number): boolean;
} {
  const at = { ms: 1e12 };
  const of = new Slumber(() => at.ms);
  t.after(() => of.close());
  of.resume();
  const pass = (ms: number, steps: number): boolean => {
    const end = at.ms + ms;
    for (let i = 0; i < steps; i += 1) {
      at.ms += ms / steps;
      of.stepped();
    }
    at.ms = end;
    of.tick();
    return of.hasSlept;
  };
  return { of, pass };
}

test('late and no step taken: it slept, until that is made up for', (t) => {
  const { of, pass } = slumber(t);
  let wakings = 0;
  of.onWake = () => (wakings += 1);
  assert.equal(pass(1_000, 40), false);
  assert.equal(pass(61_000, 0), true);
  assert.equal(pass(1_000, 40), true, 'awake again, and not made up for');
  of.madeUpFor();
  assert.equal(pass(1_000, 0), false);
  assert.equal(pass(20_000, 1), true, 'a step that was under way ends first');
  assert.equal(wakings, 2);
});

test('steps before it fell asleep, after the last tick', (t) => {
  const at = { ms: 0 };
  const of = new Slumber(() => at.ms);
  t.after(() => of.close());
  of.resume();
  for (const ms of [100, 400, 900, 60_900, 60_910]) {
    at.ms = ms;
    of.stepped();
  }
  of.tick();
  assert.equal(of.hasSlept, true);
});

test('a stall, steps of minutes, timers of a hidden tab and a clock that is put back are no sleep', (t) => {
  const { of, pass } = slumber(t);
  assert.equal(pass(9_000, 0), false, 'a stall');
  for (let i = 0; i < 120; i += 1) assert.equal(pass(1_000, i === 119 ? 1 : 0), false, 'a long step');
  assert.equal(pass(60_000, 500), false, 'a slow timer');
  assert.equal(pass(-3_600_000, 10), false, 'a clock that is put back');
  of.pause();
  assert.equal(pass(60_000, 0), false, 'a slow timer while it pauses');
  of.resume();
  assert.equal(pass(1_000, 0), false);
  assert.equal(pass(60_000, 0), true);
});

test('a long sleep is noticed while nothing is trained, and a short one that ends with training', (t) => {
  const { of, pass } = slumber(t);
  of.pause();
  assert.equal(pass(3_600_000, 0), true);
  of.madeUpFor();
  const at = { ms: 0 };
  const short = new Slumber(() => at.ms);
  t.after(() => short.close());
  short.resume();
  at.ms = 30_000;
  short.stepped();
  short.pause();
  assert.equal(short.hasSlept, true);
});
