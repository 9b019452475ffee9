// Strikes and bans: what cannot be an accident ends in a ban at the second time, the rest at the third; clean rounds make up for strikes.
import assert from 'node:assert/strict';
import test from 'node:test';
import fc from '../support/fast-check.ts';
import { Trust, type Offence } from '../../runtime/average/trust.ts';

const MINUTE = 60_000;
const OFFENCES: Offence[] = ['not-finite', 'malformed', 'too-far', 'reversed', 'frozen', 'progress', 'labels'];
/** What may happen to honest peers now and then. */
const DOUBTFUL: Offence[] = ['too-far'];

test('strikes add up to a ban of ten minutes, and it ends', () => {
  for (const offence of OFFENCES) {
    const trust = new Trust();
    const needed = DOUBTFUL.includes(offence) ? 3 : 2;
    for (let i = 1; i < needed; i += 1) {
      assert.equal(trust.strike('a', offence, 0).bannedForMs, null, offence);
      assert.ok(!trust.isBanned('a', 0));
    }
    const { strikes, bannedForMs } = trust.strike('a', offence, 1_000);
    assert.deepEqual([strikes >= 3, bannedForMs], [true, 10 * MINUTE], offence);
    assert.ok(trust.isBanned('a', 1_000) && trust.isBanned('a', 1_000 + 10 * MINUTE - 1));
    assert.ok(!trust.isBanned('a', 1_000 + 10 * MINUTE));
    assert.ok(!trust.isBanned('b', 1_000), 'nobody else');
  }
});

test('each further ban is twice as long, up to a day', () => {
  const trust = new Trust();
  let now = 0;
  const bans: number[] = [];
  while (bans.length < 12) {
    const { bannedForMs } = trust.strike('a', 'reversed', now);
    if (bannedForMs === null) continue;
    bans.push(bannedForMs / MINUTE);
    now += bannedForMs;
    assert.ok(!trust.isBanned('a', now));
  }
  assert.deepEqual(bans, [10, 20, 40, 80, 160, 320, 640, 1280, 1440, 1440, 1440, 1440]);
});

test('clean rounds forgive: five for a doubtful strike', () => {
  const trust = new Trust();
  for (let i = 0; i < 100; i += 1) {
    assert.equal(trust.strike('a', 'too-far', 0).bannedForMs, null, `strike ${i}`);
    for (let round = 0; round < 5; round += 1) trust.clean('a');
  }
  for (let i = 0; i < 3; i += 1) {
    trust.clean('stranger');
    assert.equal(trust.strike('a', 'too-far', 0).bannedForMs === null, i < 2);
  }
});

test('whoever strikes more often than every fifth round is banned sooner or later, and none before its second strike', () => {
  fc.assert(
    fc.property(fc.array(fc.oneof(fc.constantFrom(...OFFENCES), fc.constant(null)), { maxLength: 60 }), (rounds) => {
      const trust = new Trust();
      let strikes = 0;
      for (const [now, offence] of rounds.entries()) {
        if (offence === null) {
          trust.clean('a');
          continue;
        }
        strikes += 1;
        const { bannedForMs } = trust.strike('a', offence, now);
        assert.equal(trust.isBanned('a', now), bannedForMs !== null);
        if (bannedForMs !== null) {
          assert.ok(strikes >= 2);
          return;
        }
      }
      const clean = rounds.filter((offence) => offence === null).length;
      assert.ok(strikes - clean * 0.2 < 3 + 1e-9, 'not banned, so forgiven');
    }),
  );
});
