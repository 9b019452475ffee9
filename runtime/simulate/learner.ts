// What workers train: a small perceptron on real images, in plain typed arrays, by plain SGD. Only operations that IEEE 754 fixes are used,
// so that a run gives the same numbers on every host.
import { MeshError } from '../errors.ts';
import { uniform } from '../model/random.ts';
import { exp } from '../train/dirichlet.ts';
import type { SimulationConfig } from './config.ts';

/** Labelled images as the host has them. */
export interface LabelledImages {
  /** (rows, features), a byte each */
  readonly images: Uint8Array;
  /** (rows) */
  readonly labels: Uint8Array;
  readonly rows: number;
  readonly features: number;
}

export interface SimulationData {
  readonly train: LabelledImages;
  readonly test: LabelledImages;
  readonly classes: number;
}

/** Rows whose zeros are left out: most of an image is background. */
export interface Rows {
  /** (rows + 1): where each row begins in `indices` and `values`. */
  readonly starts: Uint32Array;
  readonly indices: Uint16Array;
  readonly values: Float32Array;
  readonly labels: Uint8Array;
  readonly features: number;
  /** What a zero stands for, and is to be added to every value. */
  readonly shift: number;
}

/** Of MNIST's pixels. */
const MEAN = 0.1307;
const DEVIATION = 0.3081;

/**
 * The first `rows` rows, square images made smaller by `pool`: a pixel is `pool` times the mean of those that it stands for, so that an image
 * keeps its length, and a learning rate its effect.
 */
export function rowsOf(images: LabelledImages, rows: number, pool: number): Rows {
  const side = Math.round(Math.sqrt(images.features));
  if (pool > 1 && (side * side !== images.features || side % pool !== 0))
    throw new MeshError(
      'usage',
      `Samples of ${images.features} features cannot be made smaller by ${pool}.`,
      'Set learning.pool to a divisor of the side of a square image, or to 1.',
    );
  const count = Math.min(rows, images.rows);
  const small = side / pool;
  const features = pool > 1 ? small * small : images.features;
  const starts = new Uint32Array(count + 1);
  const indices: number[] = [];
  const values: number[] = [];
  for (let row = 0; row < count; row += 1) {
    const image = images.images.subarray(row * images.features, (row + 1) * images.features);
    for (let f = 0; f < features; f += 1) {
      const sum = pool > 1 ? sumOfBlock(image, side, pool, f % small, Math.floor(f / small)) : (image[f] ?? 0);
      if (sum === 0) continue;
      indices.push(f);
      values.push(sum / pool / 255 / DEVIATION);
    }
    starts[row + 1] = indices.length;
  }
  const labels = images.labels.slice(0, count);
  const shift = (-pool * MEAN) / DEVIATION;
  return { starts, indices: Uint16Array.from(indices), values: Float32Array.from(values), labels, features, shift };
}

function sumOfBlock(image: Uint8Array, side: number, pool: number, x: number, y: number): number {
  let sum = 0;
  for (let dy = 0; dy < pool; dy += 1)
    for (let dx = 0; dx < pool; dx += 1) sum += image[(y * pool + dy) * side + x * pool + dx] ?? 0;
  return sum;
}

/** F features, H hidden, C classes. Parameters lie as weights (F, H), bias (H), weights (H, C), bias (C). */
export class Learner {
  readonly parameters: number;
  readonly #rows: Rows;
  readonly #hidden: number;
  readonly #classes: number;
  readonly #learningRate: number;
  readonly #gradient: Float32Array;
  readonly #column: Float64Array; // (H) sums of the first weights over features
  readonly #z: Float64Array; // (H)
  readonly #dz: Float64Array; // (H)
  readonly #dzSum: Float64Array; // (H)
  readonly #out: Float64Array; // (C)

  constructor(rows: Rows, classes: number, { hidden, learningRate }: SimulationConfig['learning']) {
    this.#rows = rows;
    this.#hidden = hidden;
    this.#classes = classes;
    this.#learningRate = learningRate;
    this.parameters = rows.features * hidden + hidden + hidden * classes + classes;
    this.#gradient = new Float32Array(this.parameters);
    this.#column = new Float64Array(hidden);
    this.#z = new Float64Array(hidden);
    this.#dz = new Float64Array(hidden);
    this.#dzSum = new Float64Array(hidden);
    this.#out = new Float64Array(classes);
  }

  /** The weights that all workers begin with. */
  initial(seed: number): Float32Array {
    const { features } = this.#rows;
    const weights = new Float32Array(this.parameters);
    weights.set(uniform(seed, 'hidden', features * this.#hidden, Math.sqrt(1 / features)));
    const second = uniform(seed, 'output', this.#hidden * this.#classes, Math.sqrt(1 / this.#hidden));
    weights.set(second, features * this.#hidden + this.#hidden);
    return weights;
  }

  /** One step of SGD on the mean cross-entropy of these rows, in place. */
  step(weights: Float32Array, batch: ArrayLike<number>): void {
    const [H, C, gradient] = [this.#hidden, this.#classes, this.#gradient];
    const { starts, indices, values, labels, features, shift } = this.#rows;
    const [secondAt, dz, dzSum, z, out] = [features * H + H, this.#dz, this.#dzSum, this.#z, this.#out];
    const outBiasAt = secondAt + H * C;
    gradient.fill(0);
    dzSum.fill(0);
    this.#sumColumns(weights, features);
    for (let b = 0; b < batch.length; b += 1) {
      const row = batch[b] ?? 0;
      this.#forward(weights, this.#rows, row);
      softmax(out);
      const label = labels[row] ?? 0;
      out[label] = (out[label] ?? 0) - 1;
      for (let c = 0; c < C; c += 1) gradient[outBiasAt + c] = (gradient[outBiasAt + c] ?? 0) + (out[c] ?? 0);
      for (let h = 0; h < H; h += 1) {
        const active = z[h] ?? 0;
        dz[h] = 0;
        if (active <= 0) continue;
        let back = 0;
        for (let c = 0; c < C; c += 1) {
          const at = secondAt + h * C + c;
          const error = out[c] ?? 0;
          back += (weights[at] ?? 0) * error;
          gradient[at] = (gradient[at] ?? 0) + active * error;
        }
        dz[h] = back;
        dzSum[h] = (dzSum[h] ?? 0) + back;
      }
      const end = starts[row + 1] ?? 0;
      for (let k = starts[row] ?? 0; k < end; k += 1) {
        const value = values[k] ?? 0;
        const base = (indices[k] ?? 0) * H;
        for (let h = 0; h < H; h += 1) gradient[base + h] = (gradient[base + h] ?? 0) + value * (dz[h] ?? 0);
      }
    }
    const rate = this.#learningRate / batch.length;
    for (let f = 0; f < features; f += 1)
      for (let h = 0; h < H; h += 1) {
        const at = f * H + h;
        weights[at] = (weights[at] ?? 0) - rate * ((gradient[at] ?? 0) + shift * (dzSum[h] ?? 0));
      }
    for (let h = 0; h < H; h += 1)
      weights[features * H + h] = (weights[features * H + h] ?? 0) - rate * (dzSum[h] ?? 0);
    for (let at = secondAt; at < weights.length; at += 1) weights[at] = (weights[at] ?? 0) - rate * (gradient[at] ?? 0);
  }

  /** Share of the rows that are told right. */
  accuracy(weights: Float32Array, rows: Rows): number {
    this.#sumColumns(weights, rows.features);
    let right = 0;
    for (let row = 0; row < rows.labels.length; row += 1) {
      this.#forward(weights, rows, row);
      let best = 0;
      for (let c = 1; c < this.#classes; c += 1) if ((this.#out[c] ?? 0) > (this.#out[best] ?? 0)) best = c;
      if (best === rows.labels[row]) right += 1;
    }
    return right / rows.labels.length;
  }

  /** What the shift of all features adds to a hidden unit. */
  #sumColumns(weights: Float32Array, features: number): void {
    const [H, column] = [this.#hidden, this.#column];
    column.fill(0);
    for (let f = 0; f < features; f += 1)
      for (let h = 0; h < H; h += 1) column[h] = (column[h] ?? 0) + (weights[f * H + h] ?? 0);
  }

  /** Hidden values, none below 0, and the classes' values before the softmax. */
  #forward(weights: Float32Array, rows: Rows, row: number): void {
    const [H, C, z, out] = [this.#hidden, this.#classes, this.#z, this.#out];
    const { starts, indices, values, features, shift } = rows;
    const biasAt = features * H;
    for (let h = 0; h < H; h += 1) z[h] = (weights[biasAt + h] ?? 0) + shift * (this.#column[h] ?? 0);
    const [begin, end] = [starts[row] ?? 0, starts[row + 1] ?? 0];
    let first = 0;
    // Eight sums at a time in local variables: most of a run's time is spent here.
    for (; first + 8 <= H; first += 8) {
      let a = 0;
      let b = 0;
      let c = 0;
      let d = 0;
      let e = 0;
      let f = 0;
      let g = 0;
      let h = 0;
      for (let k = begin; k < end; k += 1) {
        const value = values[k] ?? 0;
        const at = (indices[k] ?? 0) * H + first;
        a += value * (weights[at] ?? 0);
        b += value * (weights[at + 1] ?? 0);
        c += value * (weights[at + 2] ?? 0);
        d += value * (weights[at + 3] ?? 0);
        e += value * (weights[at + 4] ?? 0);
        f += value * (weights[at + 5] ?? 0);
        g += value * (weights[at + 6] ?? 0);
        h += value * (weights[at + 7] ?? 0);
      }
      z[first] = (z[first] ?? 0) + a;
      z[first + 1] = (z[first + 1] ?? 0) + b;
      z[first + 2] = (z[first + 2] ?? 0) + c;
      z[first + 3] = (z[first + 3] ?? 0) + d;
      z[first + 4] = (z[first + 4] ?? 0) + e;
      z[first + 5] = (z[first + 5] ?? 0) + f;
      z[first + 6] = (z[first + 6] ?? 0) + g;
      z[first + 7] = (z[first + 7] ?? 0) + h;
    }
    for (; first < H; first += 1) {
      let sum = 0;
      for (let k = begin; k < end; k += 1) sum += (values[k] ?? 0) * (weights[(indices[k] ?? 0) * H + first] ?? 0);
      z[first] = (z[first] ?? 0) + sum;
    }
    const secondAt = biasAt + H;
    const outBiasAt = secondAt + H * C;
    for (let c = 0; c < C; c += 1) out[c] = weights[outBiasAt + c] ?? 0;
    for (let h = 0; h < H; h += 1) {
      const active = z[h] ?? 0;
      if (active <= 0) z[h] = 0;
      else for (let c = 0; c < C; c += 1) out[c] = (out[c] ?? 0) + active * (weights[secondAt + h * C + c] ?? 0);
    }
  }
}

function softmax(values: Float64Array): void {
  let largest = -Infinity;
  for (const value of values) largest = Math.max(largest, value);
  let sum = 0;
  for (let c = 0; c < values.length; c += 1) {
    const share = exp((values[c] ?? 0) - largest);
    values[c] = share;
    sum += share;
  }
  for (let c = 0; c < values.length; c += 1) values[c] = (values[c] ?? 0) / sum;
}

/** Squared distance of two models in [from, to). */
export function squaredDistance(a: Float32Array, b: Float32Array, from = 0, to = a.length): number {
  let sum = 0;
  for (let k = from; k < to; k += 1) {
    const difference = (a[k] ?? 0) - (b[k] ?? 0);
    sum += difference * difference;
  }
  return sum;
}
