// A block of GPT-2, forward and backward: x + attention(norm(x)), then x + mlp(norm(x)). Norms and the MLP's activation are
// computed again for the backward pass: they cost little and would take as much memory as all the rest.
import type { Slice } from '../gpu/buffers.ts';
import { attention, attentionBackward, attentionUses, type AttentionSizes } from '../gpu/attention.ts';
import { add, addUses, dropout, dropoutInPlace, dropoutUses } from '../gpu/elementwise.ts';
import { layernorm, layernormBackward, layernormUses, normScratchBytes } from '../gpu/norms.ts';
import { activate, activateBackward, activationUses, type Activation } from '../gpu/ops.ts';
import type { GpuDescription } from '../compute.ts';
import type { Gpt2Spec } from '../model-spec.ts';
import { blockName, blockParameters, dimensionsOf } from './language-spec.ts';
import type { Layer, Pass } from './pass.ts';
import { dropoutAt, needsOf, project, projectBackward, siteOf, type Projection } from './projection.ts';

export const gpt2Activation = (model: Gpt2Spec): Activation =>
  model.activation_function === 'gelu_pytorch_tanh' ? 'gelu_new' : model.activation_function;

export function gpt2Block(model: Gpt2Spec, index: number, device: GpuDescription): Layer {
  const { C, H, D, I, epsilon } = dimensionsOf(model);
  const at = blockName(model, index);
  const hasBias = model.bias;
  const activation = gpt2Activation(model);
  const linear = (name: string, inFeatures: number, outFeatures: number): Projection => ({
    name: `${at}.${name}`,
    inFeatures,
    outFeatures,
    hasBias,
  });
  const qkvOf = linear('attn.c_attn', C, 3 * C);
  const joinOf = linear('attn.c_proj', C, C);
  const widenOf = linear('mlp.c_fc', C, I);
  const narrowOf = linear('mlp.c_proj', I, C);

  const heads = ({ B, T }: Pass): AttentionSizes => ({
    ...{ B, T, H, G: H, D, scale: 1 / Math.sqrt(D) },
    ...{ qStride: 3 * C, kStride: 3 * C, vStride: 3 * C, qOffset: 0, kOffset: C, vOffset: 2 * C },
  });

  /** norm (rows, C) of x, and its statistics (rows, 2). */
  const norm = (pass: Pass, name: string, x: Slice, stats: Slice, rows: number): Slice => {
    const y = pass.take(rows * C * 4);
    const bias = hasBias ? pass.weight(`${at}.${name}.bias`) : null;
    layernorm(pass.recorder, y, stats, x, pass.weight(`${at}.${name}.weight`), bias, { M: rows, C, eps: epsilon });
    return y;
  };
  const normBackward = (pass: Pass, name: string, dx: Slice, dy: Slice, x: Slice, stats: Slice, rows: number): void => {
    const gradients = {
      dw: pass.gradient(`${at}.${name}.weight`),
      db: hasBias ? pass.gradient(`${at}.${name}.bias`) : null,
    };
    const w = pass.weight(`${at}.${name}.weight`);
    const scratch = pass.take(normScratchBytes({ M: rows, C }));
    layernormBackward(pass.recorder, dx, gradients, dy, x, stats, w, { M: rows, C }, true, scratch);
    pass.give(scratch);
  };

  /** What a projection adds to the residual path x (rows, C): their sum, in a buffer of its own. */
  const residual = (pass: Pass, by: Projection, input: Slice, x: Slice, rows: number, place: 0 | 1): Slice => {
    const drop = dropoutAt(pass, model.resid_pdrop, siteOf(index, place));
    if (drop === null) return project(pass, by, input, rows, { residual: x });
    const y = project(pass, by, input, rows);
    dropoutInPlace(pass.recorder, y, { count: rows * C, ...drop });
    add(pass.recorder, y, x, rows * C);
    return y;
  };
  /** The gradient that enters a projection onto the residual path, of that path's gradient; `dy` itself where nothing is dropped. */
  const branch = (pass: Pass, dy: Slice, rows: number, place: 0 | 1): Slice => {
    const drop = dropoutAt(pass, model.resid_pdrop, siteOf(index, place));
    if (drop === null) return dy;
    const dropped = pass.take(rows * C * 4);
    dropout(pass.recorder, dropped, dy, { count: rows * C, ...drop });
    return dropped;
  };

  // Where outputs are dropped, the residual path is added by a kernel of its own.
  const extras = model.resid_pdrop > 0 ? [{ residual: true }, {}] : [{ residual: true }];
  const needs = [
    ...needsOf(qkvOf),
    ...needsOf(widenOf),
    ...needsOf(widenOf, { activation }),
    ...extras.flatMap((extra) => [...needsOf(joinOf, extra), ...needsOf(narrowOf, extra)]),
  ];

  return {
    parameters: blockParameters(model, index),
    needs,
    uses: [
      ...layernormUses(device, C, hasBias),
      ...attentionUses(false, D, device),
      ...(model.attn_pdrop > 0 ? attentionUses(true, D, device) : []),
      ...activationUses(activation),
      ...(model.resid_pdrop > 0 ? [...dropoutUses, ...addUses] : []),
    ],

    forward(pass, x, rows, keep) {
      const stats1 = pass.take(rows * 8);
      const n1 = norm(pass, 'ln_1', x, stats1, rows);
      const qkv = project(pass, qkvOf, n1, rows); // (rows, 3C)
      pass.give(n1);
      const a = pass.take(rows * C * 4); // (rows, C)
      const lse = pass.take(rows * H * 4); // (B, H, T)
      const drop = dropoutAt(pass, model.attn_pdrop, siteOf(index, 2));
      attention(pass.recorder, a, lse, qkv, qkv, qkv, heads(pass), drop ?? undefined);
      if (!keep) pass.give(qkv);
      const x1 = residual(pass, joinOf, a, x, rows, 0);
      if (!keep) for (const slice of [a, lse, x, stats1]) pass.give(slice);
      const stats2 = pass.take(rows * 8);
      const n2 = norm(pass, 'ln_2', x1, stats2, rows);
      if (!keep) {
        const g = project(pass, widenOf, n2, rows, { activation }); // (rows, I)
        pass.give(n2);
        const y = residual(pass, narrowOf, g, x1, rows, 1);
        for (const slice of [g, x1, stats2]) pass.give(slice);
        return { y, saved: [] };
      }
      const z = project(pass, widenOf, n2, rows); // (rows, I), before the activation
      pass.give(n2);
      const g = pass.take(rows * I * 4); // (rows, I)
      activate(pass.recorder, activation, g, z, rows * I);
      const y = residual(pass, narrowOf, g, x1, rows, 1);
      pass.give(g);
      const kept = (slice: Slice, width: number): Slice => pass.shelve(slice, rows * width);
      return { y, saved: [kept(x, C), stats1, kept(qkv, 3 * C), kept(a, C), lse, kept(x1, C), stats2, kept(z, I)] };
    },

    backward(pass, saved, dy, rows) {
      const [xKept, stats1, qkvKept, aKept, lse, x1Kept, stats2, zKept] = saved;
      if (!xKept || !stats1 || !qkvKept || !aKept || !lse || !x1Kept || !stats2 || !zKept)
        throw new Error('a block lost what it saved');
      const z = pass.unshelve(zKept, rows * I);
      const g = pass.take(rows * I * 4);
      activate(pass.recorder, activation, g, z, rows * I);
      const dz = pass.take(rows * I * 4);
      const dNarrow = branch(pass, dy, rows, 1);
      projectBackward(pass, narrowOf, g, dNarrow, g, rows); // g gives way to its gradient once its own part is done
      if (dNarrow !== dy) pass.give(dNarrow);
      activateBackward(pass.recorder, activation, dz, g, z, rows * I);
      for (const slice of [g, z]) pass.give(slice);
      const x1 = pass.unshelve(x1Kept, rows * C);
      const n2 = norm(pass, 'ln_2', x1, stats2, rows);
      const dn2 = pass.take(rows * C * 4);
      projectBackward(pass, widenOf, dn2, dz, n2, rows);
      for (const slice of [dz, n2]) pass.give(slice);
      normBackward(pass, 'ln_2', dy, dn2, x1, stats2, rows); // dy: gradient of x1
      for (const slice of [dn2, x1, stats2]) pass.give(slice);

      const a = pass.unshelve(aKept, rows * C);
      const da = pass.take(rows * C * 4);
      const dJoin = branch(pass, dy, rows, 0);
      projectBackward(pass, joinOf, da, dJoin, a, rows);
      if (dJoin !== dy) pass.give(dJoin);
      const qkv = pass.unshelve(qkvKept, rows * 3 * C);
      const dqkv = pass.take(rows * 3 * C * 4);
      const delta = pass.take(rows * H * 4);
      const drop = dropoutAt(pass, model.attn_pdrop, siteOf(index, 2)) ?? undefined;
      attentionBackward(pass.recorder, dqkv, dqkv, delta, da, a, lse, qkv, qkv, qkv, heads(pass), drop);
      for (const slice of [da, delta, a, lse, qkv]) pass.give(slice);
      const x = pass.unshelve(xKept, rows * C);
      const n1 = norm(pass, 'ln_1', x, stats1, rows);
      const dn1 = pass.take(rows * C * 4);
      projectBackward(pass, qkvOf, dn1, dqkv, n1, rows);
      for (const slice of [dqkv, n1]) pass.give(slice);
      normBackward(pass, 'ln_1', dy, dn1, x, stats1, rows); // dy: gradient of x
      for (const slice of [dn1, x, stats1]) pass.give(slice);
      return dy;
    },
  };
}
