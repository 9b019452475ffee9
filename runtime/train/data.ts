// Labelled samples in memory, the order of an epoch, and the batches of tensors that a trainer sends. Knows no files.
import { MeshError } from '../errors.ts';
import { f32Tensor, i32Tensor, type Tensor } from '../tensor.ts';
import type { IdxFile } from './idx.ts';
import { randomBelow, randomWords } from './random.ts';

/** How bytes become inputs: (byte / 255 − mean) / deviation. A list has a value for each channel of samples that lie as (C, H, W). */
export interface Normalisation {
  mean: number | readonly number[];
  deviation: number | readonly number[];
}

/** Mean and standard deviation of MNIST's training pixels, the customary pair. */
export const MNIST_NORMALISATION = { mean: 0.1307, deviation: 0.3081 } as const satisfies Normalisation;

export interface Dataset {
  readonly name: string;
  /** One byte per feature, (rows, features); they become numbers batch by batch. */
  readonly images: Uint8Array<ArrayBuffer>;
  /** Class of each row, (rows), each below `classes`. */
  readonly labels: Uint8Array<ArrayBuffer>;
  readonly rows: number;
  /** Shape of one sample, without the batch: (features). */
  readonly inputShape: readonly number[];
  readonly classes: number;
  readonly normalisation: Normalisation;
}

/** What is trained on, and what is held out. */
export interface DatasetSplits {
  train: Dataset;
  test: Dataset;
}

export interface Batch {
  /** (B, features) f32 */
  x: Tensor;
  /** (B) i32 */
  y: Tensor;
}

/** Pairs images (rows, …) with labels (rows). Throws `bad-file` where they do not fit. `classes`: largest label + 1 if absent. */
export function datasetFromIdx(
  name: string,
  images: IdxFile,
  labels: IdxFile,
  options: { classes?: number; normalisation?: Normalisation } = {},
): Dataset {
  const rows = images.shape[0] ?? 0;
  const features = images.shape.slice(1).reduce((product, size) => product * size, 1);
  if (labels.shape.length !== 1 || labels.shape[0] !== rows)
    throw badPair(`${name} has images (${images.shape.join(', ')}) and labels (${labels.shape.join(', ')}).`);
  if (rows === 0 || features === 0) throw badPair(`${name} has no data: images (${images.shape.join(', ')}).`);
  const largest = labels.data.reduce((a, b) => Math.max(a, b), 0);
  const classes = options.classes ?? largest + 1;
  if (largest >= classes) throw badPair(`${name} has label ${largest}, and only ${classes} classes.`);
  const normalisation = options.normalisation ?? MNIST_NORMALISATION;
  channelsOf(normalisation, features, name);
  return { name, images: images.data, labels: labels.data, rows, inputShape: [features], classes, normalisation };
}

/** Two pairs of images and labels as the halves of one data set. Throws `bad-file` where they are not. */
export function splitsFromIdx(
  name: string,
  files: Record<keyof DatasetSplits, { images: IdxFile; labels: IdxFile }>,
  options: { classes?: number; normalisation?: Normalisation } = {},
): DatasetSplits {
  const half = (split: keyof DatasetSplits, more: typeof options): Dataset =>
    datasetFromIdx(`${name} (${split})`, files[split].images, files[split].labels, more);
  const train = half('train', options);
  // The test set counts as many classes as the training set, also where it lacks the last of them.
  const test = half('test', { ...options, classes: train.classes });
  if (train.inputShape.join() !== test.inputShape.join())
    throw new MeshError(
      'bad-file',
      `${name} trains on samples of (${train.inputShape.join(', ')}) and tests on (${test.inputShape.join(', ')}).`,
      'Give the two halves of the same data set.',
    );
  return { train, test };
}

/**
 * The order in which an epoch visits `rows` samples: a Fisher–Yates shuffle that depends on rows, seed and epoch alone, so
 * that every host which knows them knows the order.
 */
export function epochOrder(rows: number, seed: number, epoch: number): Uint32Array<ArrayBuffer> {
  const order = Uint32Array.from({ length: rows }, (_, i) => i);
  const words = randomWords(seed, epoch);
  for (let last = rows - 1; last > 0; last--) {
    const other = randomBelow(last + 1, words);
    const held = order[last] ?? 0;
    order[last] = order[other] ?? 0;
    order[other] = held;
  }
  return order;
}

/** The samples at `indices` as tensors. Throws `usage` on an index outside the data, and on channels that do not fit it. */
export function batch(dataset: Dataset, indices: ArrayLike<number>): Batch {
  const { images, labels, rows, inputShape } = dataset;
  const features = inputShape.reduce((product, size) => product * size, 1);
  const count = indices.length;
  const channels = channelsOf(dataset.normalisation, features, dataset.name);
  const plane = features / channels;
  const inputs = inputsOfBytes(dataset.normalisation, channels);
  const x = new Float32Array(count * features); // (B, features)
  const y = new Int32Array(count); // (B)
  for (let row = 0; row < count; row++) {
    const index = indices[row] ?? -1;
    if (!Number.isInteger(index) || index < 0 || index >= rows)
      throw new MeshError(
        'usage',
        `${dataset.name} has ${rows} rows; row ${index} was asked for.`,
        'Ask for a row it has.',
      );
    let from = index * features;
    let to = row * features;
    for (let table = 0; table < inputs.length; table += BYTES)
      for (const end = to + plane; to < end; to++) x[to] = inputs[table + (images[from++] ?? 0)] ?? 0;
    y[row] = labels[index] ?? 0;
  }
  return { x: f32Tensor([count, ...inputShape], x), y: i32Tensor([count], y) };
}

/** Values of a byte. */
const BYTES = 256;

/** The input for each byte value, channel by channel: (channels, 256). */
function inputsOfBytes({ mean, deviation }: Normalisation, channels: number): Float32Array<ArrayBuffer> {
  const of = (value: number | readonly number[], channel: number): number =>
    typeof value === 'number' ? value : (value[channel] ?? Number.NaN);
  return Float32Array.from({ length: channels * BYTES }, (_, i) => {
    const channel = Math.floor(i / BYTES);
    return ((i % BYTES) / 255 - of(mean, channel)) / of(deviation, channel);
  });
}

/** How many channels are told apart. Throws `usage` where samples of that many features do not have them. */
function channelsOf({ mean, deviation }: Normalisation, features: number, name: string): number {
  const [one, other] = [mean, deviation].map((value) => (typeof value === 'number' ? null : value.length));
  const channels = one ?? other ?? 1;
  if (channels > 0 && (other ?? channels) === channels && features % channels === 0) return channels;
  throw new MeshError(
    'usage',
    `${name} has ${features} features a sample, and is to be normalised by ${one ?? 1} means and ${other ?? 1} deviations.`,
    'Give one mean and one deviation, or as many of each as the samples have channels.',
  );
}

const badPair = (message: string): MeshError =>
  new MeshError('bad-file', message, 'Give the images and the labels of the same set, image by image.');
