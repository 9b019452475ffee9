// WGSL that the tiled families for real GPUs (F2, F3) share: quads of the operands with guarded edges, and which tile a workgroup has.
import type { MatmulVariant } from './spec.ts';
import { loadA, loadB } from './text.ts';

/** An operand as a tile reads it: quads along K where K lies contiguously, else along its rows (of a) or columns (of b). */
export interface Operand {
  readonly name: 'a' | 'b';
  readonly along: 'k' | 'span';
}

export const operandsOf = ({ product }: Pick<MatmulVariant, 'product'>): { a: Operand; b: Operand } => ({
  a: { name: 'a', along: product === 'tn' ? 'span' : 'k' },
  b: { name: 'b', along: product === 'nt' ? 'k' : 'span' },
});

/** Lines for i from 0 to count. */
export const lines = (count: number, line: (i: number) => string): string =>
  Array.from({ length: count }, (_, i) => line(i)).join('\n');

/**
 * `a_quad(at, k)` and `b_quad(at, k)`: four values from row (of a) or column (of b) `at` and step `k` on, zero beyond K. Beyond the
 * last row or column it repeats: those results are never stored. The index that quads run along is a multiple of 4.
 */
export function quads(variant: MatmulVariant): string {
  const { a, b } = operandsOf(variant);
  const guarded = (operand: Operand, load: string): string => `
fn ${operand.name}_quad(at: u32, k: u32) -> vec4f {
  if (k >= sizes.K) { return vec4f(); }
  return ${load};
}
`;
  return [
    loadA(variant),
    guarded(a, a.along === 'k' ? 'loadA(aRow(at), k / 4)' : 'loadA(aColumn(at), k)'),
    loadB(variant),
    guarded(b, b.along === 'k' ? 'loadB(bRow(at), k / 4)' : 'loadB(bColumn(at), k)'),
  ]
    .join('')
    .trimStart();
}

/** Rows of tiles that are walked together, so that tiles that run at the same time share operands in the cache. */
const BAND = 8;

/** Declares `row0` and `col0`, the corner of this workgroup's tile; leaves where there is none. */
export const tileCorner = (
  tileM: number,
  tileN: number,
): string => `  let tiles_m = (sizes.M + ${tileM - 1}) / ${tileM};
  let tiles_n = (sizes.N + ${tileN - 1}) / ${tileN};
  let tile = group.x + group.y * groups.x;
  if (tile >= tiles_m * tiles_n) { return; }
  let band = tile / (${BAND} * tiles_n) * ${BAND};
  let within = tile - band * tiles_n;
  let band_rows = min(tiles_m - band, ${BAND});
  let row0 = (band + within % band_rows) * ${tileM};
  let col0 = within / band_rows * ${tileN};`;

/** `result(row, col, sum)`: bias, activation and the rest, then the store, of up to four columns; nothing beyond the edges. */
export const guardedFinish = ({ bias }: MatmulVariant): string => `fn result(row: u32, col: u32, sum: vec4f) {
  if (row >= sizes.M || col >= sizes.N) { return; }
  finish(row, col, sum${bias ? ' + biasAt(col)' : ''});
}
`;

/** Workgroups for a result of M × N. */
export const tileGrid =
  ({ tileM, tileN }: { readonly tileM: number; readonly tileN: number }) =>
  ({ M, N }: { readonly M: number; readonly N: number }): number =>
    Math.ceil(M / tileM) * Math.ceil(N / tileN);
