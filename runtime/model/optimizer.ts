// One optimizer step over all slabs of a stage, in one submit: the kernels do nothing where a gradient is not finite, so a
// refused step changes nothing. Formulas are PyTorch's (see kernels/sgd.wgsl, kernels/adamw.wgsl).
import type { OptimizerSpec } from '../compute.ts';
import { MeshError } from '../errors.ts';
import { Borrowed, type Slice } from '../gpu/buffers.ts';
import type { Gpu, Recorder } from '../gpu/gpu.ts';
import type { KernelUse } from '../gpu/kernel-table.ts';
import { adamw, adamwUse, normAndCheck, normAndCheckUse, normLanes, sgd, sgdUse } from '../gpu/ops.ts';
import { i32Of, type Tensor, type Tensors } from '../tensor.ts';
import { checkTensor, type TensorSet } from './weights.ts';

export interface OptimizerState {
  weights: TensorSet;
  gradients: TensorSet;
  moments: readonly TensorSet[];
}

export const optimizerUses = (spec: OptimizerSpec): KernelUse[] => [
  spec.name === 'sgd' ? sgdUse(spec.momentum !== 0) : adamwUse,
  normAndCheckUse,
];

export interface StepInput {
  /** Counts from 1. */
  step: number;
  lr: number;
  gradientScale: number;
}

/** Resolves with the norm of the gradients as they were, unscaled; they are zero afterwards. */
export async function optimizerStep(
  gpu: Gpu,
  spec: OptimizerSpec,
  state: OptimizerState,
  input: StepInput,
): Promise<number> {
  const borrowed = new Borrowed(gpu.pool);
  let reading: Promise<Uint8Array<ArrayBuffer>[]>;
  try {
    const flag = borrowed.take(4);
    const spare = borrowed.take(16);
    const gradients = state.gradients.windows();
    const weights = state.weights.windows();
    const moments = state.moments.map((moment) => moment.windows());
    reading = gpu.submit((recorder) => {
      recorder.clear(flag);
      recorder.read(flag);
      for (const { slice } of gradients) {
        const partial = borrowed.take(normLanes(slice.bytes / 4) * 4);
        normAndCheck(recorder, { partial, flag }, slice, slice.bytes / 4);
        recorder.read(partial);
      }
      weights.forEach(({ slice: w, group }, i) => {
        const dw = gradients[i]?.slice;
        if (dw === undefined) return;
        const [first, second] = moments.map((moment) => moment[i]?.slice);
        update(recorder, spec, { w, dw, first, second, flag, spare }, input, group !== NO_DECAY);
      });
    });
  } finally {
    borrowed.release();
  }
  const [found, ...partials] = await reading;
  if (found?.[0] !== 0)
    throw new MeshError(
      'not-finite',
      `The gradients of step ${input.step} hold NaN or infinity; nothing was changed.`,
      'Discard the gradients, and lower the learning rate if it recurs.',
    );
  return Math.sqrt(sumOf(partials));
}

/** Sum of squares over slices of gradients; NaN or infinity where one of them is. */
export async function sumOfSquares(gpu: Gpu, slices: readonly Slice[]): Promise<number> {
  const borrowed = new Borrowed(gpu.pool);
  let reading: Promise<Uint8Array<ArrayBuffer>[]>;
  try {
    const flag = borrowed.take(4);
    reading = gpu.submit((recorder) => {
      recorder.clear(flag);
      recorder.read(flag);
      for (const slice of slices) {
        const partial = borrowed.take(normLanes(slice.bytes / 4) * 4);
        normAndCheck(recorder, { partial, flag }, slice, slice.bytes / 4);
        recorder.read(partial);
      }
    });
  } finally {
    borrowed.release();
  }
  const [found, ...partials] = await reading;
  return found?.[0] === 0 ? sumOf(partials) : Number.NaN;
}

function sumOf(partials: readonly Uint8Array<ArrayBuffer>[]): number {
  let sum = 0;
  for (const bytes of partials) for (const value of new Float32Array(bytes.buffer)) sum += value;
  return sum;
}

/** The group of parameters that do not decay: norms and biases, where only matrices shall. */
export const NO_DECAY = 'no decay';

export const decayGroup = (spec: OptimizerSpec, shape: readonly number[]): string =>
  spec.name === 'adamw' && spec.decay === 'matrices' && shape.length < 2 ? NO_DECAY : '';

interface Update {
  w: Slice;
  dw: Slice;
  first: Slice | undefined;
  second: Slice | undefined;
  flag: Slice;
  spare: Slice;
}

function update(recorder: Recorder, spec: OptimizerSpec, on: Update, input: StepInput, decays: boolean): void {
  const { w, dw, first, second, flag, spare } = on;
  const { step, lr, gradientScale } = input;
  const count = w.bytes / 4;
  switch (spec.name) {
    case 'sgd': {
      const { momentum, weightDecay: decay } = spec;
      // Without momentum there is no moment, but its binding wants a buffer of its own.
      sgd(recorder, { w, m: first ?? spare, dw }, flag, { count, lr, momentum, decay, gradientScale });
      return;
    }
    case 'adamw': {
      if (first === undefined || second === undefined) return;
      const { beta1, beta2, eps, weightDecay } = spec;
      adamw(recorder, { w, m: first, v: second, dw }, flag, {
        count,
        beta1,
        beta2,
        gain1: 1 - beta1,
        gain2: 1 - beta2,
        eps,
        keep: decays ? 1 - lr * weightDecay : 1,
        rate: lr / (1 - beta1 ** step),
        correction: Math.sqrt(1 - beta2 ** step),
        gradientScale,
      });
      return;
    }
    default:
      spec satisfies never;
  }
}

/** Takes the step counter out of an optimizer's state. Throws `malformed` unless it is one i32 of at least 0. */
export function takeSteps(tensors: Tensors): { floats: Map<string, Tensor>; steps: number } {
  const floats = new Map(tensors);
  const step = floats.get('step');
  if (step === undefined) throw new MeshError('malformed', "The optimizer's state lacks its step.", 'Send all of it.');
  checkTensor('step', step, [1], 'i32');
  const steps = i32Of(step)[0] ?? -1;
  if (steps < 0) throw new MeshError('malformed', `The optimizer's step is ${steps}.`, 'It counts steps from 0.');
  floats.delete('step');
  return { floats, steps };
}
