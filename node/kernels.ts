// What runs on the GPU, to read: the files of kernels/, and the products' kernels that runtime/gpu/matmul/ writes for this machine.
import { Command } from 'commander';
import { z } from 'zod';
import { MeshError } from '../runtime/errors.ts';
import { Gpu } from '../runtime/gpu/gpu.ts';
import { DEFAULT_TILE } from '../runtime/gpu/matmul/candidates.ts';
import { alignmentOf, rankTilings, type MatmulDevice } from '../runtime/gpu/matmul/choose.ts';
import { generate, tilingName } from '../runtime/gpu/matmul/generate.ts';
import type { Family, Product, Tiling } from '../runtime/gpu/matmul/spec.ts';
import { command, option } from './command.ts';
import { platform } from './platform.ts';

const PRODUCTS = ['nt', 'nn', 'tn'] as const;
/** Shapes that `list` shows the choice for: many rows, and one. */
const LISTED = [
  { M: 1024, N: 1024, K: 1024 },
  { M: 1, N: 1024, K: 1024 },
];

async function deviceHere(): Promise<MatmulDevice> {
  const gpu = await Gpu.acquire(platform);
  await gpu.destroy();
  return gpu.description;
}

const list = command({
  name: 'list',
  description: "List the kernels: kernels/*.wgsl, and the products' as this machine runs them.",
  options: [],
  schema: z.strictObject({}),
  examples: ['skein kernels list'],
  run: async (_, { print }) => {
    for (const name of platform.kernelNames()) print(name);
    const device = await deviceHere();
    const names = LISTED.flatMap((shape) =>
      PRODUCTS.map((product) => {
        const tiling = rankTilings(device, product, shape)[0];
        return tiling === undefined ? '' : `matmul --product ${product}   (${shape.M} rows: ${tilingName(tiling)})`;
      }),
    );
    for (const name of names) print(name);
  },
});

const shapeSchema = z
  .string()
  .regex(/^\d+x\d+x\d+$/, 'is M, N and K, such as 128x768x768')
  .transform((text) => {
    const [M = 0, N = 0, K = 0] = text.split('x').map(Number);
    return { M, N, K };
  });
const flag = z.boolean().default(false);

const showSchema = z.strictObject({
  arguments: z.tuple([z.string()]),
  family: z.enum(['f0', 'f1', 'f2', 'f4']).optional(),
  product: z.enum(PRODUCTS).default('nt'),
  shape: shapeSchema.prefault('1024x1024x1024'),
  weights: z.enum(['f32', 'bf16', 'f16']).default('f32'),
  activation: z.enum(['relu', 'gelu', 'gelu_new']).optional(),
  bias: flag,
  residual: flag,
  accumulate: flag,
});

const show = command({
  name: 'show',
  description: 'Print the WGSL of a kernel. `matmul` is generated: by default as this machine runs it.',
  arguments: ['<name>'],
  options: [
    option('--product <nt|nn|tn>', 'matmul: a·bᵀ, a·b or aᵀ·b (default: nt)'),
    option('--shape <MxNxK>', 'matmul: what it is chosen for (default: 1024x1024x1024)'),
    option('--family <f0|f1|f2|f4>', 'matmul: instead of what this machine would choose'),
    option('--weights <f32|bf16|f16>', 'matmul: format of b (default: f32)'),
    option('--activation <relu|gelu|gelu_new>', 'matmul: applied to the result'),
    option('--bias', 'matmul: add a bias'),
    option('--residual', 'matmul: add a matrix after the activation'),
    option('--accumulate', 'matmul: add to what is there'),
  ],
  schema: showSchema,
  examples: [
    'skein kernels show softmax-cross-entropy',
    'skein kernels show matmul',
    'skein kernels show matmul --family f0 --product nt --bias --activation gelu_new',
    'skein kernels show matmul --shape 1x50257x768 --weights bf16',
  ],
  run: async ({ arguments: [name], family, product, shape, weights, activation, ...fused }, { print }) => {
    if (name !== 'matmul') {
      if (!platform.kernelNames().includes(name))
        throw new MeshError('usage', `There is no kernel "${name}".`, 'skein kernels list names them all.');
      print(platform.kernelSource(name).trimEnd());
      return;
    }
    const tiling =
      family === undefined ? rankTilings(await deviceHere(), product, shape)[0] : ofFamily(family, product);
    if (tiling === undefined) throw new MeshError('internal', 'No kernel suits this.', 'Please report this defect.');
    const outStride = shape.N;
    const layout = { aStride: product === 'tn' ? shape.M : shape.K, aOffset: 0, outStride, outOffset: 0 };
    const alignment = alignmentOf(product, shape, layout);
    const accumulate = fused.accumulate || product === 'tn';
    const variant = { product, weights, activation: activation ?? null, ...fused, accumulate, alignment };
    const kernel = generate(variant, tiling);
    print(`// ${kernel.name}\n${kernel.code.trimEnd()}`);
  },
});

/** The usual tiling of a family; subgroups are lavapipe's. */
function ofFamily(family: Exclude<Family, 'f3'>, product: Product): Tiling {
  if (family === 'f2') return DEFAULT_TILE;
  const subgroups = family === 'f1' ? 0 : 8;
  const device = { isSoftware: true, subgroupMinSize: subgroups, subgroupMaxSize: subgroups };
  const tiling = rankTilings(device, product, { M: 1, N: 4, K: 4 }).find((one) => one.family === family);
  if (tiling === undefined)
    throw new MeshError('usage', `Family ${family} has no ${product} product.`, 'Use --product nt.');
  return tiling;
}

export const kernels = new Command('kernels')
  .description('Show what runs on the GPU.')
  .exitOverride()
  .addCommand(list)
  .addCommand(show);
