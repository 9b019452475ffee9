// F3, the product in the matrix units of real GPUs: operands are rounded to f16 on their way into workgroup memory, sums are f32.
// For runs that chose 16-bit precision, never for f32. WGSL's subgroup matrices are a draft that browsers keep behind a switch and
// have changed before, so a kernel of this family counts only after it compiled and agreed with F2 (tune-gpu.ts).
import {
  kernelName,
  matmulSizes,
  storageInputs,
  type MatmulKernel,
  type MatmulVariant,
  type MatrixTiling,
  type Product,
} from './spec.ts';
import { bindings, finish, formula } from './text.ts';
import { guardedFinish, lines, operandsOf, quads, tileCorner, tileGrid, type Operand } from './tile-parts.ts';

const XYZW = ['x', 'y', 'z', 'w'] as const;

/** Values between the rows of a tile beyond its own: rows then begin at different banks, and quads stay aligned. */
const PADDING = 8;

export const matrixName = (tiling: MatrixTiling): string => {
  const { unit, tileM, tileN, tileK, subgroupsM, subgroupsN, subgroup, order, staging, isPinned } = tiling;
  return `f3 ${tileM}x${tileN}x${tileK} ${subgroupsM}x${subgroupsN} of ${subgroup}${isPinned ? ' pinned' : ''} unit ${unit.M}x${unit.N}x${unit.K} ${order} ${staging}`;
};

export const matrixThreads = ({ subgroup, subgroupsM, subgroupsN }: MatrixTiling): number =>
  subgroup * subgroupsM * subgroupsN;

/** Subgroups have whole units of the tile, invocations whole pieces of the operands. */
export function isMatrixTile(tiling: MatrixTiling): boolean {
  const { unit, tileM, tileN, tileK, subgroupsM, subgroupsN } = tiling;
  const threads = matrixThreads(tiling);
  return (
    tileM % (unit.M * subgroupsM) === 0 &&
    tileN % (unit.N * subgroupsN) === 0 &&
    tileK % unit.K === 0 &&
    tileK % 4 === 0 &&
    unit.N % 4 === 0 &&
    (tileM * tileK) % (4 * threads) === 0 &&
    (tileN * tileK) % (4 * threads) === 0 &&
    (subgroupsM * subgroupsN * unit.M * unit.N) % (4 * threads) === 0
  );
}

/** One operand's tile, laid out as its quads run: (span, tileK) along K, else (tileK, span). */
interface Staged {
  readonly operand: Operand;
  readonly width: number;
  readonly height: number;
  readonly stride: number;
  /** Quads that each invocation moves. */
  readonly perThread: number;
}

function stagedOf(operand: Operand, tiling: MatrixTiling): Staged {
  const span = operand.name === 'a' ? tiling.tileM : tiling.tileN;
  const [width, height] = operand.along === 'k' ? [tiling.tileK, span] : [span, tiling.tileK];
  const perThread = (width * height) / 4 / matrixThreads(tiling);
  return { operand, width, height, stride: width + PADDING, perThread };
}

const scratchCount = ({ unit, subgroupsM, subgroupsN }: MatrixTiling): number =>
  unit.M * unit.N * subgroupsM * subgroupsN;

export function matrixWorkgroupBytes(tiling: MatrixTiling, product: Product): number {
  const { a, b } = operandsOf({ product });
  const tile = ({ stride, height }: Staged): number => stride * height * 2;
  return tile(stagedOf(a, tiling)) + tile(stagedOf(b, tiling)) + scratchCount(tiling) * 4;
}

const storageOf = ({ operand, stride, height }: Staged, { staging }: MatrixTiling): string =>
  staging === 'view'
    ? `var<workgroup> tile_${operand.name}: buffer<${stride * height * 2}>; // f16 (${height}, ${stride})`
    : `var<workgroup> tile_${operand.name}: array<f16, ${stride * height}>; // (${height}, ${stride})`;

const viewsOf = (name: string, { staging }: MatrixTiling): string =>
  staging === 'view'
    ? `  let ${name}_quads = bufferView<array<vec4<f16>>>(&tile_${name}, 0);
  let ${name}_values = bufferView<array<f16>>(&tile_${name}, 0);`
    : '';

function fetch({ operand, width, perThread }: Staged, threads: number, k0: string): string {
  const { name, along } = operand;
  const first = name === 'a' ? 'row0' : 'col0';
  return lines(perThread, (i) => {
    const at = `(thread + ${i * threads})`;
    const [across, down] = [`${at} % ${width / 4} * 4`, `${at} / ${width / 4}`];
    const place = along === 'k' ? `${first} + ${down}, ${k0} + ${across}` : `${first} + ${across}, ${k0} + ${down}`;
    return `      ${name}_${i} = vec4<f16>(${name}_quad(${place}));`;
  });
}

function stage({ operand, width, stride, perThread }: Staged, { staging }: MatrixTiling, threads: number): string {
  const { name } = operand;
  return lines(perThread, (i) => {
    const thread = `(thread + ${i * threads})`;
    if (staging === 'view')
      return `    ${name}_quads[${thread} / ${width / 4} * ${stride / 4} + ${thread} % ${width / 4}] = ${name}_${i};`;
    const at = `${thread} / ${width / 4} * ${stride} + ${thread} % ${width / 4} * 4`;
    return lines(4, (c) => `    tile_${name}[${at} + ${c}] = ${name}_${i}.${XYZW[c] ?? ''};`);
  });
}

/** A unit's worth of an operand, `at` rows (of a) or columns (of b) and `k` steps of K into the tile. */
function load({ operand, stride }: Staged, tiling: MatrixTiling, at: string, k: number): string {
  const { unit, staging, order } = tiling;
  const { name, along } = operand;
  // Type parameters are columns, then rows. Left is (M, K), right (K, N).
  const type =
    name === 'a'
      ? `subgroup_matrix_left<f16, ${unit.K}, ${unit.M}>`
      : `subgroup_matrix_right<f16, ${unit.N}, ${unit.K}>`;
  const isColumnMajor = (name === 'a') !== (along === 'k');
  const from = staging === 'view' ? `${name}_values` : `&tile_${name}`;
  const offset = along === 'k' ? `(${at}) * ${stride} + ${k}` : `${k * stride} + ${at}`;
  return order === 'enumerant'
    ? `subgroupMatrixLoad<${type}, ${isColumnMajor ? 'col_major' : 'row_major'}>(${from}, ${offset}, ${stride})`
    : `subgroupMatrixLoad<${type}>(${from}, ${offset}, ${String(isColumnMajor)}, ${stride})`;
}

/** Units that a subgroup has of the tile, down and across. */
const unitsOf = ({ unit, tileM, tileN, subgroupsM, subgroupsN }: MatrixTiling): [number, number] => [
  tileM / unit.M / subgroupsM,
  tileN / unit.N / subgroupsN,
];

function multiply(tiling: MatrixTiling, a: Staged, b: Staged): string {
  const { unit, tileK } = tiling;
  const [down, across] = unitsOf(tiling);
  return lines(tileK / unit.K, (step) =>
    [
      '    {',
      lines(down, (i) => `      let left_${i} = ${load(a, tiling, `unit_row + ${i * unit.M}`, step * unit.K)};`),
      lines(across, (j) => `      let right_${j} = ${load(b, tiling, `unit_col + ${j * unit.N}`, step * unit.K)};`),
      lines(down * across, (at) => {
        const [i, j] = [Math.floor(at / across), at % across];
        return `      sum_${i}_${j} = subgroupMatrixMultiplyAccumulate(left_${i}, right_${j}, sum_${i}_${j});`;
      }),
      '    }',
    ].join('\n'),
  );
}

/** One unit of every subgroup at a time through workgroup memory, for a matrix gives no access to its elements. */
function drain(tiling: MatrixTiling): string {
  const { unit, subgroupsN, order } = tiling;
  const [down, across] = unitsOf(tiling);
  const threads = matrixThreads(tiling);
  const unitQuads = (unit.M * unit.N) / 4;
  return lines(down * across, (at) => {
    const [i, j] = [Math.floor(at / across), at % across];
    const to = `&scratch, subgroup * ${unit.M * unit.N}, sum_${i}_${j}`;
    const store =
      order === 'enumerant'
        ? `subgroupMatrixStore<row_major>(${to}, ${unit.N});`
        : `subgroupMatrixStore(${to}, false, ${unit.N});`;
    return `  workgroupBarrier();
  ${store}
  workgroupBarrier();
${lines(scratchCount(tiling) / 4 / threads, (piece) => {
  const quad = `(thread + ${piece * threads})`;
  const owner = `${quad} / ${unitQuads}`;
  const row = `row0 + (${owner} / ${subgroupsN} * ${down} + ${i}) * ${unit.M} + ${quad} % ${unitQuads} / ${unit.N / 4}`;
  const col = `col0 + (${owner} % ${subgroupsN} * ${across} + ${j}) * ${unit.N} + ${quad} % ${unit.N / 4} * 4`;
  const values = [0, 1, 2, 3].map((c) => `scratch[${quad} * 4 + ${c}]`).join(', ');
  return `  result(${row}, ${col}, vec4f(${values}));`;
})}`;
  });
}

export function subgroupMatrix(variant: MatmulVariant, tiling: MatrixTiling): MatmulKernel {
  const { unit, tileM, tileN, tileK, subgroup, subgroupsN, isPinned } = tiling;
  const threads = matrixThreads(tiling);
  const operands = operandsOf(variant);
  const a = stagedOf(operands.a, tiling);
  const b = stagedOf(operands.b, tiling);
  const [down, across] = unitsOf(tiling);
  const fetchBoth = (k0: string): string => `${fetch(a, threads, k0)}\n${fetch(b, threads, k0)}`;
  const code = `${formula(variant)}, operands rounded to f16
// Grid: one workgroup per ${tileM} × ${tileN} tile of out, folded into x and y. Each subgroup: ${down} × ${across} units of ${unit.M} × ${unit.N}.
// Workgroup memory: ${matrixWorkgroupBytes(tiling, variant.product)} bytes.
enable f16;
enable subgroups;
${isPinned ? 'enable subgroup_size_control;\n' : ''}enable chromium_experimental_subgroup_matrix;

${bindings(variant)}
${storageOf(a, tiling)}
${storageOf(b, tiling)}
var<workgroup> scratch: array<f32, ${scratchCount(tiling)}>; // one unit of each subgroup

${quads(variant)}
${finish(variant).trimStart()}
${guardedFinish(variant)}
@compute @workgroup_size(${threads})${isPinned ? ` @subgroup_size(${subgroup})` : ''}
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) thread: u32,
  @builtin(subgroup_id) subgroup: u32,
) {
${tileCorner(tileM, tileN)}
  let unit_row = subgroup / ${subgroupsN} * ${down * unit.M};
  let unit_col = subgroup % ${subgroupsN} * ${across * unit.N};
${viewsOf('a', tiling)}
${viewsOf('b', tiling)}
${lines(a.perThread, (i) => `  var a_${i}: vec4<f16>;`)}
${lines(b.perThread, (i) => `  var b_${i}: vec4<f16>;`)}
${lines(down * across, (at) => `  var sum_${Math.floor(at / across)}_${at % across}: subgroup_matrix_result<f32, ${unit.N}, ${unit.M}>;`)}
${fetchBoth('0u')}
  for (var k0 = 0u; k0 < sizes.K; k0 += ${tileK}) {
${stage(a, tiling, threads)}
${stage(b, tiling, threads)}
    workgroupBarrier();
    let next = k0 + ${tileK};
    if (next < sizes.K) {
${fetchBoth('next')}
    }
${multiply(tiling, a, b)}
    workgroupBarrier();
  }
${drain(tiling)}
}
`;
  return {
    name: kernelName(variant, matrixName(tiling)),
    code,
    outputs: 1,
    inputs: storageInputs(variant),
    sizes: matmulSizes,
    workgroup: threads,
    // The draft's feature is not in the type of WebGPU's names yet.
    features: [
      'shader-f16',
      'subgroups',
      'chromium-experimental-subgroup-matrix' as GPUFeatureName,
      ...(isPinned ? ['subgroup-size-control' as GPUFeatureName] : []),
    ],
    grid: tileGrid(tiling),
  };
}
