// The cnn family without weights: what each convolution, the pooling after it and each linear layer make of a sample. Pure.
// A sample is (C, height, width) where it comes in and where linear layers read it, as in PyTorch; between convolutions its
// channels lie last. Either way it travels flat.
import type { ParameterInfo, StageInfo } from '../compute.ts';
import { windowsIn, type CnnSpec } from '../model-spec.ts';
import { biasName, layerParameters, weightName, type LayerShape } from './mlp-spec.ts';

export interface ImageShape {
  C: number;
  height: number;
  width: number;
  layout: 'chw' | 'hwc';
}

/** Windows over the images x, size × size, and the image that has a pixel for each. */
export interface WindowShape {
  x: ImageShape;
  size: number;
  stride: number;
  padding: number;
  y: ImageShape;
}

export interface PoolShape extends WindowShape {
  pool: 'max' | 'average';
}

/** A convolution with the activation that follows it, then the pooling, which may do no more than put channels first. */
export interface ConvolutionShape extends WindowShape {
  kind: 'conv';
  index: number;
  activation: CnnSpec['activation'];
  pools: PoolShape[];
  inFeatures: number;
  outFeatures: number;
}

export type CnnLayerShape = ConvolutionShape | (LayerShape & { kind: 'linear' });

/** Values of one image. */
const valuesOf = ({ C, height, width }: ImageShape): number => C * height * width;

/** All layers that have weights, in order. */
export function cnnLayers({ input: [C, height, width], layers, activation }: CnnSpec): CnnLayerShape[] {
  const shapes: CnnLayerShape[] = [];
  let image: ImageShape = { C, height, width, layout: 'chw' };
  let features = valuesOf(image);
  for (const [i, layer] of layers.entries()) {
    const index = shapes.length;
    if (layer.kind === 'linear') {
      const isLast = i === layers.length - 1;
      const shape = { index, inFeatures: features, outFeatures: layer.features };
      shapes.push({ kind: 'linear', ...shape, activation: isLast ? null : activation });
      features = layer.features;
      continue;
    }
    const last = shapes.at(-1);
    if (layer.kind === 'conv') {
      const { channels, kernel: size, stride, padding } = layer;
      const over = through(image, { C: channels, size, stride, padding });
      shapes.push({ kind: 'conv', index, activation, ...over, pools: [], inFeatures: features, outFeatures: 0 });
      image = over.y;
    } else if (last?.kind === 'conv') {
      const { pool, size, stride } = layer;
      const over = through(image, { C: image.C, size, stride: stride ?? size, padding: 0 });
      last.pools.push({ pool, ...over });
      image = over.y;
    }
    features = valuesOf(image);
  }
  for (const [i, shape] of shapes.entries()) if (shape.kind === 'conv') finish(shape, shapes[i + 1]?.kind === 'linear');
  return shapes;
}

/** Windows over an image give one with channels last. */
function through(
  x: ImageShape,
  { C, size, stride, padding }: { C: number; size: number; stride: number; padding: number },
): WindowShape {
  const along = (length: number): number => windowsIn(length, size, stride, padding);
  return { x, size, stride, padding, y: { C, height: along(x.height), width: along(x.width), layout: 'hwc' } };
}

/** What linear layers read has its channels first: the last pooling sees to that, or one of single pixels. */
function finish(shape: ConvolutionShape, isBeforeLinear: boolean): void {
  const last = shape.pools.at(-1);
  const image = last?.y ?? shape.y;
  shape.outFeatures = valuesOf(image);
  if (!isBeforeLinear) return;
  const y: ImageShape = { ...image, layout: 'chw' };
  if (last) last.y = y;
  else shape.pools.push({ pool: 'average', x: image, size: 1, stride: 1, padding: 0, y });
}

/** Layer i has `layers.<i>.weight`, of a convolution (out, in, size, size), and `layers.<i>.bias` (out). */
export function cnnParameters(shape: CnnLayerShape): ParameterInfo[] {
  if (shape.kind === 'linear') return layerParameters(shape);
  const { index, x, y, size } = shape;
  return [
    { name: weightName(index), shape: [y.C, x.C, size, size] },
    { name: biasName(index), shape: [y.C] },
  ];
}

type Shape = Pick<StageInfo, 'inputShape' | 'inputDtype' | 'outputShape' | 'maxTokens' | 'parameters' | 'tied'>;

/** Layers `from` (inclusive) to `to` (exclusive). */
export function cnnShape(model: CnnSpec, from: number, to: number): Shape {
  const layers = cnnLayers(model).slice(from, to);
  return {
    inputShape: [layers[0]?.inFeatures ?? 0],
    inputDtype: 'f32',
    outputShape: [layers.at(-1)?.outFeatures ?? 0],
    maxTokens: 1,
    parameters: layers.flatMap(cnnParameters),
    tied: null,
  };
}
