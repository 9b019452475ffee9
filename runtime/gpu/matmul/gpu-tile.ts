// F2, the product for real GPUs in f32: a workgroup stages tiles of both operands in workgroup memory, each invocation keeps some
// results in registers. Text only; which tile suits a device is tune.ts's business. Tint does not unroll, so this file does.
// K is not split over workgroups: that would need a second pass and scratch memory. Small products take small tiles instead.
import {
  kernelName,
  matmulSizes,
  storageInputs,
  type MatmulKernel,
  type MatmulVariant,
  type TileTiling,
} from './spec.ts';
import { bindings, finish, formula } from './text.ts';
import { guardedFinish, lines, operandsOf, quads, tileCorner, tileGrid, type Operand } from './tile-parts.ts';

const XYZW = ['x', 'y', 'z', 'w'] as const;

export const tileName = ({ tileM, tileN, tileK, rows, columns, stages }: TileTiling): string =>
  `f2 ${tileM}x${tileN}x${tileK} ${rows}x${columns}${stages === 2 ? ' double' : ''}`;

export const tileThreads = ({ tileM, tileN, rows, columns }: TileTiling): number => (tileM / rows) * (tileN / columns);

/** Each invocation has whole quads of the result, and a step of K is whole quads of the operands. */
export const isTile = (tiling: TileTiling): boolean =>
  [tiling.rows, tiling.columns, tiling.tileK].every((size) => size % 4 === 0) &&
  tiling.tileM % tiling.rows === 0 &&
  tiling.tileN % tiling.columns === 0;

/** One operand's tile: `tileK` rows of quads. */
interface Staged {
  readonly operand: Operand;
  /** Rows of a or columns of b. */
  readonly span: number;
  /** Quads from one step of K to the next; one of padding keeps transposed writes on different banks. */
  readonly stride: number;
  /** What an invocation moves at a time, 4 × 4 values that it transposes or one quad: how many, and how many each moves. */
  readonly pieces: number;
  readonly perThread: number;
}

function stagedOf(operand: Operand, tiling: TileTiling): Staged {
  const span = operand.name === 'a' ? tiling.tileM : tiling.tileN;
  const isTransposed = operand.along === 'k';
  const pieces = (isTransposed ? tiling.tileK / 4 : tiling.tileK) * (span / 4);
  return {
    operand,
    span,
    stride: span / 4 + (isTransposed ? 1 : 0),
    pieces,
    perThread: Math.ceil(pieces / tileThreads(tiling)),
  };
}

export function tileWorkgroupBytes(tiling: TileTiling, { product }: Pick<MatmulVariant, 'product'>): number {
  const { a, b } = operandsOf({ product });
  return (stagedOf(a, tiling).stride + stagedOf(b, tiling).stride) * tiling.tileK * 16 * tiling.stages;
}

/** Registers that hold what was fetched: `<a|b>_<piece>_<quad>`. */
const registers = ({ operand, perThread }: Staged): string[] =>
  Array.from({ length: perThread * (operand.along === 'k' ? 4 : 1) }, (_, i) =>
    operand.along === 'k' ? `${operand.name}_${i >> 2}_${i & 3}` : `${operand.name}_${i}_0`,
  );

/** `body` with `at`, the piece, in 0 … pieces; invocations beyond the last piece do nothing. */
function eachPiece({ pieces, perThread }: Staged, threads: number, body: (piece: number) => string): string {
  return lines(perThread, (i) => {
    const at = i === 0 ? 'thread' : `thread + ${i * threads}`;
    // The remainder changes nothing and tells the compiler the range, so that it adds no check of bounds.
    return pieces % threads === 0
      ? `    { let at = ${at};\n${body(i)}\n    }`
      : `    if (${at} < ${pieces}) { let at = (${at}) % ${pieces};\n${body(i)}\n    }`;
  });
}

function fetch(staged: Staged, { tileK }: TileTiling, threads: number, k0: string): string {
  const { name, along } = staged.operand;
  const first = name === 'a' ? 'row0' : 'col0';
  return eachPiece(staged, threads, (piece) =>
    along === 'k'
      ? lines(4, (i) => {
          const quad = `${first} + at / ${tileK / 4} * 4 + ${i}, ${k0} + at % ${tileK / 4} * 4`;
          return `      ${name}_${piece}_${i} = ${name}_quad(${quad});`;
        })
      : `      ${name}_${piece}_0 = ${name}_quad(${first} + at % ${staged.span / 4} * 4, ${k0} + at / ${staged.span / 4});`,
  );
}

/** Where a buffer of a double-buffered tile begins. */
const bufferAt = ({ stages, tileK }: TileTiling, { stride }: Staged, buffer: string): string =>
  stages === 2 ? `${buffer} * ${tileK * stride} + ` : '';

function stage(staged: Staged, tiling: TileTiling, threads: number, buffer: string): string {
  const { name, along } = staged.operand;
  const { stride, span } = staged;
  const start = bufferAt(tiling, staged, buffer);
  return eachPiece(staged, threads, (piece) =>
    along === 'k'
      ? lines(4, (i) => {
          const at = `${start}(at % ${tiling.tileK / 4} * 4 + ${i}) * ${stride} + at / ${tiling.tileK / 4}`;
          const quad = [0, 1, 2, 3].map((row) => `${name}_${piece}_${row}.${XYZW[i] ?? ''}`).join(', ');
          return `      tile_${name}[${at}] = vec4f(${quad});`;
        })
      : `      tile_${name}[${start}at / ${span / 4} * ${stride} + at % ${span / 4}] = ${name}_${piece}_0;`,
  );
}

/** Steps of K that are written out; more makes the text long for nothing. */
const UNROLLED = 8;

/** The loop counts by one and the index is its only variable: that much Tint can bound, so it adds no checks. */
function multiply(tiling: TileTiling, a: Staged, b: Staged): string {
  const { tileM, tileN, tileK, rows, columns } = tiling;
  const steps = Math.min(UNROLLED, tileK);
  const [groupsM, groupsN] = [tileM / rows, tileN / columns];
  const step = (k: string): string =>
    [
      lines(rows / 4, (i) => {
        const at = `${bufferAt(tiling, a, 'buffer')}(${k}) * ${a.stride} + ${i * groupsM} + thread / ${groupsN}`;
        return `      let x${i} = tile_a[${at}];`;
      }),
      lines(columns / 4, (j) => {
        const at = `${bufferAt(tiling, b, 'buffer')}(${k}) * ${b.stride} + ${j * groupsN} + thread % ${groupsN}`;
        return `      let w${j} = tile_b[${at}];`;
      }),
      eachSum(tiling, (row, j) => {
        const x = `x${row >> 2}.${XYZW[row & 3] ?? ''}`;
        return `      sum_${row}_${j} = fma(vec4f(${x}), w${j}, sum_${row}_${j});`;
      }),
    ].join('\n');
  return `    for (var k = 0u; k < ${tileK / steps}; k++) {
${lines(steps, (i) => `      {\n${step(`k * ${steps} + ${i}`)}\n      }`)}
    }`;
}

/** Lines for each row and each quad of columns of an invocation's results. */
const eachSum = ({ rows, columns }: TileTiling, line: (row: number, j: number) => string): string =>
  lines(rows * (columns / 4), (at) => line(Math.floor(at / (columns / 4)), at % (columns / 4)));

export function gpuTile(variant: MatmulVariant, tiling: TileTiling): MatmulKernel {
  const { tileM, tileN, tileK, rows, columns, stages } = tiling;
  const threads = tileThreads(tiling);
  const operands = operandsOf(variant);
  const a = stagedOf(operands.a, tiling);
  const b = stagedOf(operands.b, tiling);
  const fetchBoth = (k0: string): string => `${fetch(a, tiling, threads, k0)}\n${fetch(b, tiling, threads, k0)}`;
  const stageBoth = (buffer: string): string =>
    `${stage(a, tiling, threads, buffer)}\n${stage(b, tiling, threads, buffer)}`;
  const loop =
    stages === 1
      ? `  for (var k0 = 0u; k0 < sizes.K; k0 += ${tileK}) {
${fetchBoth('k0')}
${stageBoth('0')}
    workgroupBarrier();
${multiply(tiling, a, b)}
    workgroupBarrier();
  }`
      : `${fetchBoth('0u')}
${stageBoth('0')}
  workgroupBarrier();
  for (var step = 0u; step * ${tileK} < sizes.K; step++) {
    let buffer = step % 2;
    let next = (step + 1) * ${tileK};
    if (next < sizes.K) {
${fetchBoth('next')}
    }
${multiply(tiling, a, b)}
    if (next < sizes.K) {
${stageBoth('(1 - buffer)')}
    }
    workgroupBarrier();
  }`;
  const [groupsM, groupsN] = [tileM / rows, tileN / columns];
  const code = `${formula(variant)}
// Grid: one workgroup per ${tileM} × ${tileN} tile of out, folded into x and y. Each invocation: ${rows} × ${columns}, ${tileK} of K at a time.
// Workgroup memory: ${tileWorkgroupBytes(tiling, variant)} bytes.

${bindings(variant)}
var<workgroup> tile_a: array<vec4f, ${tileK * a.stride * stages}>; // (tileK, ${a.stride} quads)
var<workgroup> tile_b: array<vec4f, ${tileK * b.stride * stages}>; // (tileK, ${b.stride} quads)

${quads(variant)}
${finish(variant).trimStart()}
${guardedFinish(variant)}
@compute @workgroup_size(${threads})
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
${tileCorner(tileM, tileN)}
${[...registers(a), ...registers(b)].map((register) => `  var ${register}: vec4f;`).join('\n')}
${eachSum(tiling, (row, j) => `  var sum_${row}_${j}: vec4f;`)}
${loop}
  let row = row0 + thread / ${groupsN} * 4;
  let col = col0 + thread % ${groupsN} * 4;
${eachSum(tiling, (row, j) => {
  const rowAt = (row >> 2) * groupsM * 4 + (row & 3);
  return `  result(row + ${rowAt}, col + ${j * groupsN * 4}, sum_${row}_${j});`;
})}
}
`;
  return {
    name: kernelName(variant, tileName(tiling)),
    code,
    outputs: 1,
    inputs: storageInputs(variant),
    sizes: matmulSizes,
    workgroup: threads,
    grid: tileGrid(tiling),
  };
}
