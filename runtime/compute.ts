// The contract between the network side (main thread) and the compute side (worker). The worker owns the device, the stages,
// their weights, gradients and kept activations; the caller owns nothing but numbers and bytes. Byte arrays given to a call are
// transferred: the caller's views are dead afterwards. Every method rejects with a MeshError.
import type { Tensor, Tensors } from './tensor.ts';
import { z } from 'zod';

const sizes = z
  .array(
    z
      .int()
      .min(1)
      .max(1 << 24),
  )
  .min(2)
  .max(65);

/** `gelu` is the exact one (erf), `gelu_new` GPT-2's tanh form: the names that PyTorch and Hugging Face use. */
export const modelSpecSchema = z.discriminatedUnion('family', [
  z.strictObject({ family: z.literal('mlp'), sizes, activation: z.enum(['relu', 'gelu', 'gelu_new']).default('relu') }),
]);
export type ModelSpec = z.infer<typeof modelSpecSchema>;

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
  }),
]);
export type OptimizerSpec = z.infer<typeof optimizerSpecSchema>;

/** One stage: layers `from` (inclusive) to `to` (exclusive) of the model. Equal specs give equal initial weights everywhere. */
export const stageSpecSchema = z.strictObject({
  model: modelSpecSchema,
  from: z.int().min(0),
  to: z.int().min(1),
  seed: z.int().min(0),
  optimizer: optimizerSpecSchema,
});
export type StageSpec = z.infer<typeof stageSpecSchema>;

export interface ParameterInfo {
  name: string;
  shape: number[];
}

export interface StageInfo {
  /** Shape of one sample in and out of this stage, without the batch. */
  inputShape: number[];
  outputShape: number[];
  isFirst: boolean;
  isLast: boolean;
  parameters: ParameterInfo[];
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
  maxStorageBufferBindingSize: number;
  maxBufferSize: number;
}

export interface ComputeStats {
  submits: number;
  dispatches: number;
  /** GPU bytes of buffers that exist, and of those in use. */
  allocatedBytes: number;
  usedBytes: number;
  /** How many buffers were created since the start; constant in steady state. */
  buffersCreated: number;
}

/** State of a stage that can be read and written. `optimizer`: moments named `<parameter>.<moment>`, plus `step` (1) i32. */
export type StateKind = 'weights' | 'gradients' | 'optimizer';

export interface LossResult {
  /** Sum over the rows of this microbatch of the cross-entropy, times `scale`. */
  loss: number;
  /** Rows whose largest logit is the target. */
  correct: number;
  /** Gradient of `loss` with respect to the stage's input, (B, …); null where the stage is the model's first. */
  dx: Tensor | null;
}

export interface Compute {
  describe(): Promise<GpuDescription & { stats: ComputeStats }>;
  /** Builds the stage, initialises weights from the seed, compiles and warms every kernel. `stage` is the handle of all other calls. */
  open(spec: StageSpec): Promise<{ stage: number; info: StageInfo }>;
  close(stage: number): Promise<void>;
  /** x (B, …input) to y (B, …output). With `keep` what the backward pass needs is kept under `key` until `backward` or `discard`. */
  forward(stage: number, key: string, x: Tensor, options: { keep: boolean }): Promise<Tensor>;
  /** dy (B, …output) to dx (B, …input), null on the model's first stage; adds to the gradients if `accumulate`, else leaves them alone; forgets `key`. */
  backward(stage: number, key: string, dy: Tensor, options: { accumulate: boolean }): Promise<Tensor | null>;
  /**
   * Last stage only. Forward, mean-style cross-entropy and (if `train`) backward of x (B, …) against targets y (B) i32, in one
   * submit. As in `backward`, gradients are added only if `accumulate`; they are those of `scale` times the sum over rows; `scale` is 1 / (rows of the whole batch). Target −100: ignored.
   */
  loss(
    stage: number,
    x: Tensor,
    y: Tensor,
    options: { scale: number; train: boolean; accumulate: boolean },
  ): Promise<LossResult>;
  /** Forgets kept activations (all of them if `keys` is absent) and, if asked, zeroes the gradients. */
  discard(stage: number, options: { keys?: string[]; gradients?: boolean }): Promise<void>;
  read(stage: number, kind: StateKind): Promise<Tensors>;
  /** Names, shapes and dtypes must match exactly, values must be finite; else nothing is written. */
  write(stage: number, kind: StateKind, tensors: Tensors): Promise<void>;
  /**
   * Merges sets of tensors on the GPU with the weighted-sum kernel, in the given order: `set`: state = Σ cᵢ·partᵢ;
   * `add`: state += Σ cᵢ·partᵢ. Same checks as `write`.
   */
  combine(
    stage: number,
    kind: 'weights' | 'gradients',
    parts: Tensors[],
    coefficients: number[],
    mode: 'set' | 'add',
  ): Promise<void>;
  /** One optimizer step with the accumulated gradients, which are zero afterwards. Rejects `not-finite` (and changes nothing) if they are not finite. */
  step(stage: number): Promise<{ gradientNorm: number }>;
}
