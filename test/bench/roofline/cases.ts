// Every kernel of a transformer at the shapes of GPT-2 124M with one sequence of 128 tokens: how to run it, what it must compute
// and move at least, and how often a training step runs it. Products are in products.ts.
import type { GpuDescription } from '../../../runtime/compute.ts';
import { attention, attentionBackward, attentionUses } from '../../../runtime/gpu/attention.ts';
import { halfUses, toHalf } from '../../../runtime/gpu/elementwise.ts';
import {
  embed,
  embedBackward,
  embedPlan,
  embedPositions,
  embeddingUses,
  positionsBackward,
} from '../../../runtime/gpu/embedding.ts';
import { layernorm, layernormBackward, layernormUses, normScratchBytes } from '../../../runtime/gpu/norms.ts';
import {
  activate,
  activateBackward,
  activationUses,
  adamw,
  adamwUse,
  biasBackward,
  biasBackwardUse,
  normAndCheck,
  normAndCheckUse,
  normLanes,
} from '../../../runtime/gpu/ops.ts';
import { crossEntropyBackward, crossEntropyStats, vocabularyUses } from '../../../runtime/gpu/vocabulary.ts';
import type { Work } from './timed.ts';

export interface Case extends Work {
  group: string;
  name: string;
  /** What any way of computing it needs: operations that count, and bytes between memory and chip, each operand once. */
  flops: number;
  bytes: number;
  /** Times that a training step runs it. */
  perStep: number;
}

export const T = 128;
export const C = 768;
export const H = 12;
export const LAYERS = 12;
export const V = 50_257;
/** Rows of the vocabulary that one binding holds, where bindings hold 128 MiB: two such windows, and a rest. */
export const WINDOW = 25_152;
const PARAMETERS = 124_439_808;
const D = C / H;

const f32 = (count: number): { bytes: number } => ({ bytes: count * 4 });
const ids = Int32Array.from({ length: T }, (_, i) => (i * 31) % WINDOW);

export const kernelCases = (device: GpuDescription): Case[] => [
  ...attentionCases(device),
  ...normCases(device),
  ...elementwiseCases(),
  ...vocabularyCases(),
  ...embeddingCases(),
  ...optimizerCases(),
];

function attentionCases(device: GpuDescription): Case[] {
  const stride = { qStride: 3 * C, kStride: 3 * C, vStride: 3 * C, qOffset: 0, kOffset: C, vOffset: 2 * C };
  const sizes = { B: 1, T, H, G: H, D, scale: 1 / Math.sqrt(D), ...stride };
  // Of each product only the causal half counts.
  const product = H * T * (T + 1) * D;
  const [y, lse, qkv] = [f32(T * C), f32(H * T), f32(T * 3 * C)];
  return [
    {
      ...{ group: 'attention', name: 'attention', flops: 2 * product, bytes: 4 * 4 * T * C, perStep: LAYERS },
      uses: attentionUses(false, D, device),
      buffers: [y, lse, qkv],
      record: (r, at) => attention(r, at(0), at(1), at(2), at(2), at(2), sizes),
    },
    {
      ...{ group: 'attention', name: 'attention-backward (delta, query, key-value)' },
      ...{ flops: 5 * product, bytes: 4 * 8 * T * C, perStep: LAYERS },
      uses: attentionUses(false, D, device),
      buffers: [qkv, lse, y, y, lse, qkv],
      record: (r, at) => attentionBackward(r, at(0), at(0), at(1), at(2), at(3), at(4), at(5), at(5), at(5), sizes),
    },
  ];
}

function normCases(device: GpuDescription): Case[] {
  const sizes = { M: T, C };
  const [x, w, stats] = [f32(T * C), f32(C), f32(T * 2)];
  const uses = layernormUses(device, C, true);
  return [
    {
      // Each norm of a block is computed again for the backward pass.
      ...{ group: 'norm', name: 'layernorm', flops: 0, bytes: 4 * 2 * T * C, perStep: 4 * LAYERS + 1 },
      uses,
      buffers: [x, stats, x, w, w],
      record: (r, at) => layernorm(r, at(0), at(1), at(2), at(3), at(4), { ...sizes, eps: 1e-5 }),
    },
    {
      ...{ group: 'norm', name: 'layernorm-backward (all)', flops: 0, bytes: 4 * 4 * T * C, perStep: 2 * LAYERS + 1 },
      uses,
      buffers: [x, w, w, x, x, stats, w, { bytes: normScratchBytes(sizes) }],
      record: (r, at) =>
        layernormBackward(r, at(0), { dw: at(1), db: at(2) }, at(3), at(4), at(5), at(6), sizes, true, at(7)),
    },
  ];
}

function elementwiseCases(): Case[] {
  const count = T * 4 * C;
  const z = f32(count);
  const sums = [3 * C, C, 4 * C].map((N): Case => {
    const perStep = N === C ? 2 * LAYERS : LAYERS;
    return {
      ...{ group: 'elementwise', name: `bias-backward ${T}×${N}`, flops: 0, bytes: 4 * T * N, perStep },
      uses: [biasBackwardUse],
      buffers: [f32(N), f32(T * N)],
      record: (r, at) => biasBackward(r, at(0), at(1), { M: T, N }),
    };
  });
  return [
    {
      ...{ group: 'elementwise', name: 'gelu', flops: 0, bytes: 8 * count, perStep: 2 * LAYERS },
      uses: activationUses('gelu_new'),
      buffers: [z, z],
      record: (r, at) => activate(r, 'gelu_new', at(0), at(1), count),
    },
    {
      ...{ group: 'elementwise', name: 'gelu-backward', flops: 0, bytes: 12 * count, perStep: LAYERS },
      uses: activationUses('gelu_new'),
      buffers: [z, z, z],
      record: (r, at) => activateBackward(r, 'gelu_new', at(0), at(1), at(2), count),
    },
    ...sums,
    {
      ...{ group: 'elementwise', name: `bias-backward 4096×${C}`, flops: 0, bytes: 4 * 4096 * C, perStep: 0 },
      uses: [biasBackwardUse],
      buffers: [f32(C), f32(4096 * C)],
      record: (r, at) => biasBackward(r, at(0), at(1), { M: 4096, N: C }),
    },
    {
      ...{ group: 'elementwise', name: 'to-half', flops: 0, bytes: 6 * WINDOW * C, perStep: 0 },
      uses: halfUses('bf16'),
      buffers: [{ bytes: WINDOW * C * 2 }, f32(WINDOW * C)],
      record: (r, at) => toHalf(r, at(0), at(1), { count: WINDOW * C, format: 'bf16' }),
    },
  ];
}

function vocabularyCases(): Case[] {
  const sizes = { M: T, W: WINDOW, first: 0 };
  const logits = f32(T * WINDOW);
  const targets = { bytes: T * 4, contents: ids };
  return [
    {
      ...{ group: 'vocabulary', name: 'cross-entropy-stats', flops: 0, bytes: 4 * T * WINDOW, perStep: V / WINDOW },
      uses: vocabularyUses,
      buffers: [f32(T * 4), logits, targets],
      record: (r, at) => crossEntropyStats(r, at(0), at(1), at(2), { ...sizes, isFirst: true }),
    },
    {
      ...{ group: 'vocabulary', name: 'cross-entropy-backward', flops: 0, bytes: 8 * T * WINDOW, perStep: V / WINDOW },
      uses: vocabularyUses,
      buffers: [logits, f32(T * 4), targets],
      record: (r, at) => crossEntropyBackward(r, at(0), at(1), at(2), { ...sizes, scale: 1 / T }),
    },
  ];
}

function embeddingCases(): Case[] {
  const window = { rows: T, C, first: 0, count: WINDOW };
  const [x, table] = [f32(T * C), f32(WINDOW * C)];
  return [
    {
      ...{ group: 'embedding', name: 'embed, embed-positions', flops: 0, bytes: 4 * 5 * T * C, perStep: 1 },
      uses: embeddingUses,
      buffers: [x, { bytes: T * 4, contents: ids }, table, x],
      record: (r, at) => {
        embed(r, at(0), at(1), at(2), window);
        embedPositions(r, at(0), at(3), { rows: T, T, C });
      },
    },
    {
      ...{ group: 'embedding', name: 'embed-backward, positions-backward', flops: 0, bytes: 4 * 6 * T * C, perStep: 1 },
      uses: embeddingUses,
      buffers: [table, { bytes: T * 8, contents: embedPlan(ids) }, x, x],
      record: (r, at) => {
        embedBackward(r, at(0), at(1), at(2), window);
        positionsBackward(r, at(3), at(2), { rows: T, T, C });
      },
    },
  ];
}

function optimizerCases(): Case[] {
  const count = WINDOW * C;
  const perStep = PARAMETERS / count;
  const flag = { bytes: 4, contents: 'zeros' as const };
  const rates = { beta1: 0.9, beta2: 0.95, gain1: 0.1, gain2: 0.05, eps: 1e-8, keep: 1, rate: 1e-4, correction: 1 };
  return [
    {
      ...{ group: 'optimizer', name: 'adamw', flops: 0, bytes: 32 * count, perStep },
      uses: [adamwUse],
      buffers: [f32(count), f32(count), f32(count), f32(count), flag],
      record: (r, at) =>
        adamw(r, { w: at(0), m: at(1), v: at(2), dw: at(3) }, at(4), { count, ...rates, gradientScale: 1 }),
    },
    {
      ...{ group: 'optimizer', name: 'norm-and-check', flops: 0, bytes: 4 * count, perStep },
      uses: [normAndCheckUse],
      buffers: [f32(normLanes(count)), flag, f32(count)],
      record: (r, at) => normAndCheck(r, { partial: at(0), flag: at(1) }, at(2), count),
    },
  ];
}
