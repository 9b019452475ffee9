// A page without a face: the compute engine on the browser's own WebGPU, which takes one training step of a model that the test hands
// over, as often as there are splits. It compares nothing.
import { createCompute } from '../../../runtime/compute-engine.ts';
import type { Compute } from '../../../runtime/compute.ts';
import { modelSpecSchema, type ModelSpec } from '../../../runtime/model-spec.ts';
import { fromHuggingFace, toHuggingFace } from '../../../runtime/model/huggingface.ts';
import { splitLayers } from '../../../runtime/model/spec.ts';
import { decode, encode } from '../../../runtime/safetensors.ts';
import { f32Of, f32Tensor, i32Of, type Tensor, type Tensors } from '../../../runtime/tensor.ts';
import { computePlatform } from '../../../web/compute-platform.ts';

export interface PageStep {
  /** JSON. */
  model: string;
  /** Weights by Hugging Face's names, input_ids and labels: safetensors in base64. */
  tensors: string;
  /** Layers per stage, for each step to take. */
  splits: number[][];
}

export interface PageResult {
  loss: number;
  /** By Hugging Face's names: safetensors in base64. */
  gradients: string;
}

export interface StepPage {
  describe: Compute['describe'];
  steps(given: PageStep): Promise<PageResult[]>;
}

const { compute } = createCompute(computePlatform);

const bytesOf = (base64: string): Uint8Array<ArrayBuffer> =>
  Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
const base64Of = (bytes: Uint8Array): string => btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(''));

/** With memory of its own: a call takes it along. */
function copyOf(tensors: Tensors, name: string): Tensor {
  const tensor = tensors.get(name);
  if (!tensor) throw new Error(`${name} was not given`);
  return { ...tensor, data: tensor.data.slice() };
}

async function step(model: ModelSpec, given: Tensors, weights: Tensors, counts: number[]): Promise<PageResult> {
  const stages: number[] = [];
  for (const span of splitLayers(model, counts)) {
    const optimizer = { name: 'sgd', lr: 1e-3, momentum: 0, weightDecay: 0 } as const;
    const { stage, info } = await compute.open({ model, ...span, seed: 0, optimizer });
    await compute.write(stage, 'weights', new Map(info.parameters.map(({ name }) => [name, copyOf(weights, name)])));
    stages.push(stage);
  }
  const before = stages.slice(0, -1);
  let activation = copyOf(given, 'input_ids');
  for (const stage of before) activation = await compute.forward(stage, 'one', activation, { keep: true });
  const labels = copyOf(given, 'labels');
  const scale = 1 / i32Of(labels).filter((label) => label !== -100).length;
  const options = { scale, train: true, accumulate: true };
  const { loss, dx } = await compute.loss(stages.at(-1) ?? -1, activation, labels, options);
  let slope = dx;
  for (const stage of before.reverse())
    slope = slope === null ? null : await compute.backward(stage, 'one', slope, { accumulate: true });
  const gradients = new Map<string, Tensor>();
  for (const stage of stages) {
    for (const [name, tensor] of await compute.read(stage, 'gradients')) {
      const other = gradients.get(name);
      // Both ends have a tied embedding; their gradients add up.
      const sum = other && f32Of(other).map((value, i) => value + (f32Of(tensor)[i] ?? 0));
      gradients.set(name, sum ? f32Tensor(tensor.shape, sum) : tensor);
    }
    await compute.close(stage);
  }
  return { loss, gradients: base64Of(encode(toHuggingFace(model, gradients))) };
}

const stepPage: StepPage = {
  describe: () => compute.describe(),
  async steps({ model: text, tensors, splits }) {
    const model = modelSpecSchema.parse(JSON.parse(text));
    const given = decode(bytesOf(tensors)).tensors;
    const names = [...given.keys()].filter((name) => name !== 'input_ids' && name !== 'labels');
    const weights = fromHuggingFace(model, new Map(names.map((name) => [name, copyOf(given, name)])));
    const results: PageResult[] = [];
    for (const counts of splits) results.push(await step(model, given, weights, counts));
    return results;
  },
};
Object.assign(globalThis, { stepPage });
