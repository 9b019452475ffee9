// F0 and F1: a tile of the result in each lane's registers, unrolled here because no WGSL compiler does it. In F0 the lanes of a
// subgroup load different rows of a and shuffle them to each other; in F1 every lane loads what it needs. No workgroup memory.
import {
  kernelName,
  matmulSizes,
  storageInputs,
  type MatmulKernel,
  type MatmulVariant,
  type RegisterTiling,
  type SubgroupTiling,
} from './spec.ts';
import { tileGrid } from './tile-parts.ts';
import { bindings, finish, formula, loadA, loadB, tileOf } from './text.ts';

/** Side of F1's workgroup: 64 invocations. */
const SIDE = 8;
const XYZW = ['x', 'y', 'z', 'w'] as const;

const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i);

export const registerName = (tiling: SubgroupTiling | RegisterTiling): string =>
  `${tiling.family === 'f0' ? `f0 sg${tiling.subgroup}` : 'f1'} ${tiling.rows}x${tiling.columns}`;

/** Rows and columns of a workgroup's tile. */
export const registerExtent = (tiling: SubgroupTiling | RegisterTiling): { tileM: number; tileN: number } =>
  tiling.family === 'f0'
    ? { tileM: tiling.rows, tileN: tiling.columns * tiling.subgroup }
    : { tileM: tiling.rows * SIDE, tileN: tiling.columns * SIDE };

export function registerTile(variant: MatmulVariant, tiling: SubgroupTiling | RegisterTiling): MatmulKernel {
  const { rows, columns } = tiling;
  const lanes = tiling.family === 'f0' ? tiling.subgroup : 1; // that share a row of the result
  const workgroup = tiling.family === 'f0' ? tiling.subgroup : SIDE * SIDE;
  const { tileM, tileN } = registerExtent(tiling);
  const grid = `one workgroup per ${tileM} × ${tileN} tile of out, folded into x and y`;
  const code = [
    formula(variant),
    `// Grid: ${grid}. Each invocation: ${rows} × ${columns}. Workgroup memory: none.`,
    tiling.family === 'f0' ? 'enable subgroups;\n' : '',
    bindings(variant),
    loadA(variant).trimStart(),
    loadB(variant).trimStart(),
    finish(variant).trimStart(),
    tileOf(tileM, tileN).trimStart(),
    `@compute @workgroup_size(${workgroup})`,
    'fn main(',
    '  @builtin(workgroup_id) group: vec3u,',
    '  @builtin(num_workgroups) groups: vec3u,',
    '  @builtin(local_invocation_index) local: u32,',
    ') {',
    '  let corner = tileOf(group.x + group.y * groups.x);',
    tiling.family === 'f0'
      ? '  let lane = local;\n  let row = corner.x;\n  let col = corner.y + lane * 4;'
      : `  let row = corner.x + local / ${SIDE} * ${rows};\n  let col = corner.y + local % ${SIDE} * 4;`,
    '  if (corner.x >= sizes.M || corner.y >= sizes.N) { return; }',
    ...body(variant, { rows, columns, lanes, stride: tileN / (columns / 4) }),
    '}',
    '',
  ].join('\n');
  return {
    name: kernelName(variant, registerName(tiling)),
    code,
    outputs: 1,
    inputs: storageInputs(variant),
    sizes: matmulSizes,
    workgroup,
    ...(tiling.family === 'f0' ? { features: ['subgroups'] as const } : {}),
    grid: tileGrid(registerExtent(tiling)),
  };
}

interface Registers {
  rows: number;
  columns: number;
  lanes: number;
  /** Between the groups of four columns of one lane. */
  stride: number;
}

function body(variant: MatmulVariant, registers: Registers): string[] {
  const { rows, columns, stride } = registers;
  const lines: string[] = [];
  const groups = columns / 4;
  const colOf = (c: number): string => {
    const offset = (c >> 2) * stride + (c & 3);
    return offset === 0 ? 'col' : `col + ${offset}`;
  };
  // Where each row (column) of the operands begins.
  if (variant.product === 'tn') {
    for (const i of range(rowLoads(variant, registers)))
      lines.push(
        `  let a${i} = aColumn(row + ${registers.lanes > 1 ? `(lane + ${i * registers.lanes}) * 4` : i * 4});`,
      );
  } else {
    for (const i of range(rowLoads(variant, registers)))
      lines.push(`  let a${i} = aRow(row + ${registers.lanes > 1 ? `lane + ${i * registers.lanes}` : i});`);
  }
  if (variant.product === 'nt') for (const c of range(columns)) lines.push(`  let b${c} = bRow(${colOf(c)});`);
  else for (const g of range(groups)) lines.push(`  let b${g} = bColumn(${colOf(g * 4)});`);
  // Scalars, not vectors: software drivers keep each component in a register of its own anyway, and their order is ours.
  for (const g of range(groups)) if (variant.bias) lines.push(`  let bias${g} = biasAt(${colOf(g * 4)});`);
  for (const m of range(rows))
    for (const c of range(columns))
      lines.push(`  var s${m}_${c} = ${variant.bias ? `bias${c >> 2}.${XYZW[c & 3]}` : '0f'};`);
  lines.push('  let steps = (sizes.K + 3) / 4;', '  for (var k4 = 0u; k4 < steps; k4++) {');
  lines.push(...loads(variant, registers), ...sums(variant, registers), '  }');
  // Through an array, so that the way to memory is in the text once and not once a row: drivers compile each store into many blocks.
  lines.push(`  var tile: array<vec4f, ${rows * groups}>;`);
  for (const m of range(rows))
    for (const g of range(groups)) {
      const four = range(4).map((c) => `s${m}_${g * 4 + c}`);
      lines.push(`  tile[${m * groups + g}] = vec4f(${four.join(', ')});`);
    }
  lines.push(`  let last = min(${rows}u, sizes.M - min(row, sizes.M));`, '  for (var m = 0u; m < last; m++) {');
  for (const g of range(groups))
    lines.push(`    finish(row + m, ${colOf(g * 4)}, tile[m${groups === 1 ? '' : ` * ${groups} + ${g}`}]);`);
  lines.push('  }');
  return lines;
}

/** Loads of a per step of K (tn) or per four of them. */
const rowLoads = ({ product }: MatmulVariant, { rows, lanes }: Registers): number =>
  rows / lanes / (product === 'tn' ? 4 : 1);

function loads(variant: MatmulVariant, registers: Registers): string[] {
  const { product } = variant;
  const lines: string[] = [];
  const across = range(rowLoads(variant, registers));
  if (product === 'tn')
    for (const j of range(4)) for (const i of across) lines.push(`    let a${i}_${j} = loadA(a${i}, k4 * 4 + ${j});`);
  else for (const i of across) lines.push(`    let a${i}_ = loadA(a${i}, k4);`);
  if (product === 'nt') for (const c of range(registers.columns)) lines.push(`    let b${c}_ = loadB(b${c}, k4);`);
  else
    for (const j of range(4))
      for (const g of range(registers.columns / 4)) lines.push(`    let b${g}_${j} = loadB(b${g}, k4 * 4 + ${j});`);
  return lines;
}

function sums(variant: MatmulVariant, { rows, columns, lanes }: Registers): string[] {
  const { product } = variant;
  const aValue = (m: number, j: number): string => {
    const [register, component, lane] =
      product === 'tn'
        ? [`a${Math.floor(m / 4 / lanes)}_${j}`, XYZW[m & 3], (m >> 2) % lanes]
        : [`a${Math.floor(m / lanes)}_`, XYZW[j], m % lanes];
    return lanes === 1 ? `${register}.${component}` : share(`${register}.${component}`, lane, lanes);
  };
  const bValue = (c: number, j: number): string =>
    product === 'nt' ? `b${c}_.${XYZW[j]}` : `b${c >> 2}_${j}.${XYZW[c & 3]}`;
  const lines: string[] = [];
  for (const m of range(rows)) {
    lines.push(
      `    {${range(4)
        .map((j) => ` let v${j} = ${aValue(m, j)};`)
        .join('')}`,
    );
    for (const c of range(columns))
      lines.push(
        `      s${m}_${c} = ${range(4).reduce((sum, j) => `fma(v${j}, ${bValue(c, j)}, ${sum})`, `s${m}_${c}`)};`,
      );
    lines.push('    }');
  }
  return lines;
}

// lavapipe (8 lanes): a shuffle from a constant lane is one instruction, a broadcast more; SwiftShader (4 lanes): the other way round.
const share = (value: string, lane: number, lanes: number): string =>
  lanes === 4 ? `subgroupBroadcast(${value}, ${lane}u)` : `subgroupShuffle(${value}, ${lane}u)`;
