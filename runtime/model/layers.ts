// A linear layer and the activation after it, forward and backward, as recordings. Weights, gradients and buffers are the stage's.
import { matmulNn, matmulNt, matmulTn, type MatmulNeed } from '../gpu/matmul.ts';
import { activate, activateBackward, activationUses, biasBackward, biasBackwardUse } from '../gpu/ops.ts';
import { biasName, layerParameters, weightName, type LayerShape } from './mlp-spec.ts';
import type { Layer } from './pass.ts';

/** The slope of relu can be told from its result, so the product may as well apply it; the others need what went in. */
const isFused = ({ activation }: LayerShape): boolean => activation === 'relu';

const fusedInto = (shape: LayerShape): Pick<MatmulNeed, 'activation'> => (isFused(shape) ? { activation: 'relu' } : {});

/** The products of a layer, for warming; any number of rows. */
export function linearNeeds(shape: LayerShape): MatmulNeed[] {
  const { inFeatures, outFeatures } = shape;
  return [
    { product: 'nt', bias: true, ...fusedInto(shape), N: outFeatures, K: inFeatures },
    { product: 'nn', N: inFeatures, K: outFeatures },
    { product: 'tn', M: outFeatures, N: inFeatures },
  ];
}

export function linearLayer(shape: LayerShape): Layer {
  const { index, inFeatures, outFeatures, activation } = shape;
  return {
    parameters: layerParameters(shape),
    needs: linearNeeds(shape),
    uses: [biasBackwardUse, ...(activation === null ? [] : activationUses(activation))],

    forward(pass, x, rows, keep) {
      const count = rows * outFeatures;
      const z = pass.take(count * 4); // (rows, out), before the activation unless that is fused
      const sizes = { M: rows, N: outFeatures, K: inFeatures };
      const { slice: w, format: weights } = pass.matrix(weightName(index));
      const bias = pass.weight(biasName(index));
      matmulNt(pass.recorder, z, x, w, bias, sizes, { ...fusedInto(shape), weights });
      if (!keep) pass.give(x);
      if (activation === null) return { y: z, saved: keep ? [x] : [] };
      if (isFused(shape)) return { y: z, saved: keep ? [x, z] : [] };
      const y = pass.take(count * 4); // (rows, out)
      activate(pass.recorder, activation, y, z, count);
      if (!keep) pass.give(z);
      return { y, saved: keep ? [x, z] : [] };
    },

    backward(pass, saved, dy, rows, needsDx) {
      const [x, z] = saved; // z: what the activation's slope is taken at; where it is fused, its result
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
      const { slice: w, format: weights } = pass.matrix(weightName(index));
      matmulNn(pass.recorder, dx, dz, w, { M: rows, N: inFeatures, K: outFeatures }, { weights });
      pass.give(dz);
      return dx;
    },
  };
}
