// Every kernel with its bindings, sizes, workgroup and specialisations: the one place that says how a kernels/*.wgsl file is
// bound and run. Pure data; the text comes from the platform.
import type { GeneratedUse } from './generated.ts';
import type { KernelLayout } from './kernel-layout.ts';

export type Overrides = Readonly<Record<string, boolean | number>>;

export interface KernelInfo extends KernelLayout {
  /** Every specialisation that the product uses. */
  readonly variants: readonly Overrides[];
}

const plain: readonly Overrides[] = [{}];

const attentionSizes = {
  B: 'u32',
  T: 'u32',
  H: 'u32',
  G: 'u32',
  D: 'u32',
  qStride: 'u32',
  kStride: 'u32',
  vStride: 'u32',
  qOffset: 'u32',
  kOffset: 'u32',
  vOffset: 'u32',
  scale: 'f32',
  seed: 'u32',
  threshold: 'u32',
  gain: 'f32',
} as const;
const dropoutVariants = [{ DROPOUT: false }, { DROPOUT: true }] as const;
const attention = { sizes: attentionSizes, workgroup: 64, variants: dropoutVariants } as const;
const attentionSubgroup = {
  sizes: attentionSizes,
  workgroup: 32,
  features: ['subgroups'],
  variants: [4, 8].flatMap((LANES) =>
    [false, true].flatMap((WIDE) => dropoutVariants.map((dropout) => ({ LANES, WIDE, ...dropout }))),
  ),
} as const;

const normSizes = { M: 'u32', C: 'u32', eps: 'f32' } as const;
const normBackwardSizes = { M: 'u32', C: 'u32' } as const;
const normPartsSizes = { M: 'u32', C: 'u32', span: 'u32' } as const;
/** Few lanes a row where a barrier is slow, many where lanes are free. */
const lanes = [{ LANES: 8 }, { LANES: 64 }] as const;
const lanesBias = lanes.flatMap((some) => [false, true].map((BIAS) => ({ BIAS, ...some })));
const lanesAdd = lanes.flatMap((some) => [false, true].map((ADD) => ({ ADD, ...some })));
const layernorm = { outputs: 2, inputs: 3, sizes: normSizes, workgroup: 64, variants: lanesBias } as const;
const rmsnorm = { outputs: 2, inputs: 2, sizes: normSizes, workgroup: 64, variants: lanes } as const;
const normBackward = { outputs: 1, inputs: 4, sizes: normBackwardSizes, workgroup: 64, variants: lanesAdd } as const;

const embedSizes = { rows: 'u32', C: 'u32', first: 'u32', count: 'u32' } as const;
const dropoutSizes = { count: 'u32', seed: 'u32', threshold: 'u32', gain: 'f32' } as const;
const formats = [{ BRAIN: false }, { BRAIN: true }] as const;

const outSizes = { padding: 'u32', outHeight: 'u32', outWidth: 'u32' } as const;
const unfoldSizes = { sizeY: 'u32', sizeX: 'u32', strideY: 'u32', strideX: 'u32', ...outSizes } as const;
const spreadSizes = { N: 'u32', lines: 'u32', size: 'u32', stride: 'u32', across: 'u32' } as const;
const imageSizes = { height: 'u32', width: 'u32', channel: 'u32', pixel: 'u32' } as const;
const poolSizes = {
  count: 'u32',
  C: 'u32',
  ...imageSizes,
  size: 'u32',
  stride: 'u32',
  outHeight: 'u32',
  outWidth: 'u32',
  outChannel: 'u32',
  outPixel: 'u32',
} as const;
const pools = [{ MAX: false }, { MAX: true }] as const;
const itemSizes = { items: 'u32' } as const;
const blockSizes = { blocks: 'u32', fours: 'u32' } as const;
const bits = [{ BITS: 8 }, { BITS: 4 }] as const;

export const kernelTable = {
  'bias-backward': {
    outputs: 1,
    inputs: 1,
    sizes: { M: 'u32', N: 'u32', parts: 'u32' },
    workgroup: 64,
    variants: plain,
  },
  relu: { outputs: 1, inputs: 1, sizes: { count: 'u32' }, workgroup: 64, variants: plain },
  'relu-backward': { outputs: 1, inputs: 2, sizes: { count: 'u32' }, workgroup: 64, variants: plain },
  gelu: { outputs: 1, inputs: 1, sizes: { count: 'u32' }, workgroup: 64, variants: [{ TANH: false }, { TANH: true }] },
  'gelu-backward': {
    outputs: 1,
    inputs: 2,
    sizes: { count: 'u32' },
    workgroup: 64,
    variants: [{ TANH: false }, { TANH: true }],
  },
  'softmax-cross-entropy': {
    outputs: 3,
    inputs: 2,
    sizes: { M: 'u32', V: 'u32', scale: 'f32' },
    workgroup: 64,
    variants: plain,
  },
  sgd: {
    outputs: 3,
    inputs: 1,
    sizes: { count: 'u32', lr: 'f32', momentum: 'f32', decay: 'f32', gradientScale: 'f32' },
    workgroup: 64,
    variants: [{ MOMENTUM: false }, { MOMENTUM: true }],
  },
  adamw: {
    outputs: 4,
    inputs: 1,
    sizes: {
      count: 'u32',
      beta1: 'f32',
      beta2: 'f32',
      gain1: 'f32',
      gain2: 'f32',
      eps: 'f32',
      keep: 'f32',
      rate: 'f32',
      correction: 'f32',
      gradientScale: 'f32',
    },
    workgroup: 64,
    variants: plain,
  },
  'weighted-sum': {
    outputs: 1,
    inputs: 2,
    sizes: { count: 'u32', parts: 'u32', stride: 'u32' },
    workgroup: 64,
    variants: [{ ADD: false }, { ADD: true }],
  },
  'finite-check': { outputs: 1, inputs: 1, sizes: { count: 'u32' }, workgroup: 64, variants: plain },
  'norm-and-check': { outputs: 2, inputs: 1, sizes: { count: 'u32', lanes: 'u32' }, workgroup: 64, variants: plain },
  layernorm,
  'layernorm-vec4': layernorm,
  'layernorm-backward': normBackward,
  'layernorm-backward-vec4': normBackward,
  'layernorm-backward-weights': { outputs: 2, inputs: 3, sizes: normPartsSizes, workgroup: 64, variants: plain },
  rmsnorm,
  'rmsnorm-vec4': rmsnorm,
  'rmsnorm-backward': normBackward,
  'rmsnorm-backward-vec4': normBackward,
  'rmsnorm-backward-weights': { outputs: 1, inputs: 3, sizes: normPartsSizes, workgroup: 64, variants: plain },
  embed: { outputs: 1, inputs: 2, sizes: embedSizes, workgroup: 64, variants: [{ ADD: false }, { ADD: true }] },
  'embed-backward': { outputs: 1, inputs: 2, sizes: embedSizes, workgroup: 64, variants: plain },
  'embed-positions': {
    outputs: 1,
    inputs: 1,
    sizes: { rows: 'u32', T: 'u32', C: 'u32', start: 'u32' },
    workgroup: 64,
    variants: plain,
  },
  'positions-backward': {
    outputs: 1,
    inputs: 1,
    sizes: { rows: 'u32', T: 'u32', C: 'u32' },
    workgroup: 64,
    variants: plain,
  },
  'cross-entropy-stats': {
    outputs: 1,
    inputs: 2,
    sizes: { M: 'u32', W: 'u32', first: 'u32', isFirst: 'u32' },
    workgroup: 128,
    variants: plain,
  },
  'cross-entropy-loss': { outputs: 2, inputs: 2, sizes: { M: 'u32' }, workgroup: 64, variants: plain },
  'cross-entropy-backward': {
    outputs: 1,
    inputs: 2,
    sizes: { M: 'u32', W: 'u32', first: 'u32', blocks: 'u32', scale: 'f32' },
    workgroup: 128,
    variants: plain,
  },
  add: { outputs: 1, inputs: 1, sizes: { count: 'u32' }, workgroup: 64, variants: plain },
  'silu-gate': { outputs: 1, inputs: 2, sizes: { count: 'u32' }, workgroup: 64, variants: plain },
  'silu-gate-backward': { outputs: 2, inputs: 3, sizes: { count: 'u32' }, workgroup: 64, variants: plain },
  rope: {
    outputs: 1,
    inputs: 1,
    sizes: {
      rows: 'u32',
      T: 'u32',
      heads: 'u32',
      D: 'u32',
      stride: 'u32',
      offset: 'u32',
      start: 'u32',
      split: 'u32',
      direction: 'f32',
    },
    workgroup: 32,
    variants: plain,
  },
  dropout: { outputs: 1, inputs: 1, sizes: dropoutSizes, workgroup: 64, variants: plain },
  'dropout-in-place': { outputs: 1, inputs: 0, sizes: dropoutSizes, workgroup: 64, variants: plain },
  'to-half': { outputs: 1, inputs: 1, sizes: { count: 'u32' }, workgroup: 64, variants: formats },
  'from-half': { outputs: 1, inputs: 1, sizes: { count: 'u32' }, workgroup: 64, variants: formats },
  'layer-distance': { outputs: 1, inputs: 3, sizes: itemSizes, workgroup: 64, variants: plain },
  'layer-distance-vec4': { outputs: 1, inputs: 3, sizes: itemSizes, workgroup: 64, variants: plain },
  'layer-merge': { outputs: 2, inputs: 5, sizes: itemSizes, workgroup: 64, variants: plain },
  'layer-apply': { outputs: 2, inputs: 2, sizes: itemSizes, workgroup: 64, variants: plain },
  'outer-step': {
    outputs: 4,
    inputs: 3,
    sizes: { items: 'u32', rate: 'f32', momentum: 'f32', pull: 'f32' },
    workgroup: 64,
    variants: [{ PAIR: false }, { PAIR: true }],
  },
  'trimmed-mean': {
    outputs: 1,
    inputs: 1,
    sizes: { count: 'u32', parts: 'u32', stride: 'u32', trim: 'u32' },
    workgroup: 64,
    variants: plain,
  },
  'block-quantise': { outputs: 3, inputs: 1, sizes: blockSizes, workgroup: 64, variants: bits },
  'block-dequantise': { outputs: 1, inputs: 2, sizes: blockSizes, workgroup: 64, variants: bits },
  unfold: {
    outputs: 1,
    inputs: 1,
    sizes: {
      M: 'u32',
      K: 'u32',
      runY: 'u32',
      runX: 'u32',
      first: 'u32',
      ...imageSizes,
      sample: 'u32',
      ...unfoldSizes,
    },
    workgroup: 64,
    variants: plain,
  },
  'unfold-backward': {
    outputs: 1,
    inputs: 1,
    sizes: { count: 'u32', first: 'u32', C: 'u32', K: 'u32', ...imageSizes, ...unfoldSizes },
    workgroup: 64,
    variants: plain,
  },
  'spread-weights': { outputs: 2, inputs: 2, sizes: spreadSizes, workgroup: 64, variants: plain },
  'spread-weights-backward': { outputs: 1, inputs: 1, sizes: spreadSizes, workgroup: 64, variants: plain },
  'convolution-backward-weights': {
    outputs: 2,
    inputs: 2,
    sizes: {
      M: 'u32',
      N: 'u32',
      K: 'u32',
      span: 'u32',
      ...imageSizes,
      sample: 'u32',
      size: 'u32',
      stride: 'u32',
      ...outSizes,
    },
    workgroup: 64,
    variants: plain,
  },
  pool: { outputs: 1, inputs: 1, sizes: poolSizes, workgroup: 64, variants: pools },
  'pool-backward': { outputs: 1, inputs: 2, sizes: poolSizes, workgroup: 64, variants: pools },
  'pool-backward-apart': { outputs: 1, inputs: 2, sizes: poolSizes, workgroup: 64, variants: pools },
  attention: { outputs: 2, inputs: 3, ...attention },
  'attention-subgroup': { outputs: 2, inputs: 3, ...attentionSubgroup },
  'attention-delta': { outputs: 1, inputs: 2, sizes: attentionSizes, workgroup: 64, variants: plain },
  'attention-backward-query': { outputs: 1, inputs: 6, ...attention },
  'attention-backward-query-subgroup': { outputs: 1, inputs: 6, ...attentionSubgroup },
  'attention-backward-key-value': { outputs: 1, inputs: 6, ...attention },
  'attention-backward-key-value-subgroup': { outputs: 1, inputs: 6, ...attentionSubgroup },
} as const satisfies Record<string, KernelInfo>;

export type KernelName = keyof typeof kernelTable;

export type KernelSizes<K extends KernelName> = { readonly [F in keyof (typeof kernelTable)[K]['sizes']]: number };

/** One kernel of kernels/ at one specialisation. */
export interface TableUse {
  readonly kernel: KernelName;
  readonly overrides: Overrides;
}

/** What can be compiled, warmed and run. */
export type KernelUse = TableUse | GeneratedUse;

export const kernelNames = Object.keys(kernelTable) as KernelName[];

/** A key that equal uses share. */
export const useKey = (use: KernelUse): string =>
  'generated' in use
    ? `generated/${use.generated.name}`
    : `${use.kernel}${Object.entries(use.overrides)
        .map(([name, value]) => ` ${name}=${value}`)
        .join('')}`;

export const layoutOfUse = (use: KernelUse): KernelLayout =>
  'generated' in use ? use.generated : kernelTable[use.kernel];
