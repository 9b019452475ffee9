// The autotuner without a GPU: a made-up device whose candidates cost what the test says. And once the real path, on tiny shapes.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { installDawnPacing } from '../../node/dawn-pacing.ts';
import { platform } from '../../node/platform.ts';
import { Gpu } from '../../runtime/gpu/gpu.ts';
import { possibleTilings, rankTilings, type MatmulDevice } from '../../runtime/gpu/matmul/choose.ts';
import type { MatrixTiling, TileTiling } from '../../runtime/gpu/matmul/spec.ts';
import { ensureTuned, tuneGpu, type TuneGpuOptions } from '../../runtime/gpu/matmul/tune-gpu.ts';
import { tune, type Candidate, type TuneBench, type TuneOptions } from '../../runtime/gpu/matmul/tune.ts';
import {
  memoryStore,
  parseTuningEntry,
  shapeBucket,
  tuningKey,
  type TuningKey,
  type TuningStore,
} from '../../runtime/gpu/tuning-store.ts';

interface Made {
  /** Time of one product. */
  ms: number;
  compileMs?: number;
  isWrong?: boolean;
  isRefused?: boolean;
  /** Its compiler never comes back. */
  hangs?: boolean;
}

/** Time passes only while the device works or a timer is awaited. */
function madeDevice(devices: Record<string, Made>) {
  let nowMs = 1_000;
  const log: string[] = [];
  const timers = new Map<() => void, number>();
  const at = (name: string): Made => devices[name] ?? assert.fail(`no candidate ${name}`);
  const bench: TuneBench<string> = {
    prepare(name) {
      const { compileMs = 10, isRefused = false, hangs = false } = at(name);
      log.push(`compile ${name}`);
      if (hangs) {
        for (const [body, ms] of timers) {
          nowMs += ms;
          body();
        }
        return new Promise(() => {});
      }
      nowMs += compileMs;
      return isRefused ? Promise.reject(new Error('refused')) : Promise.resolve();
    },
    run(name, repeats) {
      nowMs += at(name).ms * repeats;
      log.push(`run ${name}`);
      return Promise.resolve();
    },
    isRight: (name) => Promise.resolve(at(name).isWrong !== true),
  };
  const options = (store: TuningStore, more: Partial<TuneOptions<string>> = {}): TuneOptions<string> => ({
    key: 'key',
    candidates: Object.keys(devices).map((name): Candidate<string> => ({ name, choice: name })),
    bench,
    store,
    nowMs: () => nowMs,
    setTimer: (ms, body) => {
      timers.set(body, ms);
      return () => timers.delete(body);
    },
    operations: 2e9,
    ...more,
  });
  return {
    options,
    log,
    elapsedMs: () => nowMs - 1_000,
    runs: (name: string) => log.filter((l) => l === `run ${name}`).length,
  };
}

const EIGHT: Record<string, Made> = Object.fromEntries(
  [3, 2.5, 1.2, 4, 1, 6, 2, 9].map((ms, i) => [`tile${i}`, { ms }] as const),
);

test('the fastest candidate wins within the budget, with its speed, and the slow ones are soon left alone', async () => {
  const device = madeDevice(EIGHT);
  const tuned = await tune(device.options(memoryStore()));
  assert.equal(tuned?.name, 'tile4');
  assert.ok(Math.abs((tuned?.gflops ?? 0) - 2000) < 1e-6);
  assert.equal(tuned?.isStored, false);
  assert.ok(device.elapsedMs() <= 80 + 300 + 9, `took ${device.elapsedMs()} ms`);
  assert.ok(device.runs('tile4') > device.runs('tile7'));
});

test('a candidate with a wrong result loses to the next, however fast it is', async () => {
  const device = madeDevice({ ...EIGHT, quick: { ms: 0.1, isWrong: true } });
  assert.equal((await tune(device.options(memoryStore())))?.name, 'tile4');
});

test('where all are wrong or refused there is no winner and nothing is stored', async () => {
  const device = madeDevice({ a: { ms: 1, isWrong: true }, b: { ms: 1, isRefused: true } });
  const store = memoryStore();
  assert.equal(await tune(device.options(store)), null);
  assert.equal(await store.read('key'), undefined);
});

test('a budget that runs out gives the best so far', async () => {
  const slow = madeDevice({ first: { ms: 200 }, second: { ms: 150 }, third: { ms: 1 } });
  assert.equal((await tune(slow.options(memoryStore())))?.name, 'second');
  const compiling = madeDevice({
    first: { ms: 3, compileMs: 2_000 },
    second: { ms: 2, compileMs: 2_000 },
    third: { ms: 1 },
  });
  assert.equal((await tune(compiling.options(memoryStore())))?.name, 'second');
  assert.ok(!compiling.log.includes('compile third'));
});

test('a compiler that never comes back costs the rest of its budget and no more', async () => {
  const device = madeDevice({ good: { ms: 2 }, stuck: { ms: 1, hangs: true }, late: { ms: 1 } });
  assert.equal((await tune(device.options(memoryStore())))?.name, 'good');
  assert.ok(device.elapsedMs() <= 3_300, `took ${device.elapsedMs()} ms`);
});

test('a stored winner is not searched again; another key, another candidate list or a broken entry is', async () => {
  const store = memoryStore();
  await tune(madeDevice(EIGHT).options(store));
  const again = madeDevice(EIGHT);
  const tuned = await tune(again.options(store));
  assert.deepEqual({ name: tuned?.name, isStored: tuned?.isStored }, { name: 'tile4', isStored: true });
  assert.deepEqual(again.log, []);

  const other = madeDevice(EIGHT);
  assert.equal((await tune(other.options(store, { key: 'other' })))?.isStored, false);
  const without = madeDevice({ a: { ms: 1 }, b: { ms: 2 } });
  assert.equal((await tune(without.options(store)))?.name, 'a');
  for (const broken of [null, 'text', { name: 'tile4' }, { name: 'tile4', gflops: -1 }]) {
    const read = (): Promise<unknown> => Promise.resolve(broken);
    assert.equal((await tune(madeDevice(EIGHT).options({ ...memoryStore(), read })))?.isStored, false);
  }
});

test('a store that fails in both directions changes nothing but the time', async () => {
  const fails = (): Promise<never> => Promise.reject(new Error('no disk'));
  assert.equal((await tune(madeDevice(EIGHT).options({ read: fails, write: fails })))?.name, 'tile4');
});

test('everything that a measurement depends on is in its key', () => {
  const key: TuningKey = {
    vendor: 'nvidia',
    architecture: 'hopper',
    device: '',
    description: 'NVIDIA H200',
    isFallbackAdapter: false,
    subgroupMinSize: 32,
    subgroupMaxSize: 32,
    features: ['subgroups', 'shader-f16'],
    code: 'a',
    precision: 'f32',
    bucket: shapeBucket({ M: 1000, N: 1024, K: 800 }),
  };
  assert.deepEqual(key.bucket, [10, 10, 10]);
  assert.equal(tuningKey(key), tuningKey({ ...key, features: key.features.toReversed() }));
  const changes: Partial<TuningKey>[] = [
    { vendor: 'amd' },
    { architecture: 'ada' },
    { device: 'x' },
    { description: 'NVIDIA H200 580.1' },
    { isFallbackAdapter: true },
    { subgroupMinSize: 16 },
    { subgroupMaxSize: 64 },
    { features: ['subgroups'] },
    { code: 'b' },
    { precision: 'half' },
    { bucket: shapeBucket({ M: 64, N: 1024, K: 800 }) },
  ];
  const keys = new Set([key, ...changes.map((change) => ({ ...key, ...change }))].map(tuningKey));
  assert.equal(keys.size, changes.length + 1);
  assert.equal(parseTuningEntry({ name: 'x', gflops: 3 })?.name, 'x');
});

test('a tuned device takes the tiling of the nearest shape, a half one for 16-bit weights only, and software none of them', () => {
  const tile = (tileM: number): TileTiling => ({
    family: 'f2',
    tileM,
    tileN: 64,
    tileK: 8,
    rows: 4,
    columns: 4,
    stages: 1,
  });
  const large = { shape: { M: 1024, N: 1024, K: 1024 }, tiling: tile(128) };
  const small = { shape: { M: 64, N: 1024, K: 1024 }, tiling: tile(32) };
  const half = { shape: large.shape, tiling: tile(64) };
  const device: MatmulDevice = {
    isSoftware: false,
    subgroupMinSize: 32,
    subgroupMaxSize: 32,
    tuning: { f32: [large, small], half: [half] },
  };
  const shape = { M: 2048, N: 768, K: 768 };
  assert.equal(rankTilings(device, 'nn', shape)[0], large.tiling);
  assert.equal(rankTilings(device, 'nn', { ...shape, M: 100 })[0], small.tiling);
  assert.equal(rankTilings(device, 'nn', shape, 'bf16')[0], half.tiling);
  assert.deepEqual(possibleTilings(device, 'nn', { N: 768, K: 768 }), [large.tiling, small.tiling]);
  assert.deepEqual(possibleTilings(device, 'nn', shape), [large.tiling]);
  const untuned = rankTilings({ ...device, tuning: { f32: [], half: null } }, 'nn', shape);
  assert.deepEqual(untuned, rankTilings({ isSoftware: false, subgroupMinSize: 32, subgroupMaxSize: 32 }, 'nn', shape));
  assert.ok(rankTilings({ ...device, isSoftware: true }, 'nn', shape).every(({ family }) => family !== 'f2'));
});

test('on a device, tiny shapes: a winner that is right, its speed, and the second time from the store', async (t) => {
  installDawnPacing();
  const gpu = await Gpu.acquire(platform);
  t.after(() => gpu.destroy());
  const small: TileTiling = { family: 'f2', tileM: 32, tileN: 32, tileK: 4, rows: 4, columns: 4, stages: 1 };
  const tile: TuneGpuOptions = {
    store: memoryStore(),
    probes: [{ M: 36, N: 40, K: 24 }],
    candidates: [small, { ...small, stages: 2 }],
    compileMs: 60_000, // software drivers compile for seconds
    measureMs: 100,
    isForced: true,
  };
  if (gpu.description.isSoftware)
    assert.deepEqual(await tuneGpu(gpu, { ...tile, isForced: false }), { tiles: [], gflops: 0 });
  const first = await tuneGpu(gpu, tile);
  assert.equal(first.tiles.length, 1);
  assert.ok(first.gflops > 0);
  const second = await tuneGpu(gpu, tile);
  assert.deepEqual(second, first);

  // A device without matrix units refuses F3 with an error that leaves no trace; F2 wins.
  const matrix: MatrixTiling = {
    family: 'f3',
    unit: { M: 16, N: 16, K: 16 },
    subgroup: 32,
    subgroupsM: 2,
    subgroupsN: 2,
    tileM: 64,
    tileN: 64,
    tileK: 32,
    order: 'enumerant',
    staging: 'single',
    isPinned: false,
  };
  const half = await tuneGpu(gpu, { ...tile, precision: 'half', candidates: [matrix, small] });
  if (!gpu.description.features.includes('chromium-experimental-subgroup-matrix'))
    assert.deepEqual(half.tiles[0]?.tiling, small);

  // What a peer does when it starts.
  if (!gpu.description.isSoftware) return;
  await ensureTuned(gpu, 'f32', memoryStore());
  assert.ok((gpu.description.gflops ?? 0) > 0, 'the table is right, and its speed is known');
  assert.ok(gpu.description.subgroupMaxSize > 0);
});
