// What links carry, told by real transfers: a running mean for each peer that small transfers do not spoil and time wears off.
import assert from 'node:assert/strict';
import test from 'node:test';
import fc from '../support/fast-check.ts';
import { Bandwidth } from '../../runtime/average/bandwidth.ts';

const KIB = 1024;
const MIB = KIB * KIB;

test('nothing is known of a peer that sent nothing; then its first transfer is, then a mean with the newest at 0.3', () => {
  const bandwidth = new Bandwidth();
  assert.equal(bandwidth.of('a', 0), null);
  bandwidth.record('a', MIB, 1, 0);
  assert.equal(bandwidth.of('a', 0), MIB);
  bandwidth.record('a', 2 * MIB, 1, 1);
  assert.equal(bandwidth.of('a', 1), 0.7 * MIB + 0.3 * (2 * MIB));
  bandwidth.forget('a');
  assert.equal(bandwidth.of('a', 1), null);
});

test('small transfers count only while nothing better is known, and the first large one replaces them', () => {
  const bandwidth = new Bandwidth();
  bandwidth.record('a', KIB, 1, 0);
  assert.equal(bandwidth.of('a', 0), KIB);
  bandwidth.record('a', MIB, 1, 0);
  assert.equal(bandwidth.of('a', 0), MIB);
  bandwidth.record('a', KIB, 1, 0);
  assert.equal(bandwidth.of('a', 0), MIB);
});

test('what says nothing is left out', () => {
  const bandwidth = new Bandwidth();
  for (const [bytes, seconds] of [
    [0, 1],
    [-1, 1],
    [MIB, 0],
    [MIB, -1],
    [NaN, 1],
    [MIB, NaN],
  ] as const)
    // prettier-ignore
    bandwidth.record('a', bytes, seconds, 0);
  assert.equal(bandwidth.of('a', 0), null);
  bandwidth.recordTogether(MIB, 0);
  bandwidth.recordTogether(KIB, 1);
  assert.equal(bandwidth.downlink, Infinity);
});

test('after two minutes a figure begins to fade, and after four it is the median of all', () => {
  const bandwidth = new Bandwidth();
  bandwidth.record('old', 9 * MIB, 1, 0);
  bandwidth.record('b', MIB, 1, 240_000);
  bandwidth.record('c', 3 * MIB, 1, 240_000);
  assert.equal(bandwidth.of('old', 120_000), 9 * MIB);
  assert.equal(bandwidth.of('old', 180_000), 6 * MIB, 'half way to the median, 3 MiB');
  assert.equal(bandwidth.of('old', 240_000), 3 * MIB);
  assert.equal(bandwidth.of('old', 1e9), 3 * MIB);
  assert.equal(bandwidth.of('b', 240_000), MIB);
});

test('the downlink is the best of all together and of each alone, and sinks slowly', () => {
  const bandwidth = new Bandwidth();
  bandwidth.recordTogether(4 * MIB, 1);
  assert.equal(bandwidth.downlink, 4 * MIB);
  bandwidth.recordTogether(MIB, 1);
  assert.ok(bandwidth.downlink < 4 * MIB && bandwidth.downlink > 3.7 * MIB);
  bandwidth.record('a', 9 * MIB, 1, 0);
  assert.equal(bandwidth.downlink, 9 * MIB);
});

test('a mean lies between the smallest and the largest that was measured, and is never 0', () => {
  const transfer = fc.record({
    bytes: fc.integer({ min: 1, max: 100 * MIB }),
    seconds: fc.double({ min: 1e-6, max: 1e4, noNaN: true }),
  });
  fc.assert(
    fc.property(fc.array(transfer, { minLength: 1, maxLength: 20 }), (transfers) => {
      const bandwidth = new Bandwidth();
      const rates = transfers.map(({ bytes, seconds }) => bytes / seconds);
      for (const [at, { bytes, seconds }] of transfers.entries()) bandwidth.record('a', bytes, seconds, at);
      const mean = bandwidth.of('a', transfers.length) ?? NaN;
      assert.ok(mean >= Math.min(...rates) * (1 - 1e-9) && mean <= Math.max(...rates) * (1 + 1e-9));
    }),
  );
});
