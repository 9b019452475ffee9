// Activation recomputation: of a layer only its input is kept, and its forward pass runs again just before the backward one
// (Chen et al. 2016, "Training deep nets with sublinear memory cost"). Dropout masks come from counters, so they are the same.
import type { Layer, Pass } from './pass.ts';

export function recomputed(layer: Layer): Layer {
  return {
    parameters: layer.parameters,
    uses: layer.uses,
    ...(layer.needs === undefined ? {} : { needs: layer.needs }),

    forward(pass, x, rows, keep) {
      if (!keep) return layer.forward(pass, x, rows, false);
      // The layer gives its input away where nothing is kept; this one still needs it.
      const lending: Pass = { ...pass, give: (slice) => (slice === x ? undefined : pass.give(slice)) };
      const { y } = layer.forward(lending, x, rows, false);
      return { y, saved: [pass.shelve(x, x.bytes / 4)] };
    },

    backward(pass, saved, dy, rows, needsDx) {
      const [kept] = saved;
      if (kept === undefined) throw new Error('a layer lost its input');
      const x = pass.unshelve(kept, dy.bytes / 4);
      const again = layer.forward(pass, x, rows, true);
      pass.give(again.y);
      return layer.backward(pass, again.saved, dy, rows, needsDx);
    },
  };
}
