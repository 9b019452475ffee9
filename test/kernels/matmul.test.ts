// The products of every family that runs here against plain loops in double precision, at any shape and with everything fused; and
// which family is chosen where. Relative to the norm of the reference, 1e-6.
import assert from 'node:assert/strict';
import test from 'node:test';
import { platform } from '../../node/platform.ts';
import { Gpu } from '../../runtime/gpu/gpu.ts';
import { matmulNn, matmulNt, matmulTn, matmulUses, type Tiling } from '../../runtime/gpu/matmul.ts';
import { alignmentOf, possibleTilings, rankTilings } from '../../runtime/gpu/matmul/choose.ts';
import { generate, generatedName, gridOf } from '../../runtime/gpu/matmul/generate.ts';
import { everyMatmul } from '../../runtime/gpu/matmul/variants.ts';
import * as reference from '../reference/kernels.ts';
import { noise, relativeError } from '../reference/kernels.ts';
import { runOn } from './device.ts';
import { caseLabel, errorOf, type Case } from './matmul-cases.ts';

const gpu = await Gpu.acquire(platform);
test.after(() => gpu.destroy());

const TOLERANCE = 1e-6;
const SHAPES = [
  [1, 1, 1],
  [1, 10, 3],
  [5, 1, 7],
  [4, 4, 4],
  [31, 33, 17],
  [32, 32, 32],
  [33, 31, 65],
  [64, 10, 784],
  [7, 129, 66],
  [36, 68, 40],
] as const;
const PRODUCTS = ['nt', 'nn', 'tn'] as const;

const { subgroupMinSize, subgroupMaxSize, isSoftware } = gpu.description;
const subgroup = subgroupMinSize === subgroupMaxSize ? subgroupMinSize : 0;
const tilings: Tiling[] = [{ family: 'f1', rows: 8, columns: 4 }];
if (subgroup === 4 || subgroup === 8) tilings.push({ family: 'f0', subgroup, rows: 4 * subgroup, columns: 4 });
const vectors: Tiling[] = [{ family: 'f4', subgroup: 0, columns: 4 }];
if (subgroup > 0) vectors.push({ family: 'f4', subgroup, columns: 8 });

const check = async (one: Case, tolerance = TOLERANCE): Promise<void> => {
  const error = await errorOf(gpu, one);
  assert.ok(error <= tolerance, `${caseLabel(one)}: relative error ${error} > ${tolerance}`);
};

test('what is chosen here is right at any shape', async () => {
  for (const product of PRODUCTS)
    for (const [M, N, K] of SHAPES) await check({ product, M, N, K, bias: product === 'nt' });
});

for (const tiling of [...tilings, ...vectors]) {
  const products = tiling.family === 'f4' ? (['nt'] as const) : PRODUCTS;
  const name = `${tiling.family}${'subgroup' in tiling && tiling.subgroup === 0 ? ' without subgroups' : ''}`;

  test(`${name}: any shape, by fours and one by one`, async () => {
    for (const product of products) for (const [M, N, K] of SHAPES) await check({ product, M, N, K, tiling });
  });

  test(`${name}: everything that can be fused`, async () => {
    const bias = true;
    for (const activation of ['relu', 'gelu', 'gelu_new'] as const)
      await check({ product: 'nt', M: 36, N: 40, K: 12, tiling, bias, activation });
    await check({
      product: 'nt',
      M: 7,
      N: 13,
      K: 9,
      tiling,
      bias,
      activation: 'gelu',
      residual: true,
      accumulate: true,
    });
    for (const product of products)
      await check({ product, M: 9, N: 12, K: 8, tiling, accumulate: false, residual: true });
  });

  test(`${name}: weights of 16 bits`, async () => {
    for (const weights of ['bf16', 'f16'] as const) {
      await check({ product: 'nt', M: 5, N: 36, K: 24, tiling, weights });
      if (products.length > 1) await check({ product: 'nn', M: 5, N: 36, K: 24, tiling, weights });
    }
    await check({ product: 'nt', M: 3, N: 5, K: 7, tiling, weights: 'bf16', bias: true });
  });

  test(`${name}: columns of wider matrices`, async () => {
    for (const aside of [3, 4])
      for (const product of products) await check({ product, M: 12, N: 20, K: 8, tiling, aside });
  });
}

test('gradients of a linear layer agree with finite differences (1e-5)', async () => {
  const [B, I, O] = [3, 5, 4];
  const [x, w, b, dy] = [noise(B * I, 1), noise(O * I, 2), noise(O, 3), noise(B * O, 4)];
  const objective = (xs: reference.Values, ws: reference.Values): number =>
    reference.matmulNt(xs, ws, b, B, O, I).reduce((sum, y, i) => sum + y * (dy[i] ?? 0), 0);
  await gpu.warm(matmulUses(gpu.description, [{ product: 'nn' }, { product: 'tn' }]));
  const [dx] = await runOn(
    gpu,
    [new Float32Array(B * I), dy, w],
    1,
    (r, [o, d, ww]) => o && d && ww && matmulNn(r, o, d, ww, { M: B, N: I, K: O }),
  );
  const ofX = reference.gradientOf((v) => objective(v, w), x);
  assert.ok(relativeError(dx ?? [], ofX) < 1e-5);
  const [dw] = await runOn(
    gpu,
    [new Float32Array(O * I), dy, x],
    1,
    (r, [o, d, xx]) => o && d && xx && matmulTn(r, o, d, xx, { M: O, N: I, K: B }),
  );
  const ofW = reference.gradientOf((v) => objective(x, v), w);
  assert.ok(relativeError(dw ?? [], ofW) < 1e-5);
});

test('a kernel of known sizes does, a need of none serves any shape, and one that was not asked for is named', async () => {
  const fresh = await Gpu.acquire(platform);
  try {
    const none = matmulUses(fresh.description, [{ product: 'nn' }]);
    // Loads of four, and any loads, of every tiling that there may be.
    const kernels = 2 * possibleTilings(fresh.description, 'nn', {}).length;
    assert.equal(none.length, kernels);
    assert.equal(matmulUses(fresh.description, [{ product: 'nn', N: 8, K: 8 }]).length, 1);
    assert.equal(matmulUses(fresh.description, [{ product: 'nn' }, { product: 'nn', N: 8, K: 8 }]).length, kernels);
    const buffers = [new Float32Array(64), new Float32Array(64), new Float32Array(64)];
    await assert.rejects(
      runOn(fresh, buffers, 1, (r, [y, x, w]) => {
        if (y && x && w) matmulNt(r, y, x, w, null, { M: 8, N: 8, K: 8 });
      }),
      /generated\/matmul-nt .*is used before it was compiled/,
    );
  } finally {
    await fresh.destroy();
  }
});

test('the choice: a vector product for few rows, a subgroup a workgroup on software drivers, tiles on real GPUs', () => {
  const lavapipe = { isSoftware: true, subgroupMinSize: 8, subgroupMaxSize: 8 };
  const bare = { isSoftware: true, subgroupMinSize: 0, subgroupMaxSize: 0 };
  const real = { isSoftware: false, subgroupMinSize: 32, subgroupMaxSize: 32 };
  const families = (device: typeof real, M: number): string =>
    rankTilings(device, 'nt', { M, N: 768, K: 768 })
      .map(({ family }) => family)
      .join(' ');
  assert.equal(families(lavapipe, 1), 'f4 f0');
  assert.equal(families(lavapipe, 3), 'f0 f4');
  assert.equal(families(bare, 3), 'f1 f4');
  assert.equal(families(real, 4), 'f4 f2 f2');
  assert.equal(families(real, 1024), 'f2 f4 f2');
  const swiftshader = { ...lavapipe, subgroupMinSize: 4, subgroupMaxSize: 4 };
  const tile = (N: number): unknown => rankTilings(swiftshader, 'nn', { M: 1, N, K: 1 })[0];
  assert.deepEqual(tile(10), { family: 'f0', subgroup: 4, rows: 16, columns: 4 });
  assert.deepEqual(tile(64), { family: 'f0', subgroup: 4, rows: 32, columns: 8 });
  assert.equal(possibleTilings(lavapipe, 'nt', {}).length, 2);
  assert.equal(possibleTilings(lavapipe, 'nt', { M: 32 }).length, 1);
  assert.equal(possibleTilings(lavapipe, 'tn', {}).length, 1);
});

test('loads of four only where sizes, strides and offsets allow', () => {
  const of = (product: 'nt' | 'nn' | 'tn', M: number, N: number, K: number, aStride: number, outOffset = 0): string => {
    const { a, b, out } = alignmentOf(product, { M, N, K }, { aStride, aOffset: 0, outStride: N, outOffset });
    return [a, b, out].map(Number).join('');
  };
  assert.equal(of('nt', 5, 8, 4, 4), '111');
  assert.equal(of('nt', 5, 7, 4, 4), '110');
  assert.equal(of('nt', 5, 8, 4, 5), '011');
  assert.equal(of('nn', 5, 8, 3, 3), '011');
  assert.equal(of('tn', 8, 6, 3, 8), '100');
  assert.equal(of('tn', 8, 8, 3, 8, 2), '110');
});

test('names and grids that need no text are those of the kernels; no two kernels share a name', () => {
  const names = everyMatmul().map(({ variant, tiling }) => {
    const kernel = generate(variant, tiling);
    const shape = { M: 100, N: 300, K: 7 };
    assert.equal(kernel.name, generatedName(variant, tiling));
    assert.equal(kernel.grid(shape), gridOf(tiling, shape));
    return kernel.name;
  });
  const texts = new Set(everyMatmul().map(({ variant, tiling }) => generate(variant, tiling).code));
  assert.equal(new Set(names).size, texts.size);
});

test('a software driver without known subgroups gets registers only', { skip: !isSoftware }, () => {
  assert.equal(rankTilings({ isSoftware: true, subgroupMinSize: 4, subgroupMaxSize: 8 }, 'tn', { M: 9, N: 9, K: 9 })[0]?.family, 'f1'); // prettier-ignore
});
