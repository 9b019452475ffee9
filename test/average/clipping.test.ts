// The radius that follows what was accepted: it bounds what a peer can do at once and in the long run, and never holds honest ones back for ever.
import assert from 'node:assert/strict';
import test from 'node:test';
import fc from '../support/fast-check.ts';
import { clipFactor, Clipping } from '../../runtime/average/clipping.ts';

const accepted = (clipping: Clipping, distances: readonly number[], ownNorm = 1): void => {
  for (const distance of distances) clipping.accept(0, distance, clipping.radius(0, ownNorm));
};

test('before ten were accepted the own size is the bound, then twice the median', () => {
  const clipping = new Clipping(2, { factor: 2 });
  assert.equal(clipping.radius(0, 5), 5);
  accepted(clipping, [1, 2, 3, 4, 5, 6, 7, 8, 9], 100);
  assert.deepEqual([clipping.usual(0), clipping.radius(0, 5)], [null, 5]);
  accepted(clipping, [10], 100);
  assert.deepEqual([clipping.usual(0), clipping.radius(0, 5)], [6, 12]);
  assert.deepEqual([clipping.usual(1), clipping.usual(7)], [null, null], 'by unit; one that there is not has none');
});

test('a factor of infinity bounds nothing', () => {
  const clipping = new Clipping(1, { factor: Infinity });
  accepted(clipping, Array<number>(20).fill(1e9));
  assert.equal(clipping.radius(0, 1), Infinity);
});

test('what lies beyond the radius counts as the radius, what is not finite and what is nothing not at all', () => {
  const clipping = new Clipping(1, { factor: 2 });
  accepted(clipping, [NaN, Infinity, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
  assert.equal(clipping.usual(0), null);
  accepted(clipping, Array<number>(10).fill(1e12), 3);
  assert.equal(clipping.usual(0), 3);
});

test('a unit that long lay still can be moved again', () => {
  const clipping = new Clipping(1, { factor: 2 });
  accepted(clipping, Array<number>(100).fill(0));
  accepted(clipping, Array<number>(100).fill(1e-9));
  let rounds = 0;
  for (; clipping.radius(0, 1) < 0.1 && rounds < 1_000; rounds += 1) accepted(clipping, [0.1]);
  assert.ok(rounds < 200, `${rounds} rounds`);
});

test('clipFactor brings a contribution to the radius and no further', () => {
  assert.deepEqual([clipFactor(0, 0), clipFactor(1, 0), clipFactor(1, 1), clipFactor(4, 1), clipFactor(4, Infinity)], [1, 0, 1, 0.25, 1]); // prettier-ignore
  assert.deepEqual(
    [clipFactor(1e200, 2.6e-124), clipFactor(1e30, 1e-9)],
    [0, 0],
    'rounded up, 5e-324 would be beyond the radius',
  );
  assert.ok(Math.fround(clipFactor(1e30, 1.2e-8)) >= 2 ** -126);
  fc.assert(
    fc.property(
      fc.double({ min: 0, max: 1e200, noNaN: true }),
      fc.double({ min: 0, max: 1e200, noNaN: true }),
      (d, r) => {
        const factor = clipFactor(d, r);
        assert.ok(factor >= 0 && factor <= 1 && d * factor <= r * (1 + 1e-9) + (d <= r ? d : 0));
      },
    ),
  );
});

test('a peer that always goes to the edge drags the median up by a factor for each half of what is remembered, not faster', () => {
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 200 }), fc.double({ min: 0.01, max: 10, noNaN: true }), (pushes, usual) => {
      const clipping = new Clipping(1, { factor: 2 });
      accepted(clipping, Array<number>(32).fill(usual), 100);
      accepted(clipping, Array<number>(pushes).fill(1e12), 1);
      const most = usual * 2 ** Math.ceil(pushes / 16);
      assert.ok((clipping.usual(0) ?? NaN) <= Math.max(most, 1e-3) * (1 + 1e-9));
    }),
  );
});
