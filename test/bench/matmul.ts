// GF/s of the products, and of a naive kernel in the same run on the same device: the ratio is what travels between machines.
// The naive kernel and ours take turns, so that a busy moment of the machine meets both.
import { readFileSync } from 'node:fs';
import { installDawnPacing } from '../../node/dawn-pacing.ts';
import { platform } from '../../node/platform.ts';
import type { Slice } from '../../runtime/gpu/buffers.ts';
import type { GeneratedKernel } from '../../runtime/gpu/generated.ts';
import { Gpu, type Recorder } from '../../runtime/gpu/gpu.ts';
import {
  matmulNn,
  matmulNt,
  matmulTn,
  matmulUses,
  type MatmulShape,
  type Product,
  type WeightFormat,
} from '../../runtime/gpu/matmul.ts';

const shape = (M: number, N: number, K: number): MatmulShape => ({ M, N, K });
/** Squares, the products of GPT-2's blocks over 128 tokens, a window of its vocabulary, and those of a small classifier. */
const SHAPES = [
  shape(512, 512, 512),
  shape(1024, 1024, 1024),
  shape(128, 768, 768),
  shape(128, 2304, 768),
  shape(128, 3072, 768),
  shape(128, 768, 3072),
  shape(128, 12_544, 768),
  shape(32, 64, 784),
  shape(128, 256, 784),
];
/** One token through a window of GPT-2's vocabulary. */
const VECTOR = shape(1, 25_152, 768);
const ROUNDS = 9;
/** A batch repeats the product until it takes about this long, so that submit and readback weigh little. */
const BATCH_MS = 40;

const KINDS = ['nt', 'nn', 'tn', 'nt bf16', 'naive'] as const;
type Kind = (typeof KINDS)[number];

interface Rate {
  /** Fastest batch and median of all. */
  best: number;
  median: number;
}

export interface MatmulBench {
  benchmark: 'matmul';
  device: string;
  method: string;
  results: {
    shape: string;
    gflops: Record<
      string,
      Rate
    >; /** Of the fastest batches: the median is the machine's business as much as the kernel's. */
    ratioToNaive: number;
  }[];
  vector: { shape: string; gigabytesPerSecond: Record<string, Rate>; milliseconds: Record<string, Rate> };
}

const naive: GeneratedKernel = {
  name: 'naive',
  code: readFileSync(new URL('./matmul-naive.wgsl', import.meta.url), 'utf8'),
  outputs: 1,
  inputs: 2,
  sizes: { M: 'u32', N: 'u32', K: 'u32' },
  workgroup: 64,
};

export async function benchMatmul(): Promise<MatmulBench> {
  installDawnPacing();
  const gpu = await Gpu.acquire(platform);
  try {
    await gpu.warm([{ generated: naive }]);
    const results: MatmulBench['results'] = [];
    for (const sizes of SHAPES) {
      const ms = await measure(gpu, sizes, KINDS);
      const gflops = mapped(ms, (value) => round((2 * sizes.M * sizes.N * sizes.K) / value / 1e6));
      const ratioToNaive = round((gflops.nt?.best ?? Number.NaN) / (gflops.naive?.best ?? Number.NaN));
      results.push({ shape: label(sizes), gflops, ratioToNaive });
    }
    const vectorMs = await measure(gpu, VECTOR, ['nt', 'nt bf16']);
    const { N, K } = VECTOR;
    return {
      benchmark: 'matmul',
      device: gpu.description.description,
      method: `M×N×K; ${ROUNDS} batches of about ${BATCH_MS} ms after one warm batch, kinds in turn, wall clock from submit to a 4-byte readback; 2·M·N·K operations each; the vector product counts the bytes of w`,
      results,
      vector: {
        shape: label(VECTOR),
        gigabytesPerSecond: {
          f32: rates(vectorMs.nt, (value) => round((N * K * 4) / value / 1e6)),
          bf16: rates(vectorMs['nt bf16'], (value) => round((N * K * 2) / value / 1e6)),
        },
        milliseconds: mapped(vectorMs, round),
      },
    };
  } finally {
    await gpu.destroy();
  }
}

const label = ({ M, N, K }: MatmulShape): string => `${M}×${N}×${K}`;

type Times = Partial<Record<Kind, number[]>>;

const rates = (times: readonly number[] = [], of: (ms: number) => number): Rate => ({
  best: of(times[0] ?? Number.NaN),
  median: of(times[times.length >> 1] ?? Number.NaN),
});

const mapped = (times: Times, of: (ms: number) => number): Record<string, Rate> =>
  Object.fromEntries(Object.entries(times).map(([kind, list]) => [kind, rates(list, of)]));

const productOf = (kind: Kind): Product => (kind === 'nn' || kind === 'tn' ? kind : 'nt');
const weightsOf = (kind: Kind): WeightFormat => (kind === 'nt bf16' ? 'bf16' : 'f32');

interface Operands {
  y: Slice;
  x: Slice;
  w: Slice;
  /** 16-bit weights. */
  half: Slice;
}

/** Milliseconds of each kind, the fastest first. */
async function measure(gpu: Gpu, sizes: MatmulShape, kinds: readonly Kind[]): Promise<Times> {
  const { M, N, K } = sizes;
  const ours = kinds.filter((kind) => kind !== 'naive');
  const needs = ours.map((kind) => ({ product: productOf(kind), weights: weightsOf(kind), ...sizes }));
  await gpu.warm(matmulUses(gpu.description, needs));
  const take = (values: number): Slice => gpu.pool.take(values * 4);
  const operands = { y: take(M * N), x: take(M * K), w: take(N * K), half: take((N * K) / 2) };
  const batchMs = async (kind: Kind, repeats: number): Promise<number> => {
    const startMs = performance.now();
    await gpu.submit((recorder) => {
      for (let i = 0; i < repeats; i++) record(recorder, kind, operands, sizes);
      recorder.read({ ...operands.y, bytes: 4 });
    });
    return (performance.now() - startMs) / repeats;
  };
  try {
    await gpu.submit((recorder) => {
      recorder.write(
        operands.x,
        bytesOf(M * K, (i) => (i % 17) / 17 - 0.5),
      );
      recorder.write(
        operands.w,
        bytesOf(N * K, (i) => (i % 13) / 13 - 0.5),
      );
      // Two small bf16 values a word.
      recorder.write(
        operands.half,
        bytesOf((N * K) / 2, (i) => (i % 13) / 13 - 0.5),
      );
      recorder.clear(operands.y);
    });
    const repeats = new Map<Kind, number>();
    const times: Times = {};
    for (const kind of kinds) {
      await batchMs(kind, 1);
      const once = Math.min(await batchMs(kind, 1), await batchMs(kind, 1));
      repeats.set(kind, Math.max(1, Math.min(500, Math.round(BATCH_MS / once))));
      times[kind] = [];
    }
    for (let i = 0; i < ROUNDS; i++)
      for (const kind of kinds) times[kind]?.push(await batchMs(kind, repeats.get(kind) ?? 1));
    for (const list of Object.values(times)) list.sort((a, b) => a - b);
    return times;
  } finally {
    for (const slice of Object.values(operands)) gpu.pool.release(slice);
  }
}

function record(recorder: Recorder, kind: Kind, { y, x, w, half }: Operands, sizes: MatmulShape): void {
  switch (kind) {
    case 'nt':
      return matmulNt(recorder, y, x, w, null, sizes);
    case 'nt bf16':
      return matmulNt(recorder, y, x, half, null, sizes, { weights: 'bf16' });
    case 'nn':
      return matmulNn(recorder, y, x, w, sizes);
    case 'tn':
      return matmulTn(recorder, y, x, w, sizes);
    case 'naive':
      return recorder.dispatchGenerated(naive, [y, x, w], { ...sizes }, Math.ceil((sizes.M * sizes.N) / 64));
    default:
      kind satisfies never;
  }
}

const bytesOf = (count: number, value: (i: number) => number): Uint8Array<ArrayBuffer> =>
  new Uint8Array(Float32Array.from({ length: count }, (_, i) => value(i)).buffer);

const round = (value: number): number => Math.round(value * 100) / 100;
