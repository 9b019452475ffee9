// A linear layer and the activation after it, forward and backward, as recordings. Weights, gradients and buffers are the stage's.
import type { Slice } from '../gpu/buffers.ts';
import type { Recorder } from '../gpu/gpu.ts';
import type { KernelUse } from '../gpu/kernel-table.ts';
import { matmulNn, matmulNt, matmulTn, matmulUses } from '../gpu/matmul.ts';
import { activate, activateBackward, activationUses, biasBackward, biasBackwardUse } from '../gpu/ops.ts';
import type { ParameterInfo } from '../compute.ts';
import { biasName, layerParameters, weightName, type LayerShape } from './spec.ts';

/** What a layer may use while it is recorded. */
export interface Pass {
  recorder: Recorder;
  /** A buffer for the length of the operation. */
  take(bytes: number): Slice;
  /** Gives such a buffer back early. */
  give(slice: Slice): void;
  weight(name: string): Slice;
  gradient(name: string): Slice;
}

export interface Layer {
  readonly parameters: ParameterInfo[];
  readonly uses: readonly KernelUse[];
  /** y (rows, out) of x (rows, in), and what the backward pass needs; with `keep` false nothing but y outlives the call. */
  forward(pass: Pass, x: Slice, rows: number, keep: boolean): { y: Slice; saved: Slice[] };
  /** dx (rows, in), or null where not needed, of dy (rows, out). Adds to the gradients. */
  backward(pass: Pass, saved: readonly Slice[], dy: Slice, rows: number, needsDx: boolean): Slice | null;
}

export function linearLayer(shape: LayerShape): Layer {
  const { index, inFeatures, outFeatures, activation } = shape;
  return {
    parameters: layerParameters(shape),
    uses: [...matmulUses, biasBackwardUse, ...(activation === null ? [] : activationUses(activation))],

    forward(pass, x, rows, keep) {
      const count = rows * outFeatures;
      const z = pass.take(count * 4); // (rows, out), before the activation
      const sizes = { M: rows, N: outFeatures, K: inFeatures };
      matmulNt(pass.recorder, z, x, pass.weight(weightName(index)), pass.weight(biasName(index)), sizes);
      if (!keep) pass.give(x);
      if (activation === null) return { y: z, saved: keep ? [x] : [] };
      const y = pass.take(count * 4); // (rows, out)
      activate(pass.recorder, activation, y, z, count);
      if (!keep) pass.give(z);
      return { y, saved: keep ? [x, z] : [] };
    },

    backward(pass, saved, dy, rows, needsDx) {
      const [x, z] = saved;
      if (x === undefined) throw new Error('a layer lost its input');
      let dz = dy; // (rows, out)
      if (activation !== null && z !== undefined) {
        dz = pass.take(rows * outFeatures * 4);
        activateBackward(pass.recorder, activation, dz, dy, z, rows * outFeatures);
        pass.give(dy);
      }
      matmulTn(pass.recorder, pass.gradient(weightName(index)), dz, x, { M: outFeatures, N: inFeatures, K: rows });
      biasBackward(pass.recorder, pass.gradient(biasName(index)), dz, { M: rows, N: outFeatures });
      if (!needsDx) return null;
      const dx = pass.take(rows * inFeatures * 4); // (rows, in)
      matmulNn(pass.recorder, dx, dz, pass.weight(weightName(index)), { M: rows, N: inFeatures, K: outFeatures });
      pass.give(dz);
      return dx;
    },
  };
}
