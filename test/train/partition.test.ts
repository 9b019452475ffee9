// Who gets which rows, as properties: nothing twice, nothing lost, nobody empty, and as uneven as was asked for.
import assert from 'node:assert/strict';
import test from 'node:test';
import fc from '../support/fast-check.ts';
import { dirichlet, exp, ln } from '../../runtime/train/dirichlet.ts';
import {
  labelShares,
  minimumRows,
  orderOfRows,
  partition,
  partitionSpecSchema,
  type PartitionSpec,
} from '../../runtime/train/partition.ts';
import { randomWords } from '../../runtime/train/random.ts';

const CLASSES = 10;
const seeds = fc.nat(Number.MAX_SAFE_INTEGER);
/** Labels with classes of unequal size, some perhaps absent. */
const anyLabels = fc
  .array(fc.integer({ min: 0, max: CLASSES - 1 }), { minLength: 40, maxLength: 400 })
  .map((labels) => Uint8Array.from(labels));
const alphas = fc.double({ min: -3, max: 3, noNaN: true }).map((power) => 10 ** power);
const wholeSpecs: fc.Arbitrary<PartitionSpec> = fc.oneof(
  fc.constant({ kind: 'iid' } as const),
  alphas.map((alpha) => ({ kind: 'dirichlet', alpha }) as const),
);

/** Ten classes in turn, so that each has as many rows. */
const balanced = (rows: number): Uint8Array => Uint8Array.from({ length: rows }, (_, i) => i % CLASSES);

function expectDisjoint(parts: readonly Uint32Array[], rows: number): number {
  const seen = new Set<number>();
  for (const part of parts) {
    for (const [i, row] of part.entries()) {
      assert.ok(row < rows && !seen.has(row), `row ${row}`);
      assert.ok(i === 0 || row > (part[i - 1] ?? Infinity), 'ascending');
      seen.add(row);
    }
  }
  return seen.size;
}

test('iid and dirichlet: every row to exactly one worker, nobody below the minimum, the same each time', () => {
  fc.assert(
    fc.property(anyLabels, fc.integer({ min: 1, max: 20 }), wholeSpecs, seeds, (labels, workers, spec, seed) => {
      const parts = partition(labels, CLASSES, workers, spec, seed);
      assert.equal(parts.length, workers);
      assert.equal(expectDisjoint(parts, labels.length), labels.length);
      const least = minimumRows(labels.length, workers);
      assert.ok(parts.every((part) => part.length >= least));
      assert.deepEqual(partition(labels, CLASSES, workers, spec, seed), parts);
    }),
  );
});

test('a minimum of our own is kept, up to an equal part for each', () => {
  fc.assert(
    fc.property(anyLabels, fc.integer({ min: 1, max: 20 }), wholeSpecs, seeds, (labels, workers, spec, seed) => {
      const minimum = Math.floor(labels.length / workers);
      const parts = partition(labels, CLASSES, workers, spec, seed, minimum);
      assert.equal(expectDisjoint(parts, labels.length), labels.length);
      assert.ok(parts.every((part) => part.length >= minimum));
    }),
  );
});

test('label: equal parts, each with its share of its label within a row, nothing twice', () => {
  const shares = fc.double({ min: 0, max: 1, noNaN: true });
  const classes = fc.integer({ min: 2, max: CLASSES });
  fc.assert(
    fc.property(classes, fc.integer({ min: 1, max: 25 }), shares, seeds, (classes, workers, share, seed) => {
      // Classes of unequal size, none of them small.
      const labels = Uint8Array.from({ length: 900 }, (_, i) => Math.min(i % (classes + 1), classes - 1));
      const parts = partition(labels, classes, workers, { kind: 'label', share }, seed);
      expectDisjoint(parts, labels.length);
      assert.equal(new Set(parts.map((part) => part.length)).size, 1);
      for (const [worker, part] of parts.entries()) {
        const own = labelShares(labels, part, classes)[worker % classes] ?? 0;
        assert.ok(Math.abs(own - share) * part.length <= 1, `${own} of ${part.length}, not ${share}`);
      }
      assert.deepEqual(partition(labels, classes, workers, { kind: 'label', share }, seed), parts);
    }),
  );
});

test('label: all data are shared out where the labels allow it, and the rest of a worker is of all other labels', () => {
  const labels = balanced(6_000);
  for (const share of [0, 0.3, 0.5, 0.7, 1]) {
    const parts = partition(labels, CLASSES, 10, { kind: 'label', share }, 1);
    assert.ok(parts.every((part) => part.length === 600));
    for (const [worker, part] of parts.entries())
      for (const [label, of] of labelShares(labels, part, CLASSES).entries())
        if (label !== worker) assert.ok(Math.abs(of - (1 - share) / 9) < 0.045, `${share}: ${of} of label ${label}`);
  }
  // Four labels dominate; there is not enough of them for equal quarters of everything.
  const four = partition(labels, CLASSES, 4, { kind: 'label', share: 0.8 }, 1);
  assert.ok(four.every((part) => part.length === 750));
});

test('label: a label that hardly occurs is an error with the numbers', () => {
  const labels = Uint8Array.from({ length: 1_000 }, (_, i) => (i === 0 ? 1 : 0));
  assert.throws(() => partition(labels, 2, 2, { kind: 'label', share: 0.5 }, 1), {
    code: 'usage',
    message: /share of 0\.5.*2 workers can have \d rows each, and 32 is the least.*999, 1 rows/,
  });
});

test('dirichlet: a large α is about iid, a small one leaves each worker a few labels', () => {
  fc.assert(
    fc.property(seeds, fc.integer({ min: 2, max: 10 }), (seed, workers) => {
      const labels = balanced(20_000);
      const shares = (alpha: number) =>
        partition(labels, CLASSES, workers, { kind: 'dirichlet', alpha }, seed).map((part) => ({
          size: part.length,
          of: labelShares(labels, part, CLASSES),
        }));
      for (const { size, of } of shares(100_000)) {
        assert.ok(Math.abs(size / (20_000 / workers) - 1) < 0.05, `${size} rows`);
        assert.ok(Math.max(...of) < 0.12 && Math.min(...of) > 0.08, of.join(' '));
      }
      // Of a row drawn at random: how much of its worker's data has the same label. 0.1 where all are alike.
      const likeness = shares(0.01).reduce(
        (sum, { size, of }) => sum + (size / 20_000) * of.reduce((squares, share) => squares + share * share, 0),
        0,
      );
      assert.ok(likeness > 0.13, `${likeness}`);
    }),
    { numRuns: 20 },
  );
});

test('seeds make a difference, and the seed of a spec goes before that of a run', () => {
  const labels = balanced(1_000);
  const texts = ([{ kind: 'iid' }, { kind: 'label', share: 0.5 }, { kind: 'dirichlet', alpha: 1 }] as const).map(
    (spec) => {
      const of = (seed: number, own?: number) =>
        partition(labels, CLASSES, 4, own === undefined ? spec : { ...spec, seed: own }, seed).join(';');
      assert.equal(new Set([of(1), of(2), of(1 + 2 ** 32)]).size, 3, spec.kind);
      assert.equal(of(7, 1), of(1), spec.kind);
      return of(1);
    },
  );
  assert.equal(new Set(texts).size, 3);
});

test('what a seed gives has not changed: the workers of a mesh rely on it', () => {
  const labels = balanced(40);
  const of = (spec: PartitionSpec) => partition(labels, CLASSES, 3, spec, 42).map((rows) => [...rows].join(' '));
  assert.deepEqual(of({ kind: 'iid' }), [
    '1 4 8 12 13 17 18 23 24 25 32 34 36',
    '0 2 3 7 11 14 19 22 26 27 29 30 38',
    '5 6 9 10 15 16 20 21 28 31 33 35 37 39',
  ]);
  assert.deepEqual(of({ kind: 'label', share: 0.5 }), [
    '0 10 20 25 27 28 29 30',
    '1 3 4 11 14 21 31 38',
    '2 9 12 19 22 26 32 37',
  ]);
  assert.deepEqual(of({ kind: 'dirichlet', alpha: 0.3 }), [
    '0 1 2 6 10 11 16 18 20 21 26 28 30 31 36 39',
    '3 4 5 8 13 15 19 23 24 25 27 29 33 35 38',
    '7 9 12 14 17 22 32 34 37',
  ]);
});

test('what cannot be shared out is refused', () => {
  const iid = { kind: 'iid' } as const;
  for (const workers of [0, -1, 1.5, Number.NaN])
    assert.throws(() => partition(balanced(100), CLASSES, workers, iid, 1), { code: 'usage' });
  assert.throws(() => partition(balanced(3), CLASSES, 4, iid, 1), { code: 'usage', message: /3 rows.*4 workers/ });
  assert.throws(() => partition(balanced(100), CLASSES, 4, iid, 1, 26), { code: 'usage' });
  assert.throws(() => partition(balanced(100), 9, 4, { kind: 'dirichlet', alpha: 1 }, 1), { message: /label 9/ });
  for (const bad of [
    { kind: 'label', share: 1.1 },
    { kind: 'label' },
    { kind: 'dirichlet', alpha: 0 },
    { kind: 'iid', share: 1 },
    { kind: 'iid', seed: -1 },
  ])
    assert.ok(!partitionSpecSchema.safeParse(bad).success, JSON.stringify(bad));
});

test('shares of labels sum to 1, and no rows have none', () => {
  fc.assert(
    fc.property(anyLabels, (labels) => {
      const shares = labelShares(labels, Uint32Array.from(labels.keys()), CLASSES);
      assert.ok(Math.abs(shares.reduce((a, b) => a + b, 0) - 1) < 1e-12);
      const [first = 0] = shares;
      assert.ok(Math.abs(first * labels.length - labels.filter((label) => label === 0).length) < 1e-9);
    }),
  );
  assert.deepEqual(labelShares(Uint8Array.of(0, 1, 1, 2), [1, 2, 3, 0], 4), [0.25, 0.5, 0.25, 0]);
  assert.throws(() => labelShares(Uint8Array.of(0), [], 1), { code: 'usage' });
  assert.throws(() => labelShares(Uint8Array.of(0), [1], 1), { code: 'usage' });
});

test('an epoch visits the rows of a worker in an order of its own', () => {
  fc.assert(
    fc.property(fc.uniqueArray(fc.nat(100_000), { minLength: 20 }), seeds, fc.nat(1_000), (given, seed, epoch) => {
      const rows = Uint32Array.from(given).sort();
      const order = orderOfRows(rows, seed, epoch);
      assert.deepEqual(order.toSorted(), rows);
      assert.deepEqual(orderOfRows(rows, seed, epoch), order);
      assert.notDeepEqual(orderOfRows(rows, seed, epoch + 1), order);
    }),
  );
});

test('logarithm and exponential agree with those of the engine', () => {
  fc.assert(
    fc.property(fc.double({ min: 1e-12, max: 1e9, noNaN: true }), (x) => {
      assert.ok(Math.abs(ln(x) - Math.log(x)) <= 4e-16 * Math.max(1, Math.abs(Math.log(x))), `${x}: ${ln(x)}`);
    }),
  );
  fc.assert(
    fc.property(fc.double({ min: -690, max: 0, noNaN: true }), (x) => {
      assert.ok(Math.abs(exp(x) / Math.exp(x) - 1) < 1e-12, `${x}: ${exp(x)}`);
    }),
  );
  assert.deepEqual([exp(-Infinity), exp(-1e6), exp(0), ln(1)], [0, 0, 1, 0]);
});

test('proportions have the moments of their distribution', () => {
  // Each share has mean 1/n and variance (n − 1) / (n² (n α + 1)).
  for (const [alpha, count] of [
    [0.1, 4],
    [0.5, 10],
    [1, 3],
    [5, 10],
  ] as const) {
    const words = randomWords(7, alpha * 10);
    const draws = Array.from({ length: 4_000 }, () => dirichlet(alpha, count, words));
    for (const draw of draws) assert.ok(Math.abs(draw.reduce((a, b) => a + b, 0) - 1) < 1e-12);
    const first = draws.map(([share = 0]) => share);
    const mean = first.reduce((a, b) => a + b, 0) / first.length;
    const variance = first.reduce((a, b) => a + (b - mean) ** 2, 0) / first.length;
    const wanted = (count - 1) / (count * count * (count * alpha + 1));
    assert.ok(Math.abs(mean * count - 1) < 0.1, `α ${alpha}: mean ${mean} of ${count}`);
    assert.ok(Math.abs(variance / wanted - 1) < 0.1, `α ${alpha}: variance ${variance}, not ${wanted}`);
  }
});
