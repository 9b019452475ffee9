// The contract between the network side (main thread) and the compute side (worker). The worker owns the device, the stages,
// their weights, gradients and kept activations; the caller owns nothing but numbers and bytes. Byte arrays given to a call are
// transferred: the caller's views are dead afterwards. Every method rejects with a MeshError.
import type { Tensor, Tensors } from './tensor.ts';
import { z } from 'zod';
import { storeSpecSchema, type LayerStore } from './layer-store.ts';
import { modelSpecSchema } from './model-spec.ts';

const unit = z.number().min(0).lt(1);
/** Flags and defaults are PyTorch's. */
export const optimizerSpecSchema = z.discriminatedUnion('name', [
  z.strictObject({
    name: z.literal('sgd'),
    lr: z.number().positive(),
    momentum: unit.default(0),
    weightDecay: z.number().min(0).default(0),
  }),
  z.strictObject({
    name: z.literal('adamw'),
    lr: z.number().positive(),
    beta1: unit.default(0.9),
    beta2: unit.default(0.999),
    eps: z.number().positive().default(1e-8),
    weightDecay: z.number().min(0).default(0.01),
    /** Which parameters decay: all of them (as PyTorch does when it is told nothing), or only those of two dimensions and more. */
    decay: z.enum(['all', 'matrices']).optional(),
  }),
]);
export type OptimizerSpec = z.infer<typeof optimizerSpecSchema>;

const count = z
  .int()
  .min(1)
  .max(1 << 24);

/** One stage: layers `from` (inclusive) to `to` (exclusive) of the model. Equal specs give equal initial weights everywhere. */
export const stageSpecSchema = z.strictObject({
  model: modelSpecSchema,
  from: z.int().min(0),
  to: z.int().min(1),
  seed: z.int().min(0),
  optimizer: optimizerSpecSchema,
  /** How weights lie where products read them, and activations while they wait for the backward pass: f32 if absent. Sums are f32. */
  precision: z.enum(['f32', 'bf16', 'f16']).optional(),
  /** Keep only each layer's input, and run its forward pass again before the backward one. */
  recompute: z.boolean().optional(),
  /**
   * What it will be given at most: microbatches of B samples or sequences of T tokens, `kept` of them under way at once. A stage
   * that would then need more memory than is lent is refused before it is built.
   */
  load: z.strictObject({ B: count, T: count, kept: count }).optional(),
  /** Keeps a parameter store, for averaging with replicas. */
  store: storeSpecSchema.optional(),
});
export type StageSpec = z.infer<typeof stageSpecSchema>;

export interface ParameterInfo {
  name: string;
  shape: number[];
}

export interface StageInfo {
  /** Shape of one sample in and out of this stage, without the batch. −1: any number of tokens up to `maxTokens`. */
  inputShape: number[];
  /** i32: token ids. */
  inputDtype: 'f32' | 'i32';
  outputShape: number[];
  maxTokens: number;
  isFirst: boolean;
  isLast: boolean;
  parameters: ParameterInfo[];
  /** The parameter that the other end of the model has too, where the ends are different stages: their gradients add up. */
  tied: string | null;
  parameterBytes: number;
}

export interface GpuDescription {
  vendor: string;
  architecture: string;
  device: string;
  description: string;
  /** A software driver (lavapipe, SwiftShader): correct, and slow. */
  isSoftware: boolean;
  features: string[];
  /** Invocations of a subgroup, at least and at most; 0 where there are no subgroups. */
  subgroupMinSize: number;
  subgroupMaxSize: number;
  maxStorageBufferBindingSize: number;
  maxBufferSize: number;
  /** GPU memory that may be used, in bytes; absent where nobody said, because WebGPU does not tell. */
  memoryBytes?: number;
  isFallbackAdapter?: boolean;
  /** Workgroup memory, at most. */
  workgroupBytes?: number;
  matrixConfigs?: MatrixConfig[];
  /** 1e9 operations a second of f32 products, measured; absent before that. */
  gflops?: number;
}

/** A matrix unit: (M, K) times (K, N) of one type, summed in another. */
export interface MatrixConfig {
  componentType: string;
  resultType: string;
  M: number;
  N: number;
  K: number;
}

export interface ComputeStats {
  submits: number;
  dispatches: number;
  /** GPU bytes of buffers that exist, and of those in use. */
  allocatedBytes: number;
  usedBytes: number;
  /** The most that there ever was of allocatedBytes. */
  peakBytes: number;
  /** How many buffers were created since the start; constant in steady state. */
  buffersCreated: number;
}

/** State of a stage that can be read and written. `optimizer`: moments named `<parameter>.<moment>`, plus `step` (1) i32. */
export type StateKind = 'weights' | 'gradients' | 'optimizer';

export interface LossResult {
  /** Sum over the targets of this microbatch of the cross-entropy, times `scale`. */
  loss: number;
  /** Targets that are the largest logit. */
  correct: number;
  /** Targets that count: those that are not −100. */
  counted: number;
  /** Gradient of `loss` with respect to the stage's input, (B, …); null where the stage is the model's first. */
  dx: Tensor | null;
}

export interface ForwardOptions {
  keep: boolean;
  /** Seed of this microbatch's dropout masks; absent: no dropout. The same seed gives the same masks again. */
  dropout?: number;
  lastOnly?: boolean;
}

export interface LossOptions {
  scale: number;
  train: boolean;
  accumulate: boolean;
  dropout?: number;
}

export interface StepOptions {
  lr?: number;
  gradientScale?: number;
}

/** Of a stage that was opened with `store` also its parameter store: see layer-store.ts. */
export interface Compute extends LayerStore {
  describe(): Promise<GpuDescription & { stats: ComputeStats }>;
  /** Builds the stage, initialises weights from the seed, compiles and warms every kernel. `stage` is the handle of all other calls. */
  open(spec: StageSpec): Promise<{ stage: number; info: StageInfo }>;
  close(stage: number): Promise<void>;
  /**
   * x (B, …input) to y (B, …output). With `keep` what the backward pass needs is kept under `key` until `backward` or `discard`.
   * `lastOnly`: the last stage of a language model gives the logits of each sequence's last token only, (B, 1, V).
   */
  forward(stage: number, key: string, x: Tensor, options: ForwardOptions): Promise<Tensor>;
  /** dy (B, …output) to dx (B, …input), null on the model's first stage; adds to the gradients if `accumulate`, else leaves them alone; forgets `key`. */
  backward(stage: number, key: string, dy: Tensor, options: { accumulate: boolean }): Promise<Tensor | null>;
  /**
   * Last stage only. Forward, cross-entropy and (if `train`) backward of x (B, …) against targets y, (B) or (B, T) i32, in one
   * submit. As in `backward`, gradients are added only if `accumulate`; they are those of `scale` times the sum over targets;
   * `scale` is 1 / (targets of the whole batch). Target −100: ignored.
   */
  loss(stage: number, x: Tensor, y: Tensor, options: LossOptions): Promise<LossResult>;
  /** Forgets kept activations (all of them if `keys` is absent) and, if asked, zeroes the gradients. */
  discard(stage: number, options: { keys?: string[]; gradients?: boolean }): Promise<void>;
  /** All tensors of a kind, or those named. */
  read(stage: number, kind: StateKind, names?: readonly string[]): Promise<Tensors>;
  /** Names, shapes and dtypes must match exactly, values must be finite; else nothing is written. */
  write(stage: number, kind: StateKind, tensors: Tensors): Promise<void>;
  /**
   * Merges sets of tensors on the GPU with the weighted-sum kernel, in the given order: `set`: state = Σ cᵢ·partᵢ;
   * `add`: state += Σ cᵢ·partᵢ. Same checks as `write`, but the parts may all lack the same tensors, which then stay as they are.
   */
  combine(
    stage: number,
    kind: 'weights' | 'gradients',
    parts: Tensors[],
    coefficients: number[],
    mode: 'set' | 'add',
  ): Promise<void>;
  /** Sum of the squares of the gradients, of each parameter or of all but those named. Not finite where a gradient is not. */
  squaredNorm(stage: number, options: { except?: readonly string[] }): Promise<number>;
  /**
   * One optimizer step with the accumulated gradients times `gradientScale` (1 if absent), which are zero afterwards; `lr` stands
   * in for the optimizer's. Rejects `not-finite` (and changes nothing) if they are not finite.
   */
  step(stage: number, options?: StepOptions): Promise<{ gradientNorm: number }>;
}
