// From a model's spec to what a stage runs: its layers in order, its head, what must be warm, how its weights begin.
import type { GpuDescription, ParameterInfo, StageSpec } from '../compute.ts';
import type { KernelUse } from '../gpu/kernel-table.ts';
import type { MatmulNeed } from '../gpu/matmul.ts';
import {
  layernorm,
  layernormBackward,
  layernormUses,
  normScratchBytes,
  rmsnorm,
  rmsnormBackward,
  rmsnormUses,
} from '../gpu/norms.ts';
import { isLanguage, type ClassifierSpec, type CnnSpec, type LanguageSpec, type ModelSpec } from '../model-spec.ts';
import { elements } from '../tensor.ts';
import { cnnLayers, cnnParameters } from './cnn-spec.ts';
import { convolutionLayer } from './convolution-layer.ts';
import { embeddingLayer } from './embedding.ts';
import { gpt2Block } from './gpt2.ts';
import { classHead, vocabularyHead, type Head } from './head.ts';
import { dimensionsOf, finalNorm, initialisation } from './language-spec.ts';
import { linearLayer } from './layers.ts';
import { llamaBlock } from './llama.ts';
import { layerParameters, layerShapes } from './mlp-spec.ts';
import type { Layer } from './pass.ts';
import { normal, uniform } from './random.ts';
import { recomputed } from './recompute.ts';
import { layerCount, samplesOf } from './spec.ts';

export interface StageParts {
  layers: Layer[];
  /** Of the last stage. */
  head: Head | null;
  /** Products, beyond what is in `uses`. */
  needs: MatmulNeed[];
  uses: KernelUse[];
}

export function stageParts(spec: StageSpec, device: GpuDescription): StageParts {
  const { model, from, to, recompute } = spec;
  const isFirst = from === 0;
  const isLast = to === layerCount(model);
  if (!isLanguage(model)) {
    const layers =
      model.family === 'mlp' ? layerShapes(model, from, to).map(linearLayer) : cnnParts(model, spec, device);
    return withUses(layers, isLast ? classHead(samplesOf(model).classes) : null);
  }
  const blocks = Array.from({ length: to - from }, (_, i) => {
    const block = model.family === 'gpt2' ? gpt2Block(model, from + i, device) : llamaBlock(model, from + i, device);
    return recompute === true ? recomputed(block, dimensionsOf(model).C) : block;
  });
  const layers = [
    ...(isFirst ? [embeddingLayer(model)] : []),
    ...blocks,
    ...(isLast ? [finalNormLayer(model, device)] : []),
  ];
  return withUses(layers, isLast ? vocabularyHead(model) : null);
}

const cnnParts = (model: CnnSpec, spec: StageSpec, device: GpuDescription): Layer[] =>
  cnnLayers(model)
    .slice(spec.from, spec.to)
    .map((shape) => {
      const isExact = (spec.precision ?? 'f32') === 'f32';
      const layer = shape.kind === 'conv' ? convolutionLayer(shape, device, isExact) : linearLayer(shape);
      return spec.recompute === true ? recomputed(layer, shape.inFeatures) : layer;
    });

const withUses = (layers: Layer[], head: Head | null): StageParts => ({
  layers,
  head,
  needs: [...layers.flatMap((layer) => layer.needs ?? []), ...(head?.needs ?? [])],
  uses: [...layers.flatMap((layer) => layer.uses), ...(head?.uses ?? [])],
});

/** The norm between the last block and the head. */
function finalNormLayer(model: LanguageSpec, device: GpuDescription): Layer {
  const { C, epsilon } = dimensionsOf(model);
  const name = finalNorm(model);
  const isRms = model.family === 'llama';
  const hasBias = model.family === 'gpt2' && model.bias;
  return {
    parameters: [{ name: `${name}.weight`, shape: [C] }, ...(hasBias ? [{ name: `${name}.bias`, shape: [C] }] : [])],
    uses: isRms ? rmsnormUses(device, C) : layernormUses(device, C, hasBias),

    forward(pass, x, rows, keep) {
      const y = pass.take(rows * C * 4);
      const stats = pass.take(rows * 8);
      const w = pass.weight(`${name}.weight`);
      const sizes = { M: rows, C, eps: epsilon };
      if (isRms) rmsnorm(pass.recorder, y, stats, x, w, sizes);
      else layernorm(pass.recorder, y, stats, x, w, hasBias ? pass.weight(`${name}.bias`) : null, sizes);
      if (keep) return { y, saved: [x, stats] };
      pass.give(x);
      pass.give(stats);
      return { y, saved: [] };
    },

    backward(pass, saved, dy, rows) {
      const [x, stats] = saved;
      if (!x || !stats) throw new Error('the last norm lost what it saved');
      const dx = pass.take(rows * C * 4);
      const w = pass.weight(`${name}.weight`);
      const dw = pass.gradient(`${name}.weight`);
      const sizes = { M: rows, C };
      const scratch = pass.take(normScratchBytes(sizes));
      if (isRms) rmsnormBackward(pass.recorder, dx, dw, dy, x, stats, w, sizes, false, scratch);
      else {
        const db = hasBias ? pass.gradient(`${name}.bias`) : null;
        layernormBackward(pass.recorder, dx, { dw, db }, dy, x, stats, w, sizes, false, scratch);
      }
      for (const slice of [x, stats, dy, scratch]) pass.give(slice);
      return dx;
    },
  };
}

/**
 * A parameter before training, each from its own stream of random numbers, so that every split begins alike. mlp and cnn: U(-1/√in,
 * 1/√in) for weights (out, in …) and biases, as PyTorch's nn.Linear and nn.Conv2d; transformers: see `initialisation`.
 */
export function initialValues(
  model: ModelSpec,
  seed: number,
  { name, shape }: ParameterInfo,
): Float32Array<ArrayBuffer> {
  const count = elements(shape);
  if (!isLanguage(model)) {
    const [weight] = parametersOf(model, Number(name.split('.')[1]));
    const inputs = elements(weight?.shape.slice(1) ?? []); // to one value of what comes out
    return uniform(seed, name, count, 1 / Math.sqrt(inputs));
  }
  const start = initialisation(model, name);
  return 'value' in start ? new Float32Array(count).fill(start.value) : normal(seed, name, count, start.deviation);
}

/** Of one layer: its weight, then its bias. */
const parametersOf = (model: ClassifierSpec, index: number): ParameterInfo[] =>
  model.family === 'mlp'
    ? layerShapes(model, index, index + 1).flatMap(layerParameters)
    : cnnLayers(model)
        .slice(index, index + 1)
        .flatMap(cnnParameters);
