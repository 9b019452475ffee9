// What the autotuner tries on a real GPU: tilings of F2 and F3 that a device's limits allow, the likeliest first. Pure.
import type { MatrixConfig } from '../../compute.ts';
import { tileWorkgroupBytes } from './gpu-tile.ts';
import type { MatrixTiling, TileTiling } from './spec.ts';
import { isMatrixTile, matrixThreads, matrixWorkgroupBytes } from './subgroup-matrix.ts';

export interface TileLimits {
  /** maxComputeWorkgroupStorageSize */
  readonly workgroupBytes: number;
}

const tile = (
  [tileM, tileN, tileK]: readonly [number, number, number],
  [rows, columns]: readonly [number, number],
  stages: 1 | 2 = 1,
): TileTiling => ({ family: 'f2', tileM, tileN, tileK, rows, columns, stages });

/** Fits every WebGPU device: what runs before anything was measured. */
export const DEFAULT_TILE: TileTiling = tile([64, 64, 16], [8, 8]);
/** For results of few tiles: four times as many workgroups. */
export const SMALL_TILE: TileTiling = tile([32, 32, 32], [4, 4]);

const TILES: readonly TileTiling[] = [
  DEFAULT_TILE,
  tile([128, 128, 8], [8, 8]),
  tile([64, 64, 16], [4, 4]),
  tile([128, 64, 16], [8, 8]),
  tile([128, 128, 8], [8, 8], 2),
  tile([64, 64, 16], [8, 4]),
  tile([64, 64, 8], [8, 8], 2),
  tile([128, 128, 16], [8, 8]),
  SMALL_TILE,
  tile([128, 64, 8], [8, 8], 2),
  tile([128, 64, 16], [8, 4]),
  tile([32, 64, 16], [4, 4]),
  tile([128, 128, 16], [8, 8], 2),
];

export const tileCandidates = ({ workgroupBytes }: TileLimits): TileTiling[] =>
  TILES.filter((tiling) => tileWorkgroupBytes(tiling, { product: 'nt' }) <= workgroupBytes);

export interface MatrixDevice extends TileLimits {
  readonly features: readonly string[];
  readonly subgroupMinSize: number;
  readonly subgroupMaxSize: number;
  readonly matrixConfigs: readonly MatrixConfig[];
}

const MATRIX_TILES = [
  { tileM: 128, tileN: 128, tileK: 32, subgroupsM: 4, subgroupsN: 2 },
  { tileM: 64, tileN: 64, tileK: 32, subgroupsM: 2, subgroupsN: 2 },
  { tileM: 128, tileN: 64, tileK: 32, subgroupsM: 4, subgroupsN: 1 },
  { tileM: 64, tileN: 64, tileK: 64, subgroupsM: 2, subgroupsN: 2 },
] as const;
/** Newest first: a browser that does not know one of them refuses to compile it, and the next is tried. */
const MATRIX_FORMS: readonly Pick<MatrixTiling, 'order' | 'staging'>[] = [
  { order: 'enumerant', staging: 'view' },
  { order: 'enumerant', staging: 'single' },
  { order: 'flag', staging: 'single' },
];
const MAX_THREADS = 256; // every WebGPU device has as many

export function matrixCandidates(device: MatrixDevice): MatrixTiling[] {
  const has = (feature: string): boolean => device.features.includes(feature);
  const { subgroupMinSize, subgroupMaxSize } = device;
  const isPinned = subgroupMinSize !== subgroupMaxSize;
  if (!has('chromium-experimental-subgroup-matrix') || !has('shader-f16') || !has('subgroups')) return [];
  if (isPinned && !has('subgroup-size-control')) return [];
  const [unit] = device.matrixConfigs
    .filter(({ componentType, resultType }) => componentType === 'f16' && resultType === 'f32')
    .sort((a, b) => b.M * b.N * b.K - a.M * a.N * a.K);
  if (unit === undefined) return [];
  const { M, N, K } = unit;
  return MATRIX_FORMS.flatMap((form) =>
    MATRIX_TILES.map((sizes): MatrixTiling => ({
      family: 'f3',
      unit: { M, N, K },
      subgroup: subgroupMaxSize,
      ...sizes,
      ...form,
      isPinned,
    })),
  ).filter(
    (tiling) =>
      isMatrixTile(tiling) &&
      matrixThreads(tiling) <= MAX_THREADS &&
      matrixWorkgroupBytes(tiling, 'nt') <= device.workgroupBytes,
  );
}
