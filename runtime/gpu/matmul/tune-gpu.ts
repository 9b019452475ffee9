// The autotuner on a real device: probes of three shapes, every candidate compiled once, winners checked on the CPU. A software
// adapter is not searched: compiling would cost more than any winner saves, and F0's table is known to be right for it.
import type { DeviceDescription } from '../device.ts';
import type { Gpu } from '../gpu.ts';
import { fingerprint, parseTuningEntry, shapeBucket, tuningKey, type TuningStore } from '../tuning-store.ts';
import { matrixCandidates, tileCandidates } from './candidates.ts';
import { possibleTilings } from './choose.ts';
import { generate, tilingName } from './generate.ts';
import type { MatmulShape, MatmulVariant, Product, Tiling } from './spec.ts';
import { Probe } from './probe.ts';
import { tune, type Candidate } from './tune.ts';
import type { TunedTile } from './tuned.ts';

export interface TuneGpuOptions {
  readonly store: TuningStore;
  readonly nowMs?: () => number;
  readonly setTimer?: (ms: number, body: () => void) => () => void;
  /** `half` tries F3 too, on 16-bit weights. */
  readonly precision?: 'f32' | 'half';
  readonly probes?: readonly MatmulShape[];
  readonly candidates?: readonly Tiling[];
  /** For all probes together. */
  readonly measureMs?: number;
  readonly compileMs?: number;
  /** Search on a software adapter too: tests do. */
  readonly isForced?: boolean;
}

export interface TunedGpu {
  readonly tiles: readonly TunedTile[];
  /** Of the fastest winner; 0 where nothing was searched or won. */
  readonly gflops: number;
}

/** A large batch, a small one, and one that has few rows. */
const PROBES: readonly MatmulShape[] = [
  { M: 1024, N: 1024, K: 1024 },
  { M: 256, N: 768, K: 768 },
  { M: 64, N: 1024, K: 1024 },
];
const MEASURE_MS = 300;
const COMPILE_MS = 3_000;

const startTimer = (ms: number, body: () => void): (() => void) => {
  const timer = setTimeout(body, ms);
  return () => clearTimeout(timer);
};

/** The product that is measured. Its sizes are multiples of 4. */
export const probeVariant = (precision: 'f32' | 'half', product: Product = 'nt'): MatmulVariant => ({
  product,
  weights: precision === 'half' ? 'f16' : 'f32',
  bias: false,
  activation: null,
  residual: false,
  accumulate: false,
  alignment: { a: true, b: true, out: true },
});

export function candidatesOf(gpu: Gpu, precision: 'f32' | 'half'): Tiling[] {
  const { workgroupBytes = 16_384, matrixConfigs = [], features, subgroupMinSize, subgroupMaxSize } = gpu.description;
  const tiles = tileCandidates({ workgroupBytes });
  if (precision === 'f32') return tiles;
  const device = { workgroupBytes, matrixConfigs, features, subgroupMinSize, subgroupMaxSize };
  return [...matrixCandidates(device), ...tiles.slice(0, 4)];
}

export async function tuneGpu(gpu: Gpu, options: TuneGpuOptions): Promise<TunedGpu> {
  const { description } = gpu;
  const { precision = 'f32', probes = PROBES, nowMs = () => performance.now(), setTimer = startTimer } = options;
  if (description.isSoftware && options.isForced !== true) return { tiles: [], gflops: 0 };
  const variant = probeVariant(precision);
  const tilings = options.candidates ?? candidatesOf(gpu, precision);
  const kernels = new Map(tilings.map((tiling) => [tiling, generate(variant, tiling)] as const));
  const candidates = tilings.map((tiling): Candidate<Tiling> => ({ name: tilingName(tiling), choice: tiling }));
  const code = fingerprint([...kernels.values()].map((kernel) => kernel.code).join());
  const tiles: TunedTile[] = [];
  let best = 0;
  let compileMs = options.compileMs ?? COMPILE_MS;
  for (const shape of probes) {
    const probe = new Probe(gpu, variant, shape, kernels);
    const startMs = nowMs();
    const key = tuningKey({
      ...description,
      isFallbackAdapter: description.isFallbackAdapter ?? false,
      code,
      precision,
      bucket: shapeBucket(shape),
    });
    const operations = 2 * shape.M * shape.N * shape.K;
    const measureMs = (options.measureMs ?? MEASURE_MS) / probes.length;
    try {
      await probe.fill();
      const found = await tune({
        key,
        candidates,
        bench: probe,
        store: options.store,
        nowMs,
        setTimer,
        operations,
        measureMs,
        compileMs,
      });
      if (found !== null) {
        tiles.push({ shape, tiling: found.choice });
        best = Math.max(best, found.gflops);
      }
    } finally {
      probe.release();
    }
    // What is compiled stays compiled, so later probes need less; what is left keeps the whole within its bound.
    compileMs = Math.max(compileMs - (nowMs() - startMs), COMPILE_MS / 10);
  }
  return { tiles, gflops: Number(best.toPrecision(3)) };
}

/**
 * Tunes a device for a precision, once: `description.tuning` and `description.gflops` say what was found. On a software adapter
 * the table's one tiling for large products is checked and timed, and given up for one without subgroups where it is wrong.
 * Never rejects: a device that was not tuned is slower, and still right.
 */
export async function ensureTuned(gpu: Gpu, precision: 'f32' | 'half', store: TuningStore): Promise<void> {
  const { description } = gpu;
  try {
    if (description.isSoftware) await checkTable(gpu, store);
    else await tuneOnce(gpu, precision, store);
  } catch {
    // Where the device was lost, the next thing that is done with it says so.
  } finally {
    gpu.pool.trim(0); // no stage will ask for buffers of the probes' sizes
  }
}

async function tuneOnce(gpu: Gpu, precision: 'f32' | 'half', store: TuningStore): Promise<void> {
  const { description } = gpu;
  const { f32, half } = description.tuning ?? { f32: [], half: null };
  if (precision === 'f32') {
    if (f32.length > 0) return;
    const { tiles, gflops } = await tuneGpu(gpu, { store, precision });
    description.tuning = { f32: tiles, half };
    if (gflops > 0) description.gflops = gflops;
    return;
  }
  // Without matrix units the tiles of f32 serve 16-bit weights as well.
  if (half !== null || (description.matrixConfigs ?? []).length === 0) return;
  const attempt = await attemptOf(description, store);
  if (attempt.isLast) return;
  const { tiles } = await tuneGpu(gpu, { store, precision });
  description.tuning = { f32, half: tiles };
  if (gpu.death === null) await attempt.finished();
}

/** Kernels with matrix units are a draft that may take the device down: what did so twice is not tried a third time. */
async function attemptOf(
  description: DeviceDescription,
  store: TuningStore,
): Promise<{ isLast: boolean; finished: () => Promise<void> }> {
  const key = `attempt ${fingerprint(JSON.stringify([description.vendor, description.architecture, description.description]))}`;
  const before = parseTuningEntry(await store.read(key).catch(() => undefined))?.name;
  const note = (name: 'once' | 'twice' | 'finished'): Promise<void> =>
    store.write(key, { name, gflops: 1 }).catch(() => {});
  if (before === 'twice') return { isLast: true, finished: () => Promise.resolve() };
  await note(before === 'once' ? 'twice' : 'once');
  return { isLast: false, finished: () => note('finished') };
}

const SOFTWARE_PROBE: MatmulShape = { M: 256, N: 256, K: 256 };
/** Compiling takes software drivers seconds, and there is nothing else to choose. */
const SOFTWARE_COMPILE_MS = 60_000;

async function checkTable(gpu: Gpu, store: TuningStore): Promise<void> {
  const { description } = gpu;
  if (description.gflops !== undefined) return;
  const { tiles, gflops } = await tuneGpu(gpu, {
    store,
    probes: [SOFTWARE_PROBE],
    candidates: possibleTilings(description, 'nt', SOFTWARE_PROBE),
    compileMs: SOFTWARE_COMPILE_MS,
    measureMs: 30,
    isForced: true,
  });
  if (tiles.length > 0) description.gflops = gflops;
  else if (gpu.death === null) Object.assign(description, { subgroupMinSize: 0, subgroupMaxSize: 0 });
}
