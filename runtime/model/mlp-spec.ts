// The mlp family without weights: linear layers with one activation between them and none after the last. Pure.
import type { ParameterInfo, StageInfo } from '../compute.ts';
import type { MlpSpec } from '../model-spec.ts';

/** A layer's shapes: a linear layer with the activation that follows it. */
export interface LayerShape {
  index: number;
  inFeatures: number;
  outFeatures: number;
  activation: MlpSpec['activation'] | null;
}

/** Layers `from` (inclusive) to `to` (exclusive). */
export function layerShapes(model: MlpSpec, from: number, to: number): LayerShape[] {
  const count = model.sizes.length - 1;
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

type Shape = Pick<StageInfo, 'inputShape' | 'inputDtype' | 'outputShape' | 'maxTokens' | 'parameters' | 'tied'>;

export function mlpShape(model: MlpSpec, from: number, to: number): Shape {
  const layers = layerShapes(model, from, to);
  return {
    inputShape: [layers[0]?.inFeatures ?? 0],
    inputDtype: 'f32',
    outputShape: [layers.at(-1)?.outFeatures ?? 0],
    maxTokens: 1,
    parameters: layers.flatMap(layerParameters),
    tied: null,
  };
}
