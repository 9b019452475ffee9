// Every kernel with its bindings, sizes, workgroup and specialisations: the one place that says how a kernels/*.wgsl file is
// bound and run. Pure data; the text comes from the platform.

type Scalar = 'u32' | 'f32';

export type Overrides = Readonly<Record<string, boolean | number>>;

export interface KernelInfo {
  /** Storage buffers that are written, bound first, and that are only read, bound next. Then one uniform holds the sizes. */
  readonly outputs: number;
  readonly inputs: number;
  /** Fields of `Sizes`, in order. */
  readonly sizes: Readonly<Record<string, Scalar>>;
  /** Invocations of a workgroup. */
  readonly workgroup: number;
  /** Every specialisation that the product uses. */
  readonly variants: readonly Overrides[];
}

const plain: readonly Overrides[] = [{}];
const matmulSizes = { M: 'u32', N: 'u32', K: 'u32' } as const;

export const kernelTable = {
  'matmul-nt': { outputs: 1, inputs: 3, sizes: matmulSizes, workgroup: 64, variants: plain },
  'matmul-nt-vec4': { outputs: 1, inputs: 3, sizes: matmulSizes, workgroup: 64, variants: plain },
  'matmul-nn': { outputs: 1, inputs: 2, sizes: matmulSizes, workgroup: 64, variants: plain },
  'matmul-nn-vec4': { outputs: 1, inputs: 2, sizes: matmulSizes, workgroup: 64, variants: plain },
  'matmul-tn': { outputs: 1, inputs: 2, sizes: matmulSizes, workgroup: 64, variants: plain },
  'matmul-tn-vec4': { outputs: 1, inputs: 2, sizes: matmulSizes, workgroup: 64, variants: plain },
  'bias-backward': { outputs: 1, inputs: 1, sizes: { M: 'u32', N: 'u32' }, workgroup: 64, variants: plain },
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
    sizes: { count: 'u32', lr: 'f32', momentum: 'f32', decay: 'f32' },
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
  'squared-norm': { outputs: 1, inputs: 1, sizes: { count: 'u32', lanes: 'u32' }, workgroup: 64, variants: plain },
  'finite-check': { outputs: 1, inputs: 1, sizes: { count: 'u32' }, workgroup: 64, variants: plain },
} as const satisfies Record<string, KernelInfo>;

export type KernelName = keyof typeof kernelTable;

export type KernelSizes<K extends KernelName> = { readonly [F in keyof (typeof kernelTable)[K]['sizes']]: number };

/** One kernel at one specialisation. */
export interface KernelUse {
  readonly kernel: KernelName;
  readonly overrides: Overrides;
}

export const kernelNames = Object.keys(kernelTable) as KernelName[];

/** A key that equal uses share. */
export const useKey = ({ kernel, overrides }: KernelUse): string =>
  `${kernel}${Object.entries(overrides)
    .map(([name, value]) => ` ${name}=${value}`)
    .join('')}`;

/** Explicit layout entries: what the null-backend check holds the WGSL against. The sizes move by dynamic offset. */
export function layoutEntries(kernel: KernelName): GPUBindGroupLayoutEntry[] {
  const info: KernelInfo = kernelTable[kernel];
  const entries: GPUBindGroupLayoutEntry[] = [];
  for (let i = 0; i < info.outputs + info.inputs; i++)
    entries.push({ binding: i, visibility: 4, buffer: { type: i < info.outputs ? 'storage' : 'read-only-storage' } });
  entries.push({
    binding: entries.length,
    visibility: 4, // GPUShaderStage.COMPUTE
    buffer: { type: 'uniform', hasDynamicOffset: true, minBindingSize: sizesBytes(kernel) },
  });
  return entries;
}

export const sizesBytes = (kernel: KernelName): number => Object.keys(kernelTable[kernel].sizes).length * 4;

/** Writes a kernel's sizes at `offset`, as its `Sizes` struct lies in memory. */
export function writeSizes(
  view: DataView,
  offset: number,
  kernel: KernelName,
  sizes: Readonly<Record<string, number>>,
): void {
  const fields: Readonly<Record<string, Scalar>> = kernelTable[kernel].sizes;
  let at = offset;
  for (const [name, type] of Object.entries(fields)) {
    const value = sizes[name] ?? Number.NaN;
    if (type === 'f32') view.setFloat32(at, value, true);
    else view.setUint32(at, value, true);
    at += 4;
  }
}
