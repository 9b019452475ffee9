// Ours, in a page and in Node alike: the product's kernels and its compute engine on this thread, without the worker and the wire.
import { createCompute } from '../../../runtime/compute-engine.ts';
import { stageSpecSchema, type StageSpec } from '../../../runtime/compute.ts';
import type { Slice } from '../../../runtime/gpu/buffers.ts';
import type { GpuHost } from '../../../runtime/gpu/device.ts';
import { Gpu } from '../../../runtime/gpu/gpu.ts';
import { matmulNt, matmulUses } from '../../../runtime/gpu/matmul.ts';
import { f32Tensor, i32Tensor } from '../../../runtime/tensor.ts';
import { LEARNING_RATE, type Contender, type Samples, type Sizes, type Training } from './measure.ts';
import { trainOnGpu } from './ours-loop.ts';

/**
 * With `isLoop` the losses of a batch of steps are read at its end; else through `Compute`, which reads loss and gradient norm of
 * every step.
 */
export async function ours(host: GpuHost, isLoop: boolean): Promise<Contender> {
  const gpu = await Gpu.acquire(host);
  const { vendor, architecture, description } = gpu.description;
  return {
    device: `${vendor} ${architecture} ${description}`.trim(),
    isTransposed: true,
    async matmul(size, a, b) {
      const shape = { M: size, N: size, K: size };
      await gpu.warm(matmulUses(gpu.description, [{ product: 'nt', ...shape }]));
      const take = (): Slice => gpu.pool.take(size * size * 4);
      const slices = { y: take(), x: take(), w: take() };
      const { y, x, w } = slices;
      await gpu.submit((recorder) => {
        recorder.write(x, new Uint8Array(a.buffer));
        recorder.write(w, new Uint8Array(b.buffer));
      });
      return {
        async run(times) {
          await gpu.submit((recorder) => {
            for (let i = 0; i < times; i++) matmulNt(recorder, y, x, w, null, shape);
            recorder.read({ ...y, bytes: 4 });
          });
        },
        async result() {
          const [bytes] = await gpu.submit((recorder) => recorder.read(y));
          return new Float32Array(bytes?.buffer ?? new ArrayBuffer(0));
        },
        end() {
          for (const slice of Object.values(slices)) gpu.pool.release(slice);
        },
      };
    },
    mlp: (sizes, batch, samples) =>
      isLoop ? trainOnGpu(gpu, sizes, batch, samples) : trainByCompute(host, sizes, batch, samples),
    end: () => gpu.destroy(),
  };
}

/** Steps asked for ahead of the one whose loss is known. */
const IN_FLIGHT = 8;

const stageSpec = (sizes: Sizes): StageSpec =>
  stageSpecSchema.parse({
    model: { family: 'mlp', sizes: [...sizes], activation: 'relu' },
    from: 0,
    to: sizes.length - 1,
    seed: 1,
    optimizer: { name: 'adamw', lr: LEARNING_RATE },
  });

async function trainByCompute(host: GpuHost, sizes: Sizes, batch: number, samples: Samples): Promise<Training> {
  const { compute, stop } = createCompute(host);
  const { stage } = await compute.open(stageSpec(sizes));
  const x = f32Tensor([batch, sizes[0]], samples.x);
  const y = i32Tensor([batch], samples.y);
  return {
    async run(steps) {
      // Calls on a stage run in the order in which they came, so none needs to wait for the results of the one before.
      const pending: Promise<number>[] = [];
      for (let i = 0; i < steps; i++) {
        const result = compute.loss(stage, x, y, { scale: 1 / batch, train: true, accumulate: true });
        pending.push(Promise.all([result, compute.step(stage)]).then(([{ loss }]) => loss));
        if (i >= IN_FLIGHT) await pending[i - IN_FLIGHT];
      }
      const losses = await Promise.all(pending);
      return losses.at(-1) ?? NaN;
    },
    end: stop,
  };
}
