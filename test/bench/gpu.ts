// What the products reach on this machine's GPU: every candidate of the autotuner at large sizes, right or wrong, against the card's
// peak and against cuBLAS where gpu.sh found it. One JSON at the end. On a software adapter: the table's choice at a small size.
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { installDawnPacing } from '../../node/dawn-pacing.ts';
import { platform } from '../../node/platform.ts';
import { toMeshError } from '../../runtime/errors.ts';
import { Gpu } from '../../runtime/gpu/gpu.ts';
import { possibleTilings } from '../../runtime/gpu/matmul/choose.ts';
import { tilingName } from '../../runtime/gpu/matmul/generate.ts';
import { Probe } from '../../runtime/gpu/matmul/probe.ts';
import type { Product, Tiling } from '../../runtime/gpu/matmul/spec.ts';
import { candidatesOf, probeVariant, tuneGpu } from '../../runtime/gpu/matmul/tune-gpu.ts';
import { memoryStore } from '../../runtime/gpu/tuning-store.ts';

const SIZES = [1024, 2048, 4096];
const BATCHES = 5;
const BATCH_MS = 60;

/** 1e12 operations a second that a card is sold with: f32 without tensor cores, 16-bit with them (dense). */
const PEAKS: readonly { card: RegExp; f32: number; half: number }[] = [
  { card: /H200|H100(?!.*PCIe)|GH200/, f32: 67, half: 989 },
  { card: /H100.*PCIe/, f32: 51, half: 756 },
  { card: /A100/, f32: 19.5, half: 312 },
  { card: /L40S/, f32: 91.6, half: 362 },
  { card: /L4\b/, f32: 30.3, half: 121 },
  { card: /4090/, f32: 82.6, half: 165 },
  { card: /3090/, f32: 35.6, half: 71 },
  { card: /T4\b/, f32: 8.1, half: 65 },
];

type Precision = 'f32' | 'half';

interface Row {
  product: Product;
  precision: Precision;
  size: number;
  tiling: string;
  /** Best and median batch; absent where the tiling failed. */
  gflops?: { best: number; median: number };
  /** Share of the peak, where it is known. */
  ofPeak?: number;
  isRight?: boolean;
  failure?: string;
}

const round = (value: number, digits = 1): number => Math.round(value * 10 ** digits) / 10 ** digits;

async function measure(gpu: Gpu, precision: Precision, product: Product, size: number, tiling: Tiling): Promise<Row> {
  const row: Row = { product, precision, size, tiling: tilingName(tiling) };
  const shape = { M: size, N: size, K: size };
  const probe = new Probe(gpu, probeVariant(precision, product), shape);
  try {
    await probe.fill();
    await probe.prepare(tiling);
    const isRight = await probe.isRight(tiling);
    const batch = async (repeats: number): Promise<number> => {
      const startMs = performance.now();
      await probe.run(tiling, repeats);
      return (performance.now() - startMs) / repeats;
    };
    await batch(1);
    const repeats = Math.max(1, Math.min(200, Math.round(BATCH_MS / (await batch(2)))));
    const times: number[] = [];
    for (let i = 0; i < BATCHES; i++) times.push(await batch(repeats));
    times.sort((a, b) => a - b);
    const rate = (ms = Number.NaN): number => round((2 * size ** 3) / ms / 1e6);
    return { ...row, isRight, gflops: { best: rate(times[0]), median: rate(times[times.length >> 1]) } };
  } catch (cause) {
    return { ...row, failure: toMeshError(cause).message.split('\n')[0] ?? '' };
  } finally {
    probe.release();
  }
}

/** What cuBLAS reaches by way of PyTorch, or why that is not known. */
function cublas(sizes: readonly number[]): unknown {
  const script = fileURLToPath(new URL('./cublas_torch.py', import.meta.url));
  const { status, stdout, error } = spawnSync('python3', [script, ...sizes.map(String)], {
    encoding: 'utf8',
    timeout: 180_000,
  });
  if (error !== undefined) return { missing: error.message };
  try {
    return JSON.parse(stdout.trim().split('\n').at(-1) ?? '');
  } catch {
    return { missing: `cublas_torch.py ended with ${status} and no figures` };
  }
}

const say = (text: string): void => void process.stderr.write(`${text}\n`);

function show({ product, precision, size, tiling, gflops, ofPeak, isRight, failure }: Row): void {
  const figures =
    gflops === undefined
      ? `failed: ${failure ?? ''}`
      : `${gflops.best} GF/s (median ${gflops.median})${ofPeak === undefined ? '' : ` ${round(ofPeak * 100)} % of peak`}`;
  say(
    `${product} ${precision.padEnd(4)} ${String(size).padStart(4)} ${figures} ${isRight === false ? 'WRONG ' : ''}${tiling}`,
  );
}

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      adapter: { type: 'boolean' },
      'peak-f32': { type: 'string' },
      'peak-half': { type: 'string' },
      tests: { type: 'string' },
      sizes: { type: 'string' },
      force: { type: 'boolean' },
    },
  });
  installDawnPacing();
  let gpu: Gpu;
  try {
    gpu = await Gpu.acquire(platform);
  } catch (cause) {
    const { message, fix } = toMeshError(cause);
    say(`no GPU here: ${message}\n${fix}`);
    if (values.adapter !== true) console.log(JSON.stringify({ benchmark: 'gpu', adapter: null, reason: message }));
    return values.adapter === true ? 4 : 0;
  }
  const { description } = gpu;
  const name = description.description || `${description.vendor} ${description.architecture} ${description.device}`;
  if (values.adapter === true) {
    say(JSON.stringify(description, null, 2));
    say(description.isSoftware ? `${name} is a software adapter: there is no GPU here` : `GPU: ${name}`);
    await gpu.destroy();
    return description.isSoftware ? 3 : 0;
  }
  /** `--force` treats a software adapter as a GPU, to try this program: give it small --sizes then. */
  const isSoftware = description.isSoftware && values.force !== true;
  const sizes = values.sizes?.split(',').map(Number) ?? (isSoftware ? [256] : SIZES);
  const known = PEAKS.find(({ card }) => card.test(name));
  const peak = {
    f32: Number(values['peak-f32'] ?? known?.f32 ?? Number.NaN),
    half: Number(values['peak-half'] ?? known?.half ?? Number.NaN),
  };
  const rows: Row[] = [];
  const add = async (precision: Precision, product: Product, size: number, tiling: Tiling): Promise<Row> => {
    const row = await measure(gpu, precision, product, size, tiling);
    // A kernel that takes its device down costs its own figure and no other.
    if (gpu.death !== null) gpu = await Gpu.acquire(platform);
    if (row.gflops !== undefined && !Number.isNaN(peak[precision]))
      row.ofPeak = round(row.gflops.best / 1000 / peak[precision], 4);
    rows.push(row);
    show(row);
    return row;
  };
  const best: Row[] = [];
  const tuned: Record<string, object> = {};
  if (isSoftware) {
    for (const size of sizes)
      for (const product of ['nt', 'nn', 'tn'] as const)
        for (const tiling of possibleTilings(description, product, { M: size, N: size, K: size }))
          best.push(await add('f32', product, size, tiling));
  } else {
    for (const precision of ['f32', 'half'] as const) {
      const startMs = performance.now();
      const { tiles, gflops } = await tuneGpu(gpu, { store: memoryStore(), precision, isForced: true }).catch(
        (cause: unknown) => {
          say(`the autotuner failed: ${toMeshError(cause).message}`);
          return { tiles: [], gflops: 0 };
        },
      );
      if (gpu.death !== null) gpu = await Gpu.acquire(platform);
      const choices = tiles.map(({ shape, tiling }) => ({ ...shape, tiling: tilingName(tiling) }));
      tuned[precision] = { ms: round(performance.now() - startMs), gflops, choices };
      say(`autotuned ${precision}: ${JSON.stringify(tuned[precision])}`);
      for (const size of sizes) {
        let winner: { tiling: Tiling; row: Row } | undefined;
        for (const tiling of candidatesOf(gpu, precision)) {
          const row = await add(precision, 'nt', size, tiling);
          const isBetter = (row.gflops?.best ?? 0) > (winner?.row.gflops?.best ?? 0);
          if (row.isRight === true && isBetter) winner = { tiling, row };
        }
        if (winner === undefined) continue;
        best.push(winner.row);
        for (const product of ['nn', 'tn'] as const) best.push(await add(precision, product, size, winner.tiling));
      }
    }
  }
  const bestRows = best.map(({ product, precision, size, tiling, gflops, ofPeak }) => ({
    product,
    precision,
    size,
    tiling,
    gflops: gflops?.best ?? null,
    ofPeak: ofPeak ?? null,
  }));
  const result = {
    benchmark: 'gpu',
    adapter: description,
    method: `M = N = K, operands on the device; best of ${BATCHES} batches of about ${BATCH_MS} ms, wall clock from submit to a 4-byte readback; 2·M·N·K operations; half: f32 activations, f16 weights, f32 sums and result`,
    peakTflops: { f32: peak.f32 || null, half: peak.half || null },
    tests: values.tests ?? null,
    tuned,
    best: bestRows,
    rows,
    cublas: isSoftware ? { missing: 'no GPU' } : cublas(sizes),
  };
  await gpu.destroy();
  console.log(JSON.stringify(result));
  return 0;
}

if (!existsSync(fileURLToPath(new URL('../../node_modules/webgpu', import.meta.url)))) {
  say('node_modules is missing: run npm run setup');
  process.exit(2);
}
process.exit(await main());
