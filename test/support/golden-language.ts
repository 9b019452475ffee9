// Golden language models (test/golden/lm) as a user has them: a model file, weights by Hugging Face's names, a batch; and whether the
// outcome of one training step agrees with PyTorch's. Nothing here computes.
import assert from 'node:assert/strict';
import { readFileSync, readdirSync } from 'node:fs';
import { decode } from '../../runtime/safetensors.ts';
import { f32Of, type Tensor } from '../../runtime/tensor.ts';
import { relativeError } from '../reference/kernels.ts';

const folder = new URL('../golden/lm/', import.meta.url);

export const GOLDEN_LANGUAGE_MODELS = readdirSync(folder)
  .filter((file) => file.endsWith('.safetensors'))
  .map((file) => file.replace('.safetensors', ''));

/** Of the golden optimizer: see the folder's README. */
export const ADAMW_LR = 1e-3;
export const ADAMW_FLAGS = [
  ...['--optimizer', 'adamw', '--lr', String(ADAMW_LR)],
  ...['--beta1', '0.9', '--beta2', '0.95', '--eps', '1e-8', '--weight-decay', '0.1'],
];

export interface GoldenModel {
  name: string;
  /** The text of its JSON. */
  model: string;
  layers: number;
  weights: Map<string, Tensor>;
  batch: Map<string, Tensor>;
  loss: number;
  gradients: Map<string, Tensor>;
  /** Weights after one step of AdamW. */
  stepped: Map<string, Tensor>;
}

export function goldenModel(name: string): GoldenModel {
  const model = readFileSync(new URL(`${name}.json`, folder), 'utf8');
  const { tensors } = decode(new Uint8Array(readFileSync(new URL(`${name}.safetensors`, folder))));
  const under = (prefix: string): Map<string, Tensor> =>
    new Map([...tensors].flatMap(([key, t]) => (key.startsWith(prefix) ? [[key.slice(prefix.length), t]] : [])));
  const gradients = under('grad.');
  const loss = tensors.get('loss');
  assert.ok(loss);
  return {
    name,
    model,
    layers: Number(/"(?:n_layer|num_hidden_layers)": (\d+)/.exec(model)?.[1]),
    weights: new Map([...tensors].filter(([key]) => gradients.has(key))),
    batch: new Map([...tensors].filter(([key]) => key === 'input_ids' || key === 'labels')),
    loss: f32Of(loss)[0] ?? NaN,
    gradients,
    stepped: under('adamw.'),
  };
}

const normOf = (values: Float32Array): number => Math.sqrt(values.reduce((sum, value) => sum + value * value, 0));

export interface Tolerance {
  /** Absolute or relative, whichever is more. */
  loss: number;
  /** Of each gradient, relative to its norm. */
  gradient: number;
}
export const PARITY: Tolerance = { loss: 1e-5, gradient: 2e-4 };
/** What is left of a gradient whose true norm is 0, of the largest norm of all. */
const ROUNDING = 1e-7;

/** Asserts that a step's loss and gradients are the golden ones, by the same names and in the same shapes. Returns the largest errors. */
export function assertGradients(
  golden: Pick<GoldenModel, 'loss' | 'gradients'>,
  loss: number,
  gradients: ReadonlyMap<string, Tensor>,
  tolerance = PARITY,
): Tolerance {
  const lossError = Math.abs(loss - golden.loss);
  assert.ok(lossError <= tolerance.loss * Math.max(1, golden.loss), `loss ${loss}, wanted ${golden.loss}`);
  assert.deepEqual([...gradients.keys()].sort(), [...golden.gradients.keys()].sort());
  const largest = Math.max(...[...golden.gradients.values()].map((tensor) => normOf(f32Of(tensor))));
  let worst = 0;
  for (const [name, wanted] of golden.gradients) {
    const got = gradients.get(name);
    assert.deepEqual(got?.shape, wanted.shape, name);
    const values = f32Of(got);
    if (normOf(f32Of(wanted)) <= ROUNDING * ROUNDING * largest) {
      assert.ok(normOf(values) <= ROUNDING * largest, `gradient of ${name}: ${normOf(values)}, wanted 0`);
      continue;
    }
    const error = relativeError(values, f32Of(wanted));
    worst = Math.max(worst, error);
    assert.ok(error <= tolerance.gradient, `gradient of ${name}: relative error ${error}`);
  }
  return { loss: lossError, gradient: worst };
}

/** Asserts that AdamW's first step lands where PyTorch's does; where the gradient is only rounding, its sign, and so the step, is too. */
export function assertStepped(golden: GoldenModel, weights: ReadonlyMap<string, Tensor>): void {
  assert.deepEqual([...weights.keys()].sort(), [...golden.stepped.keys()].sort());
  for (const [name, wanted] of golden.stepped) {
    const got = weights.get(name);
    const gradient = golden.gradients.get(name);
    assert.ok(got && gradient, name);
    assert.deepEqual(got.shape, wanted.shape, name);
    const slopes = f32Of(gradient);
    const after = f32Of(got);
    f32Of(wanted).forEach((value, i) => {
      const error = Math.abs((after[i] ?? NaN) - value);
      const limit = Math.abs(slopes[i] ?? 0) >= 1e-5 ? 1e-6 * Math.max(1, Math.abs(value)) : ADAMW_LR * 1.001;
      assert.ok(error <= limit, `${name}[${i}] is ${after[i]} after the step, wanted ${value}; gradient ${slopes[i]}`);
    });
  }
}

/** All layers in so many stages, the first ones the larger. */
export const evenSplit = (layers: number, stages: number): number[] =>
  Array.from({ length: stages }, (_, i) => Math.floor(layers / stages) + (i < layers % stages ? 1 : 0));
