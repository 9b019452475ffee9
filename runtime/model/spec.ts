// What a model and its stages look like: names, shapes, spans. Pure, and free of WebGPU: the main thread uses it to plan.
import type { ModelSpec, ParameterInfo, StageInfo, StageSpec } from '../compute.ts';
import { MeshError } from '../errors.ts';
import { elements } from '../tensor.ts';

/** A layer's shapes, without weights: a linear layer with the activation that follows it. */
export interface LayerShape {
  index: number;
  inFeatures: number;
  outFeatures: number;
  activation: ModelSpec['activation'] | null;
}

export const layerCount = (model: ModelSpec): number => model.sizes.length - 1;

/** Layers `from` (inclusive) to `to` (exclusive). Throws `stage-shapes` for a span that the model does not have. */
export function layerShapes(model: ModelSpec, from: number, to: number): LayerShape[] {
  const count = layerCount(model);
  if (!(Number.isInteger(from) && Number.isInteger(to) && from >= 0 && from < to && to <= count))
    throw new MeshError(
      'stage-shapes',
      `Layers ${from} to ${to} are no part of a model of ${count} layers.`,
      `Choose 0 <= from < to <= ${count}.`,
    );
  return Array.from({ length: to - from }, (_, i) => {
    const index = from + i;
    const inFeatures = model.sizes[index] ?? 0;
    const outFeatures = model.sizes[index + 1] ?? 0;
    return { index, inFeatures, outFeatures, activation: index === count - 1 ? null : model.activation };
  });
}

export const weightName = (layer: number): string => `layers.${layer}.weight`;
export const biasName = (layer: number): string => `layers.${layer}.bias`;

/** Layer i has `layers.<i>.weight` (out, in) and `layers.<i>.bias` (out). */
export const layerParameters = ({ index, inFeatures, outFeatures }: LayerShape): ParameterInfo[] => [
  { name: weightName(index), shape: [outFeatures, inFeatures] },
  { name: biasName(index), shape: [outFeatures] },
];

export function stageInfo(model: ModelSpec, from: number, to: number): StageInfo {
  const layers = layerShapes(model, from, to);
  const parameters = layers.flatMap(layerParameters);
  return {
    inputShape: [layers[0]?.inFeatures ?? 0],
    outputShape: [layers.at(-1)?.outFeatures ?? 0],
    isFirst: from === 0,
    isLast: to === layerCount(model),
    parameters,
    parameterBytes: parameters.reduce((bytes, { shape }) => bytes + elements(shape) * 4, 0),
  };
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
