// Which tiling a product gets on a device: the one place that decides. Pure. Every tiling is right for every shape; the choice is
// about speed only, so what was not compiled may be replaced by what was.
import type { GpuDescription } from '../../compute.ts';
import { DEFAULT_TILE, SMALL_TILE } from './candidates.ts';
import type { Alignment, MatmulShape, Product, Tiling, WeightFormat } from './spec.ts';
import { nearestTiling, type MatmulTuning, type TunedTile } from './tuned.ts';

export interface MatmulDevice extends Pick<GpuDescription, 'isSoftware' | 'subgroupMinSize' | 'subgroupMaxSize'> {
  readonly tuning?: MatmulTuning;
}

/** A product as far as its caller knows it. A size that is not given may be any. */
export interface Wanted extends Partial<MatmulShape> {
  weights?: WeightFormat;
}

interface Rule {
  readonly tiling: Tiling;
  readonly suits: (shape: Partial<MatmulShape>) => boolean;
}

const always = (): boolean => true;
const fewRows =
  (most: number) =>
  ({ M = 1 }: Partial<MatmulShape>): boolean =>
    M <= most;

/** Below this many tiles of DEFAULT_TILE a GPU is idle in part. */
const FEW_TILES = 64;
const isSmall = ({ M = 1, N = 1 }: Partial<MatmulShape>): boolean => {
  const of = (size: number, tile: number): number => Math.ceil(size / tile);
  return of(M, DEFAULT_TILE.tileM) * of(N, DEFAULT_TILE.tileN) < FEW_TILES;
};

/**
 * F0's tiles by the lanes of a subgroup, measured on lavapipe (8) and SwiftShader (4). There a broadcast costs as much as eight
 * multiplications, so each value that is broadcast serves eight columns; a result of few columns would leave most of them idle.
 */
const NARROW = 16;
const isNarrow = ({ N = NARROW }: Partial<MatmulShape>): boolean => N <= NARROW;
const isWide = ({ N = NARROW + 1 }: Partial<MatmulShape>): boolean => N > NARROW;
const SUBGROUP_RULES: Readonly<Record<number, readonly Rule[]>> = {
  4: [
    { tiling: { family: 'f0', subgroup: 4, rows: 16, columns: 4 }, suits: isNarrow },
    { tiling: { family: 'f0', subgroup: 4, rows: 32, columns: 8 }, suits: isWide },
  ],
  8: [{ tiling: { family: 'f0', subgroup: 8, rows: 32, columns: 4 }, suits: always }],
};

/** What was measured, or a default that every GPU can run. */
function gpuRules(tuned: readonly TunedTile[]): Rule[] {
  if (tuned.length === 0)
    return [
      { tiling: SMALL_TILE, suits: isSmall },
      { tiling: DEFAULT_TILE, suits: always },
    ];
  return [...new Set(tuned.map(({ tiling }) => tiling))].map((tiling) => ({
    tiling,
    suits: ({ M, N, K }) =>
      M === undefined || N === undefined || K === undefined || nearestTiling(tuned, { M, N, K }) === tiling,
  }));
}

function rules(device: MatmulDevice, product: Product, weights: WeightFormat = 'f32'): Rule[] {
  const { isSoftware, subgroupMinSize, subgroupMaxSize, tuning } = device;
  const subgroup = subgroupMinSize === subgroupMaxSize ? subgroupMinSize : 0;
  const list: Rule[] = [];
  // A software driver computes 32 rows in the time that it reads w three times. Rows of 16-bit weights are so short that the row of
  // x weighs: eight share it.
  const columns = isSoftware && weights !== 'f32' ? 8 : 4;
  if (product === 'nt') list.push({ tiling: { family: 'f4', subgroup, columns }, suits: fewRows(isSoftware ? 2 : 4) });
  if (!isSoftware) {
    const half = weights === 'f32' ? [] : (tuning?.half ?? []);
    return [...list, ...gpuRules(half.length > 0 ? half : (tuning?.f32 ?? []))];
  }
  const portable: Rule = { tiling: { family: 'f1', rows: 8, columns: 4 }, suits: always };
  return [...list, ...(SUBGROUP_RULES[subgroup] ?? [portable])];
}

/** Every tiling that may be chosen where the sizes are as far as they are given. */
export const possibleTilings = (device: MatmulDevice, product: Product, wanted: Wanted): Tiling[] =>
  rules(device, product, wanted.weights)
    .filter(({ suits }) => suits(wanted))
    .map(({ tiling }) => tiling);

/** All tilings, the best for this shape first. */
export function rankTilings(
  device: MatmulDevice,
  product: Product,
  shape: MatmulShape,
  weights: WeightFormat = 'f32',
): Tiling[] {
  const all = rules(device, product, weights);
  const suited = all.filter(({ suits }) => suits(shape));
  return [...suited, ...all.filter((rule) => !suited.includes(rule))].map(({ tiling }) => tiling);
}

export interface Layout {
  aStride: number;
  aOffset: number;
  outStride: number;
  outOffset: number;
}

/** Loads and stores of four where sizes, strides and offsets allow it. */
export function alignmentOf(product: Product, { M, N, K }: MatmulShape, layout: Layout): Alignment {
  const fours = (...sizes: number[]): boolean => sizes.every((size) => size % 4 === 0);
  return {
    a: fours(product === 'tn' ? M : K, layout.aStride, layout.aOffset),
    b: fours(product === 'nt' ? K : N),
    out: fours(N, layout.outStride, layout.outOffset),
  };
}

/** Right for every size, stride and offset. */
export const UNALIGNED: Alignment = { a: false, b: false, out: false };
