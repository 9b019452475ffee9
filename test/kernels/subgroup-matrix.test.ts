// F3 where there are no matrix units: its subgroup matrices are replaced by plain arrays that every lane computes for itself, so that
// everything else (staging, which unit is whose, order in memory, edges, the way out) runs and is held against the reference.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { installDawnPacing } from '../../node/dawn-pacing.ts';
import { platform } from '../../node/platform.ts';
import { Gpu } from '../../runtime/gpu/gpu.ts';
import { isMatrixTile, matrixThreads, subgroupMatrix } from '../../runtime/gpu/matmul/subgroup-matrix.ts';
import type { MatmulKernel, MatmulVariant, MatrixTiling, Product } from '../../runtime/gpu/matmul/spec.ts';
import { matmulNn, matmulNt, matmulTn, relativeError } from '../reference/kernels.ts';
import { runOn } from './device.ts';

installDawnPacing();

let gpu: Gpu;
before(async () => {
  gpu = await Gpu.acquire(platform);
});
after(() => gpu.destroy());

/**
 * The kernel's text with a loaded matrix as the place where it lies, and a result as each lane's share of it. Entry (row, column) is
 * found as WGSL's draft says.
 */
function emulated(kernel: MatmulKernel, { unit, staging, subgroup }: MatrixTiling): MatmulKernel {
  const { M, N, K } = unit;
  const share = (M * N) / subgroup;
  const values = (name: 'a' | 'b'): string =>
    staging === 'view' ? `bufferView<array<f16>>(&tile_${name}, 0)` : `tile_${name}`;
  const prelude = `struct Place { offset: u32, rows_apart: u32, columns_apart: u32 }
struct Result { v: array<f32, ${share}> }
var<private> lane: u32;
fn row_major(offset: u32, stride: u32) -> Place { return Place(offset, stride, 1); }
fn col_major(offset: u32, stride: u32) -> Place { return Place(offset, 1, stride); }
fn at(place: Place, row: u32, column: u32) -> u32 {
  return place.offset + row * place.rows_apart + column * place.columns_apart;
}
fn multiply(left: Place, right: Place, sum: Result) -> Result {
  var m = sum;
  for (var i = 0u; i < ${share}; i++) {
    let entry = lane * ${share} + i;
    for (var k = 0u; k < ${K}; k++) {
      m.v[i] += f32(${values('a')}[at(left, entry / ${N}, k)]) * f32(${values('b')}[at(right, k, entry % ${N})]);
    }
  }
  return m;
}
fn store(offset: u32, matrix: Result, stride: u32) {
  var m = matrix;
  for (var i = 0u; i < ${share}; i++) {
    let entry = lane * ${share} + i;
    scratch[offset + stride * (entry / ${N}) + entry % ${N}] = m.v[i];
  }
}
@compute`;
  const code = kernel.code
    .replace('enable chromium_experimental_subgroup_matrix;\n', '')
    .replaceAll(
      /subgroupMatrixLoad<subgroup_matrix_(?:left|right)<f16, \d+, \d+>, (row|col)_major>\((?:&tile_\w|\w_values), /g,
      '$1_major(',
    )
    .replaceAll('subgroupMatrixMultiplyAccumulate', 'multiply')
    .replaceAll('subgroupMatrixStore<row_major>(&scratch, ', 'store(')
    .replaceAll(/subgroup_matrix_result<f32, \d+, \d+>/g, 'Result')
    .replace('@compute', prelude)
    .replace('  let tiles_m', `  lane = thread % ${subgroup};\n  let tiles_m`);
  assert.doesNotMatch(code, /subgroup_?[mM]atrix/);
  return { ...kernel, name: `${kernel.name} emulated`, code, features: ['shader-f16', 'subgroups'] };
}

/** Sixteenths of −1 … 1: exact in f16, and their products and sums in f32. */
const exact = (count: number, seed: number): Float32Array<ArrayBuffer> =>
  Float32Array.from({ length: count }, (_, i) => ((Math.imul(i + seed, 0x9e3779b1) >>> 12) % 33) / 16 - 1);

async function errorOf(tiling: MatrixTiling, product: Product, M: number, N: number, K: number): Promise<number> {
  const isFours = (size: number): boolean => size % 4 === 0;
  const variant: MatmulVariant = {
    product,
    weights: 'f32',
    bias: product === 'nt',
    activation: product === 'nt' ? 'relu' : null,
    residual: false,
    accumulate: product === 'tn',
    alignment: {
      a: isFours(product === 'tn' ? M : K),
      b: isFours(product === 'nt' ? K : N),
      out: isFours(N),
    },
  };
  const kernel = emulated(subgroupMatrix(variant, tiling), tiling);
  await gpu.warm([{ generated: kernel }]);
  const [a, b, before, bias] = [exact(M * K, 1), exact(N * K, 2), exact(M * N, 3), exact(N, 4)];
  const sizes = { M, N, K, aStride: product === 'tn' ? M : K, aOffset: 0, outStride: N, outOffset: 0 };
  const [got = []] = await runOn(gpu, [before, a, b, ...(variant.bias ? [bias] : [])], 1, (recorder, slices) =>
    recorder.dispatchGenerated(kernel, slices, sizes, kernel.grid({ M, N, K })),
  );
  switch (product) {
    case 'nt':
      return relativeError(
        got,
        matmulNt(a, b, bias, M, N, K).map((value) => Math.max(value, 0)),
      );
    case 'nn':
      return relativeError(got, matmulNn(a, b, M, N, K));
    case 'tn':
      return relativeError(got, matmulTn(before, a, b, M, N, K));
    default:
      return product satisfies never;
  }
}

test('F3 puts every unit where it belongs, for square and oblong units, edges and all products', async (t) => {
  const { features, subgroupMinSize, subgroupMaxSize } = gpu.description;
  if (!features.includes('shader-f16') || subgroupMaxSize === 0 || subgroupMinSize !== subgroupMaxSize) {
    t.skip('needs f16 and subgroups of one size');
    return;
  }
  const square: MatrixTiling = {
    family: 'f3',
    unit: { M: 8, N: 8, K: 8 },
    subgroup: subgroupMaxSize,
    subgroupsM: 2,
    subgroupsN: 1,
    tileM: 16,
    tileN: 8,
    tileK: 8,
    order: 'enumerant',
    staging: 'single',
    isPinned: false,
  };
  // Every size different: a mistaken dimension shows. Two units of each subgroup, two steps of K in a tile.
  const oblong: MatrixTiling = {
    ...square,
    unit: { M: 4, N: 8, K: 4 },
    subgroupsM: 1,
    subgroupsN: 2,
    tileM: 8,
    tileN: 16,
  };
  assert.ok(isMatrixTile(square));
  if (!isMatrixTile(oblong)) t.diagnostic(`no oblong tile for ${matrixThreads(oblong)} invocations`);
  // Few and small: with barriers in a kernel, software drivers compile for seconds.
  const cases: [MatrixTiling, Product, number, number, number][] = [
    [square, 'nt', 20, 36, 24],
    [square, 'nn', 20, 36, 24],
    [square, 'tn', 20, 36, 24],
    [square, 'nt', 17, 19, 21],
    [{ ...square, staging: 'view' }, 'nt', 20, 36, 24],
  ];
  if (isMatrixTile(oblong)) cases.push([oblong, 'nt', 20, 36, 24], [oblong, 'tn', 20, 36, 24]);
  for (const [tiling, product, M, N, K] of cases) {
    const error = await errorOf(tiling, product, M, N, K);
    assert.equal(error, 0, `${product} ${JSON.stringify({ M, N, K, tiling })}: ${error}`);
  }
});
