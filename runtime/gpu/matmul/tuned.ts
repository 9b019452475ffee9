// What the autotuner found out about a device, and which of it suits a shape. Pure; how it is found out is tune-gpu.ts's business.
import type { MatmulShape, Tiling } from './spec.ts';

/** What won at one shape. */
export interface TunedTile {
  readonly shape: MatmulShape;
  readonly tiling: Tiling;
}

/** Empty where nothing was measured: then a default is taken. */
export interface MatmulTuning {
  readonly f32: readonly TunedTile[];
  /** Of products with 16-bit weights, which only runs at 16-bit precision have: they alone may round to f16. Null: not searched. */
  readonly half: readonly TunedTile[] | null;
}

/** The tiling of the measured shape nearest to this one; a size that doubles is one step away. */
export function nearestTiling(tuned: readonly TunedTile[], shape: MatmulShape): Tiling | undefined {
  const distance = (other: MatmulShape): number =>
    Math.hypot(Math.log2(other.M / shape.M), Math.log2(other.N / shape.N), Math.log2(other.K / shape.K));
  return tuned.toSorted((a, b) => distance(a.shape) - distance(b.shape))[0]?.tiling;
}
