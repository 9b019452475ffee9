// From a variant and a tiling to a kernel: which file of the family writes its text, what it is called, and how many workgroups it
// takes. The name and the grid are cheap, so that a recording needs no text.
import { gpuTile, tileName } from './gpu-tile.ts';
import { registerExtent, registerName, registerTile } from './register-tile.ts';
import { kernelName, type MatmulKernel, type MatmulShape, type MatmulVariant, type Tiling } from './spec.ts';
import { matrixName, subgroupMatrix } from './subgroup-matrix.ts';
import { tileGrid } from './tile-parts.ts';
import { vectorGrid, vectorName, vectorProduct } from './vector.ts';

export function generate(variant: MatmulVariant, tiling: Tiling): MatmulKernel {
  switch (tiling.family) {
    case 'f0':
    case 'f1':
      return registerTile(variant, tiling);
    case 'f2':
      return gpuTile(variant, tiling);
    case 'f3':
      return subgroupMatrix(variant, tiling);
    case 'f4':
      return vectorProduct(variant, tiling);
    default:
      return tiling satisfies never;
  }
}

export function tilingName(tiling: Tiling): string {
  switch (tiling.family) {
    case 'f0':
    case 'f1':
      return registerName(tiling);
    case 'f2':
      return tileName(tiling);
    case 'f3':
      return matrixName(tiling);
    case 'f4':
      return vectorName(tiling);
    default:
      return tiling satisfies never;
  }
}

/** The name that `generate` gives the kernel. */
export const generatedName = (variant: MatmulVariant, tiling: Tiling): string =>
  kernelName(variant, tilingName(tiling));

/** Workgroups, as the kernel's own `grid`. */
export function gridOf(tiling: Tiling, shape: MatmulShape): number {
  if (tiling.family === 'f4') return vectorGrid(tiling)(shape);
  return tileGrid(tiling.family === 'f0' || tiling.family === 'f1' ? registerExtent(tiling) : tiling)(shape);
}
