// F2, the tiled product for real GPUs, against double precision: every product and extra at odd sizes, on whatever device is here.
// How fast it is on a real GPU is test/bench/gpu.sh's business.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { platform } from '../../node/platform.ts';
import { Gpu } from '../../runtime/gpu/gpu.ts';
import { matrixCandidates, tileCandidates } from '../../runtime/gpu/matmul/candidates.ts';
import { gpuTile, isTile, tileName, tileThreads, tileWorkgroupBytes } from '../../runtime/gpu/matmul/gpu-tile.ts';
import type { MatmulShape, MatmulVariant, Product, TileTiling, WeightFormat } from '../../runtime/gpu/matmul/spec.ts';
import { matrixWorkgroupBytes, subgroupMatrix } from '../../runtime/gpu/matmul/subgroup-matrix.ts';
import { activations, matmulNn, matmulNt, matmulTn, noise, relativeError } from '../reference/kernels.ts';
import { runOn } from './device.ts';
import { nullDevice } from './null-device.ts';

const SMALL: TileTiling = { family: 'f2', tileM: 32, tileN: 32, tileK: 4, rows: 4, columns: 4, stages: 1 };
const DOUBLE: TileTiling = { ...SMALL, stages: 2 };
/** More invocations than pieces to fetch, unequal sides, more than one quad of columns. */
const WIDE: TileTiling = { family: 'f2', tileM: 16, tileN: 64, tileK: 8, rows: 4, columns: 8, stages: 1 };

const PRODUCTS = ['nt', 'nn', 'tn'] as const;

const PLAIN: Omit<MatmulVariant, 'product' | 'alignment'> = {
  weights: 'f32',
  bias: false,
  activation: null,
  residual: false,
  accumulate: false,
};

let gpu: Gpu;
before(async () => {
  gpu = await Gpu.acquire(platform);
});
after(() => gpu.destroy());

const reference = (product: Product, a: Float32Array, b: Float32Array, { M, N, K }: MatmulShape): Float64Array => {
  switch (product) {
    case 'nt':
      return matmulNt(a, b, new Float32Array(N), M, N, K);
    case 'nn':
      return matmulNn(a, b, M, N, K);
    case 'tn':
      return matmulTn(new Float32Array(M * N), a, b, M, N, K);
    default:
      return product satisfies never;
  }
};

/** Values and their words: 16-bit values are rounded first, so that the reference sees what the kernel sees. */
function packed(values: Float32Array<ArrayBuffer>, format: WeightFormat): [Float32Array, Uint32Array<ArrayBuffer>] {
  if (format === 'f32') return [values, new Uint32Array(values.buffer)];
  const halves = new Uint16Array(Math.ceil(values.length / 2) * 2);
  const rounded = values.slice();
  if (format === 'bf16') {
    const words = new Uint32Array(rounded.buffer);
    words.forEach((word, i) => {
      words[i] = word & 0xffff0000;
      halves[i] = word >>> 16;
    });
  } else {
    // Sixteenths of −2 … 2 are exact in f16: sign, exponent and mantissa by hand.
    values.forEach((value, i) => {
      const exact = Math.max(-2, Math.min(2, Math.round(value * 16) / 16));
      rounded[i] = exact;
      const exponent = exact === 0 ? -15 : Math.floor(Math.log2(Math.abs(exact)));
      const mantissa = exact === 0 ? 0 : Math.round((Math.abs(exact) / 2 ** exponent - 1) * 1024);
      halves[i] = (exact < 0 ? 0x8000 : 0) | ((exponent + 15) << 10) | mantissa;
    });
  }
  return [rounded, new Uint32Array(halves.buffer)];
}

interface Case {
  product: Product;
  shape: MatmulShape;
  tiling: TileTiling;
  extras?: Partial<MatmulVariant>;
  /** Columns of a, and of out, before and after the part in question. */
  margin?: number;
}

async function errorOf({ product, shape, tiling, extras = {}, margin = 0 }: Case): Promise<number> {
  const { M, N, K } = shape;
  const [aRows, aColumns] = product === 'tn' ? [K, M] : [M, K];
  const [aStride, outStride] = [aColumns + 2 * margin, N + 2 * margin];
  const isFours = (...sizes: number[]): boolean => sizes.every((size) => size % 4 === 0);
  const variant: MatmulVariant = {
    ...PLAIN,
    ...extras,
    product,
    alignment: {
      a: isFours(aColumns, aStride, margin),
      b: isFours(product === 'nt' ? K : N),
      out: isFours(N, outStride, margin),
    },
  };
  const kernel = gpuTile(variant, tiling);
  await gpu.warm([{ generated: kernel }]);

  const aWide = noise(aRows * aStride, 1);
  const a = Float32Array.from(
    { length: aRows * aColumns },
    (_, i) => aWide[Math.floor(i / aColumns) * aStride + margin + (i % aColumns)] ?? 0,
  );
  const [b, bWords] = packed(noise(N * K, 2), variant.weights);
  const before = noise(M * outStride, 3);
  const bias = noise(N, 4);
  const residual = noise(M * outStride, 5);
  const want = Float64Array.from(before);
  reference(product, a, b, shape).forEach((sum, i) => {
    const at = Math.floor(i / N) * outStride + margin + (i % N);
    let value = sum + (variant.bias ? (bias[i % N] ?? 0) : 0);
    if (variant.activation !== null) value = activations[variant.activation](value);
    if (variant.residual) value += residual[at] ?? 0;
    want[at] = variant.accumulate ? (want[at] ?? 0) + value : value;
  });
  const inputs = [aWide, bWords, ...(variant.bias ? [bias] : []), ...(variant.residual ? [residual] : [])];
  const sizes = { M, N, K, aStride, aOffset: margin, outStride, outOffset: margin };
  const [got = new Float32Array()] = await runOn(gpu, [before, ...inputs], 1, (recorder, slices) =>
    recorder.dispatchGenerated(kernel, slices, sizes, kernel.grid(shape)),
  );
  return relativeError(got, want);
}

const TOLERANCE = 2e-6;

const SHAPES: MatmulShape[] = [
  { M: 1, N: 1, K: 1 },
  { M: 33, N: 31, K: 17 },
  { M: 36, N: 68, K: 20 },
  { M: 64, N: 128, K: 32 },
];

for (const product of PRODUCTS)
  test(`F2 ${product} equals the reference at odd and even sizes, single and double buffered, and wide`, async () => {
    for (const tiling of [SMALL, DOUBLE, WIDE])
      for (const shape of SHAPES) {
        const error = await errorOf({ product, shape, tiling });
        assert.ok(error < TOLERANCE, `${JSON.stringify({ tiling, shape })}: ${error}`);
      }
  });

const SHAPE = { M: 35, N: 40, K: 24 };
const RAGGED = { M: 7, N: 9, K: 10 };

test('F2 finishes a sum with bias, activation, residual and what was there before', async () => {
  const all = { bias: true, activation: 'gelu_new', residual: true, accumulate: true } as const;
  const cases: Pick<Case, 'product' | 'shape' | 'extras'>[] = [
    { product: 'nt', shape: SHAPE, extras: { bias: true, activation: 'relu', residual: true } },
    { product: 'nt', shape: RAGGED, extras: { activation: 'gelu', accumulate: true } },
    { product: 'nt', shape: SHAPE, extras: all },
    { product: 'nt', shape: RAGGED, extras: all },
    { product: 'tn', shape: SHAPE, extras: { accumulate: true } },
  ];
  for (const each of cases) {
    const error = await errorOf({ ...each, tiling: SMALL });
    assert.ok(error < TOLERANCE, `${JSON.stringify(each)}: ${error}`);
  }
});

test('F2 reads bf16 and f16 weights', async () => {
  const cases: [WeightFormat, Product, MatmulShape][] = [
    ['bf16', 'nt', SHAPE],
    ['bf16', 'nn', RAGGED],
    ['f16', 'nt', RAGGED],
    ['f16', 'nn', SHAPE],
  ];
  for (const [weights, product, shape] of cases) {
    const error = await errorOf({ product, shape, tiling: SMALL, extras: { weights } });
    assert.ok(error < TOLERANCE, `${weights} ${product} ${JSON.stringify(shape)}: ${error}`);
  }
});

test('F2 reads and writes columns of wider matrices and leaves the others alone', async () => {
  for (const [product, margin] of [
    ['nt', 4],
    ['tn', 3],
  ] as const) {
    const error = await errorOf({ product, shape: SHAPE, tiling: SMALL, extras: { residual: true }, margin });
    assert.ok(error < TOLERANCE, `${product} ${margin}: ${error}`);
  }
});

test('every candidate of F2 compiles for every product and keeps within the limits it is chosen by', async () => {
  const device = await nullDevice();
  for (const workgroupBytes of [16_384, 49_152]) {
    const candidates = tileCandidates({ workgroupBytes });
    assert.ok(candidates.length >= 8 && candidates.length <= 16, `${candidates.length} candidates`);
    for (const tiling of candidates) {
      assert.ok(isTile(tiling));
      assert.ok(tileThreads(tiling) >= 64 && tileThreads(tiling) <= 256);
      for (const product of PRODUCTS) {
        const bytes = tileWorkgroupBytes(tiling, { product });
        assert.ok(bytes <= workgroupBytes, `${tileName(tiling)} takes ${bytes} bytes`);
        if (bytes > device.limits.maxComputeWorkgroupStorageSize) continue;
        const kernel = gpuTile({ ...PLAIN, product, alignment: { a: true, b: true, out: true } }, tiling);
        assert.equal(await device.problem(kernel), '', kernel.name);
      }
    }
  }
});

test('F3 compiles for every product, extra, alignment and way of writing it, where the null device has the feature', async (t) => {
  const device = await nullDevice();
  const candidates = matrixCandidates({
    workgroupBytes: 49_152,
    features: device.features,
    subgroupMinSize: 32,
    subgroupMaxSize: 32,
    matrixConfigs: [
      { componentType: 'f16', resultType: 'f16', M: 32, N: 32, K: 32 },
      { componentType: 'f16', resultType: 'f32', M: 8, N: 8, K: 8 },
      { componentType: 'f16', resultType: 'f32', M: 16, N: 16, K: 16 },
    ],
  });
  if (!device.features.includes('chromium-experimental-subgroup-matrix')) {
    assert.deepEqual(candidates, []);
    t.skip('this Dawn has no subgroup matrices');
    return;
  }
  assert.ok(candidates.length >= 4);
  // The null device insists on subgroups of 128 unless the kernel asks for a size.
  const pinned = candidates.map((tiling) => ({ ...tiling, isPinned: true }));
  for (const tiling of pinned)
    for (const product of PRODUCTS) {
      if (matrixWorkgroupBytes(tiling, product) > device.limits.maxComputeWorkgroupStorageSize) continue;
      if (tiling.order === 'flag' && product !== 'nn') continue; // each compiles with a page of warnings
      for (const isAligned of [true, false]) {
        const alignment = { a: isAligned, b: isAligned, out: isAligned };
        const kernel = subgroupMatrix({ ...PLAIN, product, alignment }, tiling);
        assert.equal(await device.problem(kernel), '', kernel.name);
      }
    }
  const [tiling] = pinned.filter((each) => matrixWorkgroupBytes(each, 'nt') <= 16_384);
  assert.ok(tiling !== undefined);
  // Oblong, as Intel's: a type whose rows and columns are swapped does not compile.
  const oblong = { ...tiling, unit: { M: 8, N: 16, K: 32 } };
  for (const product of PRODUCTS) {
    const kernel = subgroupMatrix({ ...PLAIN, product, alignment: { a: true, b: true, out: true } }, oblong);
    assert.equal(await device.problem(kernel), '', kernel.name);
  }
  const extras = { weights: 'bf16', bias: true, activation: 'gelu', residual: true, accumulate: true } as const;
  const kernel = subgroupMatrix({ product: 'nt', ...extras, alignment: { a: true, b: true, out: true } }, tiling);
  assert.equal(await device.problem(kernel), '');
  assert.match(
    await device.problem({ ...kernel, name: 'broken', code: 'enable no_such_thing;' }),
    /generated\/broken:1:/,
  );
});
