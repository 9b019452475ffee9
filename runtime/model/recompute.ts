// Activation recomputation: of a layer only its input is kept, and its forward pass runs again just before the backward one
// (Chen et al. 2016, "Training deep nets with sublinear memory cost"). Dropout masks come from counters, so they are the same.
import type { Layer, Pass } from './pass.ts';

/** `features`: values of a row that goes in. */
export function recomputed(layer: Layer, features: number): Layer {
  return {
    parameters: layer.parameters,
    uses: layer.uses,
    ...(layer.needs === undefined ? {} : { needs: layer.needs }),

    forward(pass, x, rows, keep) {
      if (!keep) return layer.forward(pass, x, rows, false);
      // The layer gives its input away where nothing is kept; this one still needs it.
      const lending: Pass = { ...pass, give: (slice) => (slice === x ? undefined : pass.give(slice)) };
      const { y } = layer.forward(lending, x, rows, false);
      return { y, saved: [pass.shelve(x, rows * features)] };
    },

    backward(pass, saved, dy, rows, needsDx) {
      const [kept] = saved;
      if (kept === undefined) throw new Error('a layer lost its input');
      const x = pass.unshelve(kept, rows * features);
      const again = layer.forward(pass, x, rows, true);
      if (!again.saved.includes(again.y)) pass.give(again.y); // a fused activation's result is also where its slope is taken
      return layer.backward(pass, again.saved, dy, rows, needsDx);
    },
  };
}
