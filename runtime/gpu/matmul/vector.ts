// F4: few rows, where the product is as fast as w can be read. The lanes of a workgroup walk along K of a few columns and add up
// at the end, by subgroup or, where the size of subgroups is not known, through workgroup memory. nt only: there K is contiguous.
import {
  kernelName,
  matmulSizes,
  storageInputs,
  type MatmulKernel,
  type MatmulShape,
  type MatmulVariant,
  type VectorTiling,
} from './spec.ts';
import { bindings, finish, formula, loadA, loadB } from './text.ts';

/** Invocations of a workgroup where there are no subgroups of known size. */
const LANES = 32;

export const vectorName = ({ subgroup, columns }: VectorTiling): string =>
  `f4 ${subgroup === 0 ? 'workgroup' : `sg${subgroup}`} ${columns}`;

export const vectorGrid =
  ({ columns }: VectorTiling) =>
  ({ M, N }: MatmulShape): number =>
    M * Math.ceil(N / columns);

export function vectorProduct(variant: MatmulVariant, tiling: VectorTiling): MatmulKernel {
  const { subgroup, columns } = tiling;
  const lanes = subgroup === 0 ? LANES : subgroup;
  const all = Array.from({ length: columns }, (_, c) => c);
  const groups = Array.from({ length: columns / 4 }, (_, g) => g);
  const four = (g: number, of: (c: number) => string): string => [0, 1, 2, 3].map((c) => of(g * 4 + c)).join(', ');
  const lines = (list: readonly number[], line: (i: number) => string): string => list.map(line).join('\n');
  const total =
    subgroup === 0
      ? `${lines(groups, (g) => `  partial[lane * ${groups.length} + ${g}] = vec4f(${four(g, (c) => `s${c}`)});`)}
  workgroupBarrier();
  if (lane >= ${groups.length}) { return; }
  var sum = partial[lane];
  for (var i = 1u; i < ${lanes}; i++) { sum += partial[i * ${groups.length} + lane]; }`
      : `${lines(groups, (g) => `  let sum${g} = vec4f(${four(g, (c) => `subgroupAdd(s${c})`)});`)}
  if (lane >= ${groups.length}) { return; }
  var sum = sum0;
${lines(groups.slice(1), (g) => `  if (lane == ${g}) { sum = sum${g}; }`)}`;
  const code = `${formula(variant)}
// Grid: one workgroup per ${columns} columns of each row of out, folded into x and y. Workgroup memory: ${subgroup === 0 ? `${LANES * columns * 4} bytes` : 'none'}.
${subgroup === 0 ? '' : 'enable subgroups;\n'}
${bindings(variant)}
${subgroup === 0 ? `var<workgroup> partial: array<vec4f, ${LANES * groups.length}>; // (lanes, columns)\n` : ''}
${loadA(variant).trimStart()}
${loadB(variant).trimStart()}
${finish(variant).trimStart()}
@compute @workgroup_size(${lanes})
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let blocks = (sizes.N + ${columns - 1}) / ${columns};
  let block = group.x + group.y * groups.x;
  let row = block / blocks;
  let col = (block - row * blocks) * ${columns};
  if (row >= sizes.M) { return; }
  let a0 = aRow(row);
${lines(all, (c) => `  let b${c} = bRow(col + ${c});`)}
${lines(all, (c) => `  var s${c} = 0f;`)}
  let steps = (sizes.K + 3) / 4;
  for (var k4 = lane; k4 < steps; k4 += ${lanes}) {
    let x = loadA(a0, k4);
${lines(all, (c) => `    s${c} += dot(x, loadB(b${c}, k4));`)}
  }
${total}
  finish(row, col + lane * 4, sum${variant.bias ? ' + biasAt(col + lane * 4)' : ''});
}
`;
  return {
    name: kernelName(variant, vectorName(tiling)),
    code,
    outputs: 1,
    inputs: storageInputs(variant),
    sizes: matmulSizes,
    workgroup: lanes,
    ...(subgroup === 0 ? {} : { features: ['subgroups'] as const }),
    grid: vectorGrid(tiling),
  };
}
