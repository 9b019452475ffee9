// What a model and its stages look like: names, shapes, spans. Pure, and free of WebGPU: the main thread uses it to plan.
import type { StageInfo, StageSpec } from '../compute.ts';
import { MeshError } from '../errors.ts';
import type { ClassifierSpec, ModelSpec } from '../model-spec.ts';
import { elements } from '../tensor.ts';
import { cnnLayers, cnnShape } from './cnn-spec.ts';
import { languageShape } from './language-spec.ts';
import { mlpShape } from './mlp-spec.ts';

/** What a model can be cut into: linear layers of an mlp, convolutions (pooling goes with them) and linear layers of a cnn, blocks of a transformer. */
export function layerCount(model: ModelSpec): number {
  switch (model.family) {
    case 'mlp':
      return model.sizes.length - 1;
    case 'cnn':
      return cnnLayers(model).length;
    case 'gpt2':
      return model.n_layer;
    case 'llama':
      return model.num_hidden_layers;
    default:
      return model satisfies never;
  }
}

/** Layers `from` (inclusive) to `to` (exclusive). Throws `stage-shapes` for a span that the model does not have. */
export function stageInfo(model: ModelSpec, from: number, to: number): StageInfo {
  const count = layerCount(model);
  if (!(Number.isInteger(from) && Number.isInteger(to) && from >= 0 && from < to && to <= count))
    throw new MeshError(
      'stage-shapes',
      `Layers ${from} to ${to} are no part of a model of ${count} layers.`,
      `Choose 0 <= from < to <= ${count}.`,
    );
  const shape = shapeOf(model, from, to);
  const parameterBytes = shape.parameters.reduce((bytes, parameter) => bytes + elements(parameter.shape) * 4, 0);
  return { ...shape, isFirst: from === 0, isLast: to === count, parameterBytes };
}

function shapeOf(model: ModelSpec, from: number, to: number): Omit<StageInfo, 'isFirst' | 'isLast' | 'parameterBytes'> {
  switch (model.family) {
    case 'mlp':
      return mlpShape(model, from, to);
    case 'cnn':
      return cnnShape(model, from, to);
    case 'gpt2':
    case 'llama':
      return languageShape(model, from, to);
    default:
      return model satisfies never;
  }
}

/** What a model makes of a sample: how many numbers it takes, and how many classes it tells apart. */
export function samplesOf(model: ClassifierSpec): { features: number; classes: number } {
  const { inputShape, outputShape } = stageInfo(model, 0, layerCount(model));
  return { features: inputShape[0] ?? 0, classes: outputShape[0] ?? 0 };
}

/** Consecutive spans of the given numbers of layers, e.g. [1, 2] of three layers: 0–1 and 1–3. */
export function splitLayers(model: ModelSpec, counts: readonly number[]): { from: number; to: number }[] {
  const total = counts.reduce((sum, count) => sum + count, 0);
  if (!counts.every((count) => Number.isInteger(count) && count >= 1) || total !== layerCount(model))
    throw new MeshError(
      'stage-shapes',
      `A split into ${counts.join(' + ')} layers does not fit a model of ${layerCount(model)} layers.`,
      'Give every stage at least one layer, and all of them together exactly the layers of the model.',
    );
  let from = 0;
  return counts.map((count) => {
    const span = { from, to: from + count };
    from = span.to;
    return span;
  });
}

/** Moments that an optimizer keeps for each parameter, by PyTorch's names. */
export function momentNames(optimizer: StageSpec['optimizer']): string[] {
  switch (optimizer.name) {
    case 'sgd':
      return optimizer.momentum === 0 ? [] : ['momentum_buffer'];
    case 'adamw':
      return ['exp_avg', 'exp_avg_sq'];
    default:
      return optimizer satisfies never;
  }
}
