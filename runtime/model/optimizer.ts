// One optimizer step over all slabs of a stage, in one submit: the kernels do nothing where a gradient is not finite, so a
// refused step changes nothing. Formulas are PyTorch's (see kernels/sgd.wgsl, kernels/adamw.wgsl).
import type { OptimizerSpec } from '../compute.ts';
import { MeshError } from '../errors.ts';
import { Borrowed, type Slice } from '../gpu/buffers.ts';
import type { Gpu, Recorder } from '../gpu/gpu.ts';
import type { KernelUse } from '../gpu/kernel-table.ts';
import {
  adamw,
  adamwUse,
  finiteCheck,
  finiteCheckUse,
  normLanes,
  sgd,
  sgdUse,
  squaredNorm,
  squaredNormUse,
} from '../gpu/ops.ts';
import { i32Of, type Tensor, type Tensors } from '../tensor.ts';
import { checkTensor, type TensorSet } from './weights.ts';

export interface OptimizerState {
  weights: TensorSet;
  gradients: TensorSet;
  moments: readonly TensorSet[];
}

export const optimizerUses = (spec: OptimizerSpec): KernelUse[] => [
  spec.name === 'sgd' ? sgdUse(spec.momentum !== 0) : adamwUse,
  squaredNormUse,
  finiteCheckUse,
];

/** Takes step number `step` (from 1). Resolves with the norm of the gradients, which are zero afterwards. */
export async function optimizerStep(
  gpu: Gpu,
  spec: OptimizerSpec,
  state: OptimizerState,
  step: number,
): Promise<number> {
  const borrowed = new Borrowed(gpu.pool);
  let reading: Promise<Uint8Array<ArrayBuffer>[]>;
  try {
    const flag = borrowed.take(4);
    const spare = borrowed.take(16);
    reading = gpu.submit((recorder) => {
      recorder.clear(flag);
      recorder.read(flag);
      for (const slab of state.gradients.slabs) {
        const partial = borrowed.take(normLanes(slab.bytes / 4) * 4);
        finiteCheck(recorder, flag, slab, slab.bytes / 4);
        squaredNorm(recorder, partial, slab, slab.bytes / 4);
        recorder.read(partial);
      }
      state.weights.slabs.forEach((_, i) => update(recorder, spec, state, i, step, flag, spare));
    });
  } finally {
    borrowed.release();
  }
  const [found, ...partials] = await reading;
  if (found?.[0] !== 0)
    throw new MeshError(
      'not-finite',
      `The gradients of step ${step} hold NaN or infinity; nothing was changed.`,
      'Discard the gradients, and lower the learning rate if it recurs.',
    );
  let sum = 0;
  for (const bytes of partials) for (const value of new Float32Array(bytes.buffer)) sum += value;
  return Math.sqrt(sum);
}

function update(
  recorder: Recorder,
  spec: OptimizerSpec,
  state: OptimizerState,
  i: number,
  step: number,
  flag: Slice,
  spare: Slice,
): void {
  const w = state.weights.slabs[i];
  const dw = state.gradients.slabs[i];
  if (w === undefined || dw === undefined) return;
  const count = w.bytes / 4;
  const [first, second] = state.moments.map((moment) => moment.slabs[i]);
  switch (spec.name) {
    case 'sgd': {
      const { lr, momentum, weightDecay: decay } = spec;
      // Without momentum there is no moment, but its binding wants a buffer of its own.
      sgd(recorder, { w, m: first ?? spare, dw }, flag, { count, lr, momentum, decay });
      return;
    }
    case 'adamw': {
      if (first === undefined || second === undefined) return;
      const { lr, beta1, beta2, eps, weightDecay } = spec;
      adamw(recorder, { w, m: first, v: second, dw }, flag, {
        count,
        beta1,
        beta2,
        gain1: 1 - beta1,
        gain2: 1 - beta2,
        eps,
        keep: 1 - lr * weightDecay,
        rate: lr / (1 - beta1 ** step),
        correction: Math.sqrt(1 - beta2 ** step),
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
