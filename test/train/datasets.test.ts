// The data sets that a configuration can name: CIFAR-10's binary files, Fashion-MNIST where this machine has it, and what is said otherwise.
import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import fc from '../support/fast-check.ts';
import { findDataFile } from '../../node/data-files.ts';
import { loadDataset } from '../../node/datasets.ts';
import { MeshError } from '../../runtime/errors.ts';
import { f32Of } from '../../runtime/tensor.ts';
import { CIFAR10_FILES, CIFAR10_NORMALISATION, datasetFromCifar10 } from '../../runtime/train/cifar.ts';
import { batch } from '../../runtime/train/data.ts';
import { datasetSpecSchema } from '../../runtime/train/dataset-spec.ts';
import { parseRunConfig } from '../../runtime/train/config.ts';

const isBadFile = (words: RegExp) => (error: unknown) =>
  error instanceof MeshError && error.code === 'bad-file' && words.test(error.message);

/** Records with these labels; the pixels of a record are its label + 10, 20 and 30 in red, green and blue. */
function cifarBytes(labels: readonly number[]): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(labels.length * 3073);
  labels.forEach((label, i) => {
    const at = i * 3073;
    bytes[at] = label;
    for (const channel of [0, 1, 2])
      bytes.fill(label + 10 * (channel + 1), at + 1 + channel * 1024, at + 1 + (channel + 1) * 1024);
  });
  return bytes;
}

async function cifarFolder(t: TestContext): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'skein-test-'));
  t.after(() => rm(folder, { recursive: true, force: true }));
  for (const [i, file] of CIFAR10_FILES.train.entries()) await writeFile(join(folder, file), cifarBytes([i, 9 - i]));
  await writeFile(join(folder, 'test_batch.bin'), cifarBytes([3, 4, 5]));
  return folder;
}

test('records of CIFAR-10 keep their order, over all files', () => {
  const labels = fc.array(fc.integer({ min: 0, max: 9 }), { minLength: 1, maxLength: 4 });
  fc.assert(
    fc.property(fc.array(labels, { minLength: 1, maxLength: 3 }), (files) => {
      const named = files.map((some, i) => ({ name: `file ${i}`, bytes: cifarBytes(some) }));
      const { images, labels, rows } = datasetFromCifar10('tiny', named);
      assert.equal(rows, files.flat().length);
      assert.deepEqual([...labels], files.flat());
      for (const [row, label] of files.flat().entries())
        assert.deepEqual(
          [0, 1023, 1024, 2048, 3071].map((i) => images[row * 3072 + i]),
          [10, 10, 20, 30, 30].map((value) => value + label),
        );
    }),
    { numRuns: 30 },
  );
});

test('what is no whole number of records of CIFAR-10 is refused, with the numbers', () => {
  const load = (bytes: Uint8Array) => datasetFromCifar10('x', [{ name: 'the file', bytes }]);
  assert.throws(() => load(cifarBytes([1, 2]).subarray(1)), isBadFile(/the file has 6145 bytes.*3073/));
  assert.throws(() => load(new Uint8Array()), isBadFile(/0 bytes/));
  assert.throws(() => load(cifarBytes([1, 10])), isBadFile(/label 10 in record 1/));
});

test('a folder of CIFAR-10 is a data set with a normalisation for each channel', async (t) => {
  const cifar10 = await cifarFolder(t);
  const { train, test: heldOut } = await loadDataset({ cifar10 });
  assert.deepEqual([train.rows, heldOut.rows, train.inputShape, train.classes], [10, 3, [3072], 10]);
  assert.deepEqual([...train.labels], [0, 9, 1, 8, 2, 7, 3, 6, 4, 5]);
  const x = f32Of(batch(heldOut, [1]).x);
  const { mean, deviation } = CIFAR10_NORMALISATION;
  for (const [channel, byte] of [14, 24, 34].entries()) {
    const wanted = Math.fround((byte / 255 - (mean[channel] ?? 0)) / (deviation[channel] ?? 0));
    assert.ok(
      x.subarray(channel * 1024, (channel + 1) * 1024).every((value) => value === wanted),
      `${channel}`,
    );
  }
  await rm(join(cifar10, 'data_batch_3.bin'));
  await assert.rejects(loadDataset({ cifar10 }), {
    code: 'bad-file',
    message: /data_batch_3\.bin cannot be read/,
    fix: /cifar-10-batches-bin/,
  });
});

test('a configuration names data sets in each of these ways, and in no others', () => {
  const pair = { images: 'i', labels: 'l' };
  for (const good of [
    'mnist',
    'fashion-mnist',
    { cifar10: 'folder' },
    { name: 'x', train: pair, test: pair, normalisation: { mean: [0, 1, 2], deviation: 1 } },
  ])
    assert.deepEqual(parseRunConfig({ data: good }).data, good);
  for (const bad of ['emnist', { cifar10: '' }, { cifar10: 'x', name: 'y' }, { name: 'x', train: pair }])
    assert.ok(!datasetSpecSchema.safeParse(bad).success, JSON.stringify(bad));
});

test('a data set that the machine lacks comes with what to install, or to write instead', async () => {
  const nowhere = () => Promise.resolve(null);
  await assert.rejects(loadDataset('fashion-mnist', undefined, nowhere), {
    code: 'bad-file',
    message: /does not have fashion-mnist/,
    fix: /apt-get install dataset-fashion-mnist.*images: PATH/,
  });
  await assert.rejects(loadDataset('mnist', undefined, nowhere), { code: 'bad-file', fix: /npm run setup/ });
});

const here = await findDataFile('fashion-mnist', 'train-images-idx3-ubyte');
const skip = here === null && 'the Debian package dataset-fashion-mnist is not installed';

test('loads Fashion-MNIST whole', { skip }, async () => {
  const { train, test: heldOut } = await loadDataset('fashion-mnist');
  assert.deepEqual([train.rows, heldOut.rows, train.inputShape, train.classes], [60_000, 10_000, [784], 10]);
  assert.deepEqual([...train.labels.subarray(0, 5)], [9, 0, 0, 3, 0]);
  const pixels = f32Of(
    batch(
      train,
      Uint32Array.from({ length: 4_000 }, (_, i) => i),
    ).x,
  );
  const mean = pixels.reduce((a, b) => a + b, 0) / pixels.length;
  const square = pixels.reduce((a, b) => a + b * b, 0) / pixels.length;
  assert.ok(Math.abs(mean) < 0.03 && Math.abs(square - 1) < 0.05, `mean ${mean}, mean square ${square}`);
});
