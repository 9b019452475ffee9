// GF/s of the products, and of a naive kernel in the same run on the same device: the ratio is what travels between machines.
import { readFileSync } from 'node:fs';
import { installDawnPacing } from '../../node/dawn-pacing.ts';
import { platform } from '../../node/platform.ts';
import type { Slice } from '../../runtime/gpu/buffers.ts';
import { Gpu, type Recorder } from '../../runtime/gpu/gpu.ts';
import { matmulNn, matmulNt, matmulTn, matmulUses } from '../../runtime/gpu/matmul.ts';

const SIZES = [256, 512];
const BATCHES = 9;
/** A batch repeats the product until it takes about this long, so that submit and readback weigh little. */
const BATCH_MS = 40;

interface Rate {
  /** Fastest batch and median of all. */
  best: number;
  median: number;
}

interface MatmulBench {
  benchmark: 'matmul';
  device: string;
  method: string;
  results: { size: number; gflops: Record<string, Rate>; ratioToNaive: number }[];
}

export async function benchMatmul(): Promise<MatmulBench> {
  installDawnPacing();
  const naiveText = readFileSync(new URL('./matmul-naive.wgsl', import.meta.url), 'utf8');
  const ours = await Gpu.acquire(platform);
  const naive = await Gpu.acquire({
    gpu: () => platform.gpu(),
    gpuMissing: () => platform.gpuMissing(),
    kernelSource: (name) => (name === 'matmul-nt' ? naiveText : platform.kernelSource(name)),
  });
  try {
    await ours.warm(matmulUses);
    await naive.warm([{ kernel: 'matmul-nt', overrides: {} }]);
    const results: MatmulBench['results'] = [];
    for (const size of SIZES) {
      const shape = { M: size, N: size, K: size };
      const gflops = {
        nt: await measure(ours, size, (recorder, { y, x, w, b }) => matmulNt(recorder, y, x, w, b, shape)),
        nn: await measure(ours, size, (recorder, { y, x, w }) => matmulNn(recorder, y, x, w, shape)),
        tn: await measure(ours, size, (recorder, { y, x, w }) => matmulTn(recorder, y, x, w, shape)),
        naive: await measure(naive, size, (recorder, { y, x, w, b }) =>
          recorder.dispatch('matmul-nt', {}, [y, x, w, b], shape, Math.ceil((size * size) / 64)),
        ),
      };
      results.push({ size, gflops, ratioToNaive: round(gflops.nt.median / gflops.naive.median) });
    }
    return {
      benchmark: 'matmul',
      device: ours.description.description,
      method: `f32, M = N = K; ${BATCHES} batches of about ${BATCH_MS} ms after one warm batch, wall clock from submit to a 4-byte readback; 2·M·N·K operations each`,
      results,
    };
  } finally {
    await Promise.all([ours.destroy(), naive.destroy()]);
  }
}

interface Operands {
  y: Slice;
  x: Slice;
  w: Slice;
  b: Slice;
}

async function measure(
  gpu: Gpu,
  size: number,
  product: (recorder: Recorder, operands: Operands) => void,
): Promise<Rate> {
  const take = (count: number): Slice => gpu.pool.take(count * 4);
  const operands = { y: take(size * size), x: take(size * size), w: take(size * size), b: take(size) };
  const values = new Uint8Array(Float32Array.from({ length: size * size }, (_, i) => (i % 17) / 17 - 0.5).buffer);
  const batchMs = async (repeats: number): Promise<number> => {
    const startMs = performance.now();
    await gpu.submit((recorder) => {
      for (let i = 0; i < repeats; i++) product(recorder, operands);
      recorder.read({ ...operands.y, bytes: 4 });
    });
    return performance.now() - startMs;
  };
  try {
    await gpu.submit((recorder) => {
      recorder.write(operands.x, values);
      recorder.write(operands.w, values);
      recorder.clear(operands.y);
      recorder.clear(operands.b);
    });
    await batchMs(1);
    const repeats = Math.max(1, Math.min(200, Math.round(BATCH_MS / (await batchMs(1)))));
    const times: number[] = [];
    for (let i = 0; i < BATCHES; i++) times.push((await batchMs(repeats)) / repeats);
    times.sort((a, b) => a - b);
    const rate = (ms: number | undefined): number => round((2 * size ** 3) / (ms ?? Number.NaN) / 1e6);
    return { best: rate(times[0]), median: rate(times[times.length >> 1]) };
  } finally {
    for (const slice of Object.values(operands)) gpu.pool.release(slice);
  }
}

const round = (value: number): number => Math.round(value * 100) / 100;
