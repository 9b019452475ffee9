// A block of Llama, forward and backward: rotary positions, grouped key and value heads, a gated MLP. Norms and the gate are
// computed again for the backward pass.
import type { Slice } from '../gpu/buffers.ts';
import { attention, attentionBackward, attentionUses, type AttentionSizes } from '../gpu/attention.ts';
import { rope, ropeUses, siluGate, siluGateBackward, siluGateUses } from '../gpu/elementwise.ts';
import { rmsnorm, normScratchBytes, rmsnormBackward, rmsnormUses } from '../gpu/norms.ts';
import type { GpuDescription } from '../compute.ts';
import type { LlamaSpec } from '../model-spec.ts';
import { blockName, blockParameters, dimensionsOf } from './language-spec.ts';
import type { Layer, Pass } from './pass.ts';
import { dropoutAt, needsOf, project, projectBackward, siteOf, type Projection } from './projection.ts';
import { ropeFrequencies, ropeTable } from './rope.ts';

/** Offsets of bindings are multiples of this. */
const ALIGN = 256;

interface Halves {
  whole: Slice;
  first: Slice;
  second: Slice;
  /** Where the second half begins, and how many elements there are in all. */
  offset: number;
  count: number;
}

export function llamaBlock(model: LlamaSpec, index: number, device: GpuDescription): Layer {
  const { C, H, G, D, I, epsilon } = dimensionsOf(model);
  const at = blockName(model, index);
  const linear = (name: string, inFeatures: number, outFeatures: number): Projection => ({
    name: `${at}.${name}`,
    inFeatures,
    outFeatures,
    hasBias: name.startsWith('mlp') ? model.mlp_bias : model.attention_bias,
  });
  const qOf = linear('self_attn.q_proj', C, H * D);
  const kOf = linear('self_attn.k_proj', C, G * D);
  const vOf = linear('self_attn.v_proj', C, G * D);
  const joinOf = linear('self_attn.o_proj', H * D, C);
  const gateOf = linear('mlp.gate_proj', C, I);
  const upOf = linear('mlp.up_proj', C, I);
  const downOf = linear('mlp.down_proj', I, C);
  const frequencies = ropeFrequencies({ theta: model.rope_theta, D, scaling: model.rope_scaling });

  const heads = ({ B, T }: Pass, vOffset: number): AttentionSizes => ({
    ...{ B, T, H, G, D, scale: 1 / Math.sqrt(D) },
    ...{ qStride: H * D, kStride: G * D, vStride: G * D, qOffset: 0, kOffset: 0, vOffset },
  });
  const norm = (pass: Pass, name: string, x: Slice, stats: Slice, rows: number): Slice => {
    const y = pass.take(rows * C * 4);
    rmsnorm(pass.recorder, y, stats, x, pass.weight(`${at}.${name}.weight`), { M: rows, C, eps: epsilon });
    return y;
  };
  const normBackward = (pass: Pass, name: string, dx: Slice, dy: Slice, x: Slice, stats: Slice, rows: number): void => {
    const weight = `${at}.${name}.weight`;
    const [w, dw] = [pass.weight(weight), pass.gradient(weight)];
    const scratch = pass.take(normScratchBytes({ M: rows, C }));
    rmsnormBackward(pass.recorder, dx, dw, dy, x, stats, w, { M: rows, C }, true, scratch);
    pass.give(scratch);
  };
  const turn = (pass: Pass, x: Slice, rows: number, count: number, direction: 1 | -1): void => {
    // Doubling lengths: a table for a context serves every shorter one.
    const length = Math.min(model.max_position_embeddings, 2 ** Math.ceil(Math.log2(Math.max(64, pass.T))));
    const table = pass.table(`rope ${length}`, length * D, () => ropeTable(length, frequencies));
    const sizes = { rows, T: pass.T, heads: count, D, stride: count * D, offset: 0, direction };
    rope(pass.recorder, x, table, sizes);
  };

  /** Keys and values (rows, G·D), or their gradients, as halves of one buffer: one kernel writes both gradients. */
  const halves = (pass: Pass, rows: number): Halves => {
    const bytes = rows * G * D * 4;
    const start = Math.ceil(bytes / ALIGN) * ALIGN;
    const whole = pass.take(start + bytes);
    const first = { ...whole, bytes };
    const second = { ...whole, offset: whole.offset + start, bytes };
    return { whole, first, second, offset: start / 4, count: (start + bytes) / 4 };
  };

  const needs = [
    ...needsOf(qOf),
    ...[kOf, vOf, upOf].flatMap((to) => needsOf(to, {}, true)),
    ...needsOf(gateOf),
    ...needsOf(joinOf, { residual: true }),
    ...needsOf(downOf, { residual: true }),
  ];

  return {
    parameters: blockParameters(model, index),
    needs,
    uses: [
      ...rmsnormUses(device, C),
      ...ropeUses,
      ...siluGateUses,
      ...attentionUses(false, D, device),
      ...(model.attention_dropout > 0 ? attentionUses(true, D, device) : []),
    ],

    forward(pass, x, rows, keep) {
      const stats1 = pass.take(rows * 4);
      const n1 = norm(pass, 'input_layernorm', x, stats1, rows);
      const q = project(pass, qOf, n1, rows); // (rows, H·D)
      const kv = halves(pass, rows);
      project(pass, kOf, n1, rows, {}, kv.first); // (rows, G·D)
      project(pass, vOf, n1, rows, {}, kv.second); // (rows, G·D)
      pass.give(n1);
      turn(pass, q, rows, H, 1);
      turn(pass, kv.first, rows, G, 1);
      const a = pass.take(rows * H * D * 4); // (rows, H·D)
      const lse = pass.take(rows * H * 4); // (B, H, T)
      const drop = dropoutAt(pass, model.attention_dropout, siteOf(index, 2)) ?? undefined;
      attention(pass.recorder, a, lse, q, kv.whole, kv.whole, heads(pass, kv.offset), drop);
      if (!keep) for (const slice of [q, kv.whole]) pass.give(slice);
      const x1 = project(pass, joinOf, a, rows, { residual: x });
      if (!keep) for (const slice of [a, lse, x, stats1]) pass.give(slice);
      const stats2 = pass.take(rows * 4);
      const n2 = norm(pass, 'post_attention_layernorm', x1, stats2, rows);
      const gate = project(pass, gateOf, n2, rows); // (rows, I)
      const up = project(pass, upOf, n2, rows); // (rows, I)
      const h = n2.bytes >= rows * I * 4 ? n2 : pass.take(rows * I * 4);
      if (h !== n2) pass.give(n2);
      siluGate(pass.recorder, h, gate, up, rows * I);
      const y = project(pass, downOf, h, rows, { residual: x1 });
      pass.give(h);
      if (!keep) {
        for (const slice of [gate, up, x1, stats2]) pass.give(slice);
        return { y, saved: [] };
      }
      const kept = (slice: Slice, width: number): Slice => pass.shelve(slice, rows * width);
      const kvKept = pass.shelve(kv.whole, kv.count);
      const saved = [kept(x, C), stats1, kept(q, H * D), kvKept, kept(a, H * D), lse];
      return { y, saved: [...saved, kept(x1, C), stats2, kept(gate, I), kept(up, I)] };
    },

    backward(pass, saved, dy, rows) {
      const [xKept, stats1, qKept, kvKept, aKept, lse, x1Kept, stats2, gateKept, upKept] = saved;
      if (!xKept || !stats1 || !qKept || !kvKept || !aKept || !lse || !x1Kept || !stats2 || !gateKept || !upKept)
        throw new Error('a block lost what it saved');
      const gate = pass.unshelve(gateKept, rows * I);
      const up = pass.unshelve(upKept, rows * I);
      const h = pass.take(rows * I * 4);
      siluGate(pass.recorder, h, gate, up, rows * I);
      projectBackward(pass, downOf, h, dy, h, rows); // h gives way to its gradient once its own part is done
      const dgate = pass.take(rows * I * 4);
      const dup = pass.take(rows * I * 4);
      siluGateBackward(pass.recorder, dgate, dup, h, gate, up, rows * I);
      for (const slice of [h, gate, up]) pass.give(slice);
      const x1 = pass.unshelve(x1Kept, rows * C);
      const n2 = norm(pass, 'post_attention_layernorm', x1, stats2, rows);
      const dn2 = pass.take(rows * C * 4);
      projectBackward(pass, gateOf, dn2, dgate, n2, rows);
      projectBackward(pass, upOf, dn2, dup, n2, rows, true);
      for (const slice of [dgate, dup, n2]) pass.give(slice);
      normBackward(pass, 'post_attention_layernorm', dy, dn2, x1, stats2, rows); // dy: gradient of x1
      for (const slice of [dn2, x1, stats2]) pass.give(slice);

      const a = pass.unshelve(aKept, rows * H * D);
      const da = pass.take(rows * H * D * 4);
      projectBackward(pass, joinOf, da, dy, a, rows);
      const q = pass.unshelve(qKept, rows * H * D);
      const dq = pass.take(rows * H * D * 4);
      const dkv = halves(pass, rows);
      const kv = pass.unshelve(kvKept, dkv.count);
      const delta = pass.take(rows * H * 4);
      const drop = dropoutAt(pass, model.attention_dropout, siteOf(index, 2)) ?? undefined;
      const sizes = heads(pass, dkv.offset);
      attentionBackward(pass.recorder, dq, dkv.whole, delta, da, a, lse, q, kv, kv, sizes, drop);
      for (const slice of [da, delta, a, lse, q, kv]) pass.give(slice);
      turn(pass, dq, rows, H, -1);
      turn(pass, dkv.first, rows, G, -1);
      const x = pass.unshelve(xKept, rows * C);
      const n1 = norm(pass, 'input_layernorm', x, stats1, rows);
      const dn1 = pass.take(rows * C * 4);
      projectBackward(pass, qOf, dn1, dq, n1, rows);
      projectBackward(pass, kOf, dn1, dkv.first, n1, rows, true);
      projectBackward(pass, vOf, dn1, dkv.second, n1, rows, true);
      for (const slice of [dq, dkv.whole, n1]) pass.give(slice);
      normBackward(pass, 'input_layernorm', dy, dn1, x, stats1, rows); // dy: gradient of x
      for (const slice of [dn1, x, stats1]) pass.give(slice);
      return dy;
    },
  };
}
