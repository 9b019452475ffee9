// A convolution, the activation after it and its pooling, forward and backward, as recordings: windows unfolded into rows, a few
// samples at a time where all would be too many, and products with the weights. Weights, gradients and buffers are the stage's.
import type { GpuDescription } from '../compute.ts';
import type { Slice } from '../gpu/buffers.ts';
import {
  convolutionBackwardWeights,
  hasOwnWeightsKernel,
  imageSize,
  neighboursOf,
  pool,
  poolBackward,
  poolUses,
  rowsOf,
  spreadUses,
  spreadWeights,
  spreadWeightsBackward,
  tapsOf,
  unfold,
  unfoldBackward,
  unfoldUses,
  weightParts,
  weightsUses,
  widthsOf,
  windowsOf,
  type Samples,
  type Unfolding,
} from '../gpu/convolution.ts';
import { matmulNn, matmulNt, matmulTn, type MatmulNeed, type WeightFormat } from '../gpu/matmul.ts';
import { activate, activateBackward, activationUses, biasBackward } from '../gpu/ops.ts';
import { cnnParameters, type ConvolutionShape } from './cnn-spec.ts';
import { biasName, weightName } from './mlp-spec.ts';
import type { Layer, Pass } from './pass.ts';

/** Bytes of unfolded rows in memory at once. */
const UNFOLDED_BYTES = 32 * 2 ** 20;

/** The weights as products read them: those of the layer, or `across` times side by side. */
interface ProductWeights {
  w: Slice;
  b: Slice;
  format: WeightFormat;
}

/** `isExact`: weights are read in f32; where not, each window has a row of its own, because 16-bit weights are not spread. */
export function convolutionLayer(shape: ConvolutionShape, device: GpuDescription, isExact: boolean): Layer {
  const { index, activation, pools } = shape;
  const over: Unfolding = { ...shape, across: isExact ? neighboursOf(shape) : 1 };
  const isSpread = over.across > 1;
  const isOwn = hasOwnWeightsKernel(device);
  /** Rows of a sample, their taps, and the columns of the product with the weights. */
  const [R, K, N] = [rowsOf(over), widthsOf(over), over.across * shape.y.C];
  const zSize = imageSize(shape.y);
  /** The slope of relu can be told from its result, so the product may as well apply it. */
  const fused: Pick<MatmulNeed, 'activation'> = activation === 'relu' ? { activation } : {};
  const isFused = activation === 'relu';

  /** Samples that are unfolded together, and where they begin in z. */
  function* pieces(pass: Pass, rows: number): Generator<Samples & { offset: number }> {
    const most = Math.max(1, Math.floor(Math.min(UNFOLDED_BYTES, pass.maxBinding) / (R * K * 4)));
    for (let first = 0; first < rows; first += most)
      yield { first, count: Math.min(most, rows - first), offset: first * zSize };
  }

  const unfolded = (pass: Pass, x: Slice, samples: Samples): Slice => {
    const cols = pass.take(samples.count * R * K * 4); // (samples · R, K)
    unfold(pass.recorder, cols, x, over, samples);
    return cols;
  };

  function productWeights(pass: Pass): ProductWeights {
    if (!isSpread) {
      const { slice: w, format } = pass.matrix(weightName(index));
      return { w, b: pass.weight(biasName(index)), format };
    }
    const wide = { w: pass.take(N * K * 4), b: pass.take(N * 4) };
    spreadWeights(pass.recorder, wide, { w: pass.weight(weightName(index)), b: pass.weight(biasName(index)) }, over);
    return { ...wide, format: 'f32' };
  }

  function giveWeights(pass: Pass, { w, b }: ProductWeights): void {
    if (!isSpread) return;
    pass.give(w);
    pass.give(b);
  }

  const activated = (pass: Pass, z: Slice, rows: number): Slice => {
    const y = pass.take(rows * zSize * 4);
    activate(pass.recorder, activation, y, z, rows * zSize);
    return y;
  };

  /** What `count` poolings see, the first of them what the activation gave, and what the last gives. */
  function pooled(pass: Pass, first: Slice, rows: number, count: number): Slice[] {
    const images = [first];
    for (const windows of pools.slice(0, count)) {
      const y = pass.take(rows * imageSize(windows.y) * 4);
      pool(pass.recorder, windows.pool, y, images.at(-1) ?? first, windows, rows);
      images.push(y);
    }
    return images;
  }

  function backwardPools(pass: Pass, z: Slice, dy: Slice, rows: number): Slice {
    if (pools.length === 0) return dy;
    const hasMax = pools.some((windows) => windows.pool === 'max');
    // Where the activation is not fused it is computed again; means need none of it.
    const first = hasMax && !isFused ? activated(pass, z, rows) : z;
    const images = hasMax ? pooled(pass, first, rows, pools.length - 1) : [];
    let gradient = dy;
    for (const [i, windows] of [...pools.entries()].reverse()) {
      const dx = pass.take(rows * imageSize(windows.x) * 4);
      poolBackward(pass.recorder, windows.pool, dx, gradient, images[i] ?? z, windows, rows);
      pass.give(gradient);
      gradient = dx;
    }
    for (const image of images) if (image !== z) pass.give(image);
    return gradient;
  }

  function backwardWeights(pass: Pass, dz: Slice, x: Slice, rows: number): void {
    const [dw, db] = [pass.gradient(weightName(index)), pass.gradient(biasName(index))];
    if (isOwn) {
      const split = weightParts(device, rows * windowsOf(over), shape.y.C, tapsOf(over));
      const bytes = split.parts * shape.y.C * 4;
      const scratch = { ...split, dw: pass.take(bytes * tapsOf(over)), db: pass.take(bytes) };
      convolutionBackwardWeights(pass.recorder, { dw, db }, dz, x, over, rows, scratch);
      pass.give(scratch.dw);
      pass.give(scratch.db);
      return;
    }
    for (const samples of pieces(pass, rows)) {
      const cols = unfolded(pass, x, samples);
      const sizes = { M: N, N: K, K: samples.count * R };
      const dwide = isSpread ? pass.take(N * K * 4) : dw;
      matmulTn(pass.recorder, dwide, dz, cols, sizes, { aOffset: samples.offset, accumulate: !isSpread });
      pass.give(cols);
      if (!isSpread) continue;
      spreadWeightsBackward(pass.recorder, dw, dwide, over);
      pass.give(dwide);
    }
    // Few columns and many rows: as many lanes share them as a workgroup has room for.
    biasBackward(pass.recorder, db, dz, { M: rows * windowsOf(over), N: shape.y.C }, 32);
  }

  return {
    parameters: cnnParameters(shape),
    needs: [
      { product: 'nt', bias: true, ...fused, N, K },
      { product: 'nn', N: K, K: N },
      ...(isOwn ? [] : [{ product: 'tn' as const, M: N, N: K, accumulate: !isSpread }]),
    ],
    uses: [
      ...unfoldUses,
      ...(isSpread ? spreadUses : []),
      ...weightsUses,
      ...activationUses(activation),
      ...pools.flatMap((windows) => poolUses(windows.pool, windows)),
    ],

    forward(pass, x, rows, keep) {
      const z = pass.take(rows * zSize * 4); // (rows, windows, channels), before the activation unless that is fused
      const weights = productWeights(pass); // (N, K)
      for (const samples of pieces(pass, rows)) {
        const cols = unfolded(pass, x, samples);
        const sizes = { M: samples.count * R, N, K };
        const extras = { ...fused, weights: weights.format, outOffset: samples.offset };
        matmulNt(pass.recorder, z, cols, weights.w, weights.b, sizes, extras);
        pass.give(cols);
      }
      giveWeights(pass, weights);
      if (!keep) pass.give(x);
      const images = pooled(pass, isFused ? z : activated(pass, z, rows), rows, pools.length);
      const y = images.pop() ?? z; // (rows, out)
      for (const image of images) if (image !== z) pass.give(image);
      if (!keep && y !== z) pass.give(z);
      return { y, saved: keep ? [x, z] : [] };
    },

    backward(pass, saved, dy, rows, needsDx) {
      const [x, z] = saved; // z: what the activation's slope is taken at; where it is fused, its result
      if (x === undefined || z === undefined) throw new Error('a convolution lost what it saved');
      const da = backwardPools(pass, z, dy, rows); // (rows, windows, channels)
      const dz = pass.take(rows * zSize * 4); // (rows, windows, channels)
      activateBackward(pass.recorder, activation, dz, da, z, rows * zSize);
      pass.give(da);
      pass.give(z); // whoever read it as its input has been here already
      backwardWeights(pass, dz, x, rows);
      if (!needsDx) return null;
      const dx = pass.take(rows * imageSize(shape.x) * 4); // (rows, in)
      const weights = productWeights(pass); // (N, K)
      for (const samples of pieces(pass, rows)) {
        const dcols = pass.take(samples.count * R * K * 4); // (samples · R, K)
        const sizes = { M: samples.count * R, N: K, K: N };
        matmulNn(pass.recorder, dcols, dz, weights.w, sizes, { weights: weights.format, aOffset: samples.offset });
        unfoldBackward(pass.recorder, dx, dcols, over, samples);
        pass.give(dcols);
      }
      giveWeights(pass, weights);
      pass.give(dz);
      return dx;
    },
  };
}
