// Labelled samples in memory, the order of an epoch, and the batches of tensors that a trainer sends. Knows no files.
import { MeshError } from '../errors.ts';
import { f32Tensor, i32Tensor, type Tensor } from '../tensor.ts';
import type { IdxFile } from './idx.ts';
import { randomBelow, randomWords } from './random.ts';

/** How bytes become inputs: (byte / 255 − mean) / deviation. */
export interface Normalisation {
  mean: number;
  deviation: number;
}

/** Mean and standard deviation of MNIST's training pixels, the customary pair. */
export const MNIST_NORMALISATION: Normalisation = { mean: 0.1307, deviation: 0.3081 };

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
  return { name, images: images.data, labels: labels.data, rows, inputShape: [features], classes, normalisation };
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

/** The samples at `indices` as tensors. Throws `usage` on an index outside the data. */
export function batch(dataset: Dataset, indices: ArrayLike<number>): Batch {
  const { images, labels, rows, inputShape } = dataset;
  const features = inputShape.reduce((product, size) => product * size, 1);
  const count = indices.length;
  const scale = inputOfByte(dataset.normalisation);
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
    const from = index * features;
    for (let i = 0; i < features; i++) x[row * features + i] = scale[images[from + i] ?? 0] ?? 0;
    y[row] = labels[index] ?? 0;
  }
  return { x: f32Tensor([count, ...inputShape], x), y: i32Tensor([count], y) };
}

/** The input for each of the 256 byte values. */
const inputOfByte = ({ mean, deviation }: Normalisation): Float32Array<ArrayBuffer> =>
  Float32Array.from({ length: 256 }, (_, byte) => (byte / 255 - mean) / deviation);

const badPair = (message: string): MeshError =>
  new MeshError('bad-file', message, 'Give the images and the labels of the same set, image by image.');
