// Who slept is noticed: late ticks and no steps. Slow steps, slow timers and short stalls are no sleep.
import assert from 'node:assert/strict';
import test from 'node:test';
import { Slumber } from '../../runtime/federated/slumber.ts';

function slumber(t: { after(end: () => void): void }): {
  of: Slumber;
  /** So many steps, equally far apart, and a tick after so long. */
  pass(ms: number, steps: number): number;
} {
  const at = { ms: 1e12 };
  const of = new Slumber(() => at.ms);
  t.after(() => of.close());
  const pass = (ms: number, steps: number): number => {
    const end = at.ms + ms;
    for (let i = 0; i < steps; i += 1) {
      at.ms += ms / steps;
      of.stepped();
    }
    at.ms = end;
    of.tick();
    return of.sleptMs;
  };
  return { of, pass };
}

test('late and no step taken: it slept, until that is made up for', (t) => {
  const { of, pass } = slumber(t);
  assert.equal(pass(1_000, 40), 0);
  assert.equal(pass(61_000, 0), 61_000);
  assert.equal(pass(1_000, 40), 61_000, 'awake again, and not made up for');
  assert.equal(pass(20_000, 1), 81_000, 'a step that was under way ends first');
  of.madeUpFor();
  assert.equal(pass(1_000, 0), 0);
});

test('steps before it fell asleep, after the last tick', (t) => {
  const at = { ms: 0 };
  const of = new Slumber(() => at.ms);
  t.after(() => of.close());
  for (const ms of [100, 400, 900, 60_900, 60_910]) {
    at.ms = ms;
    of.stepped();
  }
  of.tick();
  assert.equal(of.sleptMs, 60_910);
});

test('a stall, steps of minutes, timers of a hidden tab and a clock that is put back are no sleep', (t) => {
  const { pass } = slumber(t);
  assert.equal(pass(9_000, 0), 0, 'a stall');
  for (let i = 0; i < 120; i += 1) assert.equal(pass(1_000, i === 119 ? 1 : 0), 0, 'a long step');
  assert.equal(pass(60_000, 500), 0, 'a slow timer');
  assert.equal(pass(-3_600_000, 10), 0, 'a clock that is put back');
});
