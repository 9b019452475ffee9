// How much GPU memory a stage will need, found by rehearsing its work on a device that only keeps accounts; and, where that is too
// much, what would need less.
import type { GpuDescription, StageSpec } from '../compute.ts';
import { MeshError } from '../errors.ts';
import { mebibytes } from '../gpu/buffers.ts';
import { Gpu } from '../gpu/gpu.ts';
import { f32Tensor, i32Tensor, elements, type Tensor, type Tensors } from '../tensor.ts';
import { Stage } from './stage.ts';
import { layerCount } from './spec.ts';

/** What a stage will be given: microbatches of B samples or sequences, T tokens each, so many of them under way at once. */
export interface Load {
  B: number;
  T: number;
  kept: number;
}

export interface MemoryPlan {
  /** At the worst moment. */
  peakBytes: number;
  /** Weights, gradients and moments. */
  stateBytes: number;
  /** What one microbatch leaves behind until its backward pass. */
  keptBytes: number;
  /** Between calls at most: state, what is made of it, and all kept microbatches. The rest of the peak is shared with other stages. */
  heldBytes: number;
}

/** Trains on nothing for as long as it takes to see the worst: all microbatches kept, their backward passes, a step. */
export async function predictMemory(spec: StageSpec, load: Load, description: GpuDescription): Promise<MemoryPlan> {
  const gpu = Gpu.rehearsal(description);
  const stage = await Stage.open(gpu, spec, { isRehearsal: true });
  const stateBytes = gpu.stats.usedBytes;
  let keptBytes = 0;
  let heldBytes = stateBytes;
  const { B, T, kept } = load;
  const { info } = stage;
  const shaped = (sample: readonly number[]): number[] => [B, ...sample.map((size) => (size === -1 ? T : size))];
  const zeros = (shape: number[]): Tensor => f32Tensor(shape, new Float32Array(elements(shape)));
  const input = (): Tensor => {
    const shape = shaped(info.inputShape);
    return info.inputDtype === 'i32' ? i32Tensor(shape, new Int32Array(elements(shape))) : zeros(shape);
  };
  // Twice: the first round makes the buffers that the second finds.
  for (let round = 0; round < 2; round += 1) {
    if (info.isLast) {
      const targets = info.outputShape.length > 1 ? [B, T] : [B];
      const y = (): Tensor => i32Tensor(targets, new Int32Array(elements(targets)));
      const options = { scale: 1, train: true, accumulate: true };
      await Promise.all(Array.from({ length: kept }, () => stage.loss(input(), y(), options)));
    } else {
      const keys = Array.from({ length: kept }, (_, i) => String(i));
      const before = gpu.stats.usedBytes;
      for (const key of keys) await stage.forward(key, input(), { keep: true });
      heldBytes = Math.max(heldBytes, gpu.stats.usedBytes);
      keptBytes = (gpu.stats.usedBytes - before) / kept;
      for (const key of keys) await stage.backward(key, zeros(shaped(info.outputShape)), true);
    }
    await stage.state.step({});
    if (spec.store) await mergeOnce(stage);
    heldBytes = Math.max(heldBytes, gpu.stats.usedBytes);
  }
  return { peakBytes: gpu.stats.peakBytes, stateBytes, keptBytes, heldBytes };
}

/** A round of averaging with two peers that bring everything. */
async function mergeOnce({ store }: Stage): Promise<void> {
  const units = (await store.snapshot()).progress.map((_, unit) => unit);
  const served = async (): Promise<Tensors> => (await store.serve({ kind: 'weights', units, format: 'f32' })).tensors;
  const parts: number[] = [];
  for (let i = 0; i < 2; i += 1) parts.push((await store.receive({ units, format: 'f32' }, await served())).part);
  const from = parts.map((part) => ({ part, coefficient: 1 / 3 }));
  await store.merge(units.map((unit) => ({ unit, from })));
  store.drop(parts);
}

/** What a stage under this load needs. Throws `out-of-memory`, with what would fit, where that is more than the budget. */
export async function expectFit(
  spec: StageSpec,
  load: Load,
  description: GpuDescription,
  budgetBytes: number,
): Promise<MemoryPlan> {
  const plan = await predictMemory(spec, load, description);
  if (plan.peakBytes <= budgetBytes) return plan;
  const { from, to } = spec;
  const ways: string[] = [];
  const tryWay = async (what: string, other: StageSpec, under: Load): Promise<void> => {
    const { peakBytes } = await predictMemory(other, under, description);
    if (peakBytes <= budgetBytes) ways.push(`${what} (${mebibytes(peakBytes)})`);
  };
  if (spec.recompute !== true && spec.model.family !== 'mlp')
    await tryWay('recompute: true', { ...spec, recompute: true }, load);
  if (load.B > 1) await tryWay('a microbatch of 1', spec, { ...load, B: 1 });
  for (let parts = 2; parts <= to - from && ways.length < 3; parts += 1) {
    const size = Math.ceil((to - from) / parts);
    const pieces = [
      { ...spec, to: from + size },
      { ...spec, from: to - size },
    ];
    const plans = await Promise.all(pieces.map((piece) => predictMemory(piece, load, description)));
    const worst = Math.max(...plans.map(({ peakBytes }) => peakBytes));
    if (worst > budgetBytes) continue;
    ways.push(`these layers over ${parts} stages (${mebibytes(worst)} each at most)`);
    break;
  }
  throw new MeshError(
    'out-of-memory',
    `Layers ${from} to ${to} of ${layerCount(spec.model)} need ${mebibytes(plan.peakBytes)} of GPU memory in microbatches of ${load.B} × ${load.T}, ${load.kept} at a time; this peer lends ${mebibytes(budgetBytes)}.`,
    ways.length > 0
      ? `What would fit here: ${ways.join('; ')}.`
      : 'Nothing less of this model fits here: use a peer that lends more memory, or a smaller model.',
  );
}
