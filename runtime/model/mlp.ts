// The mlp family: linear layers with one activation between them and none after the last. Initialised as PyTorch's nn.Linear.
import type { ModelSpec, ParameterInfo } from '../compute.ts';
import { linearLayer, type Layer } from './layers.ts';
import { uniform } from './random.ts';
import { layerShapes } from './spec.ts';

export function mlpLayers(model: ModelSpec, from: number, to: number): Layer[] {
  return layerShapes(model, from, to).map(linearLayer);
}

/** U(-1/√in, 1/√in) for weights (out, in) and their bias (out), each from its own stream. */
export function initialValues(
  model: ModelSpec,
  seed: number,
  { name, shape }: ParameterInfo,
): Float32Array<ArrayBuffer> {
  const inFeatures = model.sizes[Number(name.split('.')[1])] ?? 1;
  const count = shape.reduce((product, size) => product * size, 1);
  return uniform(seed, name, count, 1 / Math.sqrt(inFeatures));
}
