import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from '../support/fast-check.ts';
import { loadDataset } from '../../node/datasets.ts';
import { MeshError } from '../../runtime/errors.ts';
import { f32Of, i32Of } from '../../runtime/tensor.ts';
import { batch, datasetFromIdx, epochOrder, MNIST_NORMALISATION } from '../../runtime/train/data.ts';
import { declaredBytes, parseIdx } from '../../runtime/train/idx.ts';
import { randomBelow, randomWords } from '../../runtime/train/random.ts';
import { idxBytes } from '../support/idx.ts';

const idx = (shape: readonly number[], data: Uint8Array) => parseIdx(idxBytes(shape, data));
const isBadFile = (error: unknown): boolean => error instanceof MeshError && error.code === 'bad-file';
const shapes = fc.array(fc.integer({ min: 0, max: 6 }), { minLength: 1, maxLength: 4 });

describe('IDX files', () => {
  it('gives back the shape and the data of any file', () => {
    fc.assert(
      fc.property(shapes, fc.integer({ min: 0, max: 7 }), (shape, padding) => {
        const data = Uint8Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => i);
        const whole = new Uint8Array([...new Uint8Array(padding), ...idxBytes(shape, data)]);
        const file = parseIdx(whole.subarray(padding)); // also from the middle of a larger buffer
        assert.deepEqual(file.shape, shape);
        assert.deepEqual(file.data, data);
      }),
    );
  });

  it('says how long a file is from its beginning alone', () => {
    fc.assert(
      fc.property(shapes, (shape) => {
        const bytes = idxBytes(shape, new Uint8Array(shape.reduce((a, b) => a * b, 1)));
        const headerBytes = 4 + 4 * shape.length;
        assert.equal(declaredBytes(bytes.subarray(0, headerBytes)), bytes.length);
        assert.equal(declaredBytes(bytes.subarray(0, headerBytes - 1)), null);
      }),
    );
    assert.equal(declaredBytes(new TextEncoder().encode('<!doctype html>')), null);
  });

  it('refuses a file that is cut short or has bytes left over', () => {
    fc.assert(
      fc.property(shapes, fc.integer({ min: -60, max: 60 }), (shape, change) => {
        fc.pre(change !== 0);
        const bytes = idxBytes(shape, new Uint8Array(shape.reduce((a, b) => a * b, 1)));
        const length = Math.max(0, bytes.length + change);
        const other = new Uint8Array(length);
        other.set(bytes.subarray(0, length));
        assert.throws(() => parseIdx(other), isBadFile);
      }),
    );
  });

  it('fails with bad-file, and nothing else, on any bytes', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 64 }), (noise) => {
        try {
          parseIdx(new Uint8Array(noise));
        } catch (error) {
          assert.ok(isBadFile(error), String(error));
        }
      }),
    );
  });

  it('refuses other element types, a wrong magic and sizes that overflow', () => {
    const good = idxBytes([2], new Uint8Array(2));
    for (const [at, value] of [
      [0, 1],
      [1, 1],
      [2, 0x0d],
      [3, 0],
      [3, 9],
    ] as const) {
      const bad = good.slice();
      bad[at] = value;
      assert.throws(() => parseIdx(bad), isBadFile);
    }
    const huge = idxBytes([1, 1], new Uint8Array(1));
    huge.fill(0xff, 4, 12);
    assert.throws(() => parseIdx(huge), isBadFile);
  });
});

describe('random numbers', () => {
  it('stays below its bound and reaches all of it', () => {
    const words = randomWords(7, 0);
    const counts = new Array<number>(6).fill(0);
    for (let i = 0; i < 6000; i++) {
      const face = randomBelow(6, words);
      counts[face] = (counts[face] ?? 0) + 1;
    }
    assert.ok(Math.min(...counts) > 850 && Math.max(...counts) < 1150, counts.join(' '));
  });
});

describe('the order of an epoch', () => {
  const seeds = fc.nat(Number.MAX_SAFE_INTEGER);

  it('is a permutation, and the same wherever it is computed', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 500 }), seeds, fc.nat(1000), (rows, seed, epoch) => {
        const order = epochOrder(rows, seed, epoch);
        assert.deepEqual(
          order.toSorted(),
          Uint32Array.from({ length: rows }, (_, i) => i),
        );
        assert.deepEqual(order, epochOrder(rows, seed, epoch));
      }),
    );
  });

  it('differs between epochs and between seeds, also seeds above 32 bits', () => {
    const orders = [
      epochOrder(100, 1, 0),
      epochOrder(100, 1, 1),
      epochOrder(100, 2, 0),
      epochOrder(100, 1 + 2 ** 32, 0),
    ];
    assert.equal(new Set(orders.map((order) => order.join())).size, orders.length);
  });

  it('has not changed: runs that resume rely on it', () => {
    assert.deepEqual([...epochOrder(8, 42, 3)], [3, 7, 4, 6, 0, 5, 1, 2]);
  });
});

describe('data sets and batches', () => {
  const images = idx([3, 2, 2], Uint8Array.of(0, 255, 128, 1, 2, 3, 4, 5, 6, 7, 8, 9));
  const labels = idx([3], Uint8Array.of(2, 0, 1));

  it('scales bytes as MNIST is customarily scaled', () => {
    const data = datasetFromIdx('tiny', images, labels);
    assert.deepEqual(
      { rows: data.rows, inputShape: data.inputShape, classes: data.classes },
      {
        rows: 3,
        inputShape: [4],
        classes: 3,
      },
    );
    const { x, y } = batch(data, [2, 0]);
    assert.deepEqual([x.shape, y.shape], [[2, 4], [2]]);
    assert.deepEqual([...i32Of(y)], [1, 2]);
    const { mean, deviation } = MNIST_NORMALISATION;
    const expected = [6, 7, 8, 9, 0, 255, 128, 1].map((byte) => Math.fround((byte / 255 - mean) / deviation));
    assert.deepEqual([...f32Of(x)], expected);
  });

  it('scales each channel by its own mean and deviation, where there are several', () => {
    const normalisation = { mean: [0, 0.5], deviation: [1, 0.25] };
    const data = datasetFromIdx('tiny', images, labels, { normalisation });
    const [a, b, c, d] = f32Of(batch(data, [0]).x); // (2 channels, 1, 2): bytes 0, 255 | 128, 1
    assert.deepEqual([a, b], [0, 1]);
    assert.deepEqual([c, d], [Math.fround((128 / 255 - 0.5) / 0.25), Math.fround((1 / 255 - 0.5) / 0.25)]);
    const alike = datasetFromIdx('tiny', images, labels, { normalisation: { mean: [0.1, 0.1], deviation: 0.5 } });
    const plain = datasetFromIdx('tiny', images, labels, { normalisation: { mean: 0.1, deviation: 0.5 } });
    assert.deepEqual(batch(alike, [2, 1]), batch(plain, [2, 1]));
    for (const wrong of [
      { mean: [0, 0, 0], deviation: 1 },
      { mean: [0, 0], deviation: [1] },
      { mean: [], deviation: 1 },
    ])
      assert.throws(() => datasetFromIdx('tiny', images, labels, { normalisation: wrong }), { code: 'usage' });
  });

  it('refuses pairs that do not fit, labels out of range and rows that do not exist', () => {
    assert.throws(() => datasetFromIdx('x', images, idx([2], Uint8Array.of(0, 1))), isBadFile);
    assert.throws(() => datasetFromIdx('x', images, labels, { classes: 2 }), isBadFile);
    assert.throws(() => datasetFromIdx('x', idx([0, 4], new Uint8Array()), idx([0], new Uint8Array())), isBadFile);
    const data = datasetFromIdx('tiny', images, labels);
    for (const row of [-1, 3, 0.5, Number.NaN]) assert.throws(() => batch(data, [row]), { code: 'usage' });
  });

  it('loads MNIST whole', async () => {
    const { train, test } = await loadDataset('mnist');
    assert.deepEqual([train.rows, test.rows, train.inputShape, train.classes], [60_000, 10_000, [784], 10]);
    assert.deepEqual([...train.labels.subarray(0, 5)], [5, 0, 4, 1, 9]);
    const pixels = f32Of(batch(train, epochOrder(train.rows, 0, 0).subarray(0, 2000)).x);
    const mean = pixels.reduce((a, b) => a + b, 0) / pixels.length;
    assert.ok(Math.abs(mean) < 0.02, `the mean of normalised pixels is ${mean}, not about 0`);
  });

  it('names the file that is missing', async () => {
    const pair = { images: '/nowhere/images', labels: '/nowhere/labels' };
    await assert.rejects(loadDataset({ name: 'x', train: pair, test: pair }), /\/nowhere\//);
  });
});
