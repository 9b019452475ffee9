// Linear maps inside a transformer's block, dropout sites, and shorthands that gpt2.ts and llama.ts share.
import type { Slice } from '../gpu/buffers.ts';
import { matmulNn, matmulNt, matmulTn, type MatmulExtras, type MatmulNeed } from '../gpu/matmul.ts';
import { biasBackward } from '../gpu/ops.ts';
import type { Pass } from './pass.ts';

/** A linear layer `<name>.weight` (out, in), and `<name>.bias` (out) where it has one. */
export interface Projection {
  name: string;
  inFeatures: number;
  outFeatures: number;
  hasBias: boolean;
}

/** y (rows, out) of x (rows, in), into `y` or a buffer of its own. */
export function project(
  pass: Pass,
  to: Projection,
  x: Slice,
  rows: number,
  extras: MatmulExtras = {},
  y: Slice = pass.take(rows * to.outFeatures * 4),
): Slice {
  const { slice, format } = pass.matrix(`${to.name}.weight`);
  const bias = to.hasBias ? pass.weight(`${to.name}.bias`) : null;
  const shape = { M: rows, N: to.outFeatures, K: to.inFeatures };
  matmulNt(pass.recorder, y, x, slice, bias, shape, { ...extras, weights: format });
  return y;
}

/** Adds to the gradients of the layer; dx (rows, in) is written, or added to. */
export function projectBackward(
  pass: Pass,
  to: Projection,
  dx: Slice,
  dy: Slice,
  x: Slice,
  rows: number,
  accumulate = false,
): void {
  const { inFeatures, outFeatures } = to;
  matmulTn(pass.recorder, pass.gradient(`${to.name}.weight`), dy, x, { M: outFeatures, N: inFeatures, K: rows });
  if (to.hasBias) biasBackward(pass.recorder, pass.gradient(`${to.name}.bias`), dy, { M: rows, N: outFeatures });
  const { slice, format } = pass.matrix(`${to.name}.weight`);
  const shape = { M: rows, N: inFeatures, K: outFeatures };
  matmulNn(pass.recorder, dx, dy, slice, shape, { accumulate, weights: format });
}

/** The products of a projection, forward (with these extras) and backward, for warming. */
export const needsOf = (to: Projection, extras: Partial<MatmulNeed> = {}, accumulate = false): MatmulNeed[] => [
  { product: 'nt', N: to.outFeatures, K: to.inFeatures, bias: to.hasBias, ...extras },
  { product: 'nn', N: to.inFeatures, K: to.outFeatures, accumulate },
  { product: 'tn', M: to.outFeatures, N: to.inFeatures },
];

/** A place where activations are dropped: its probability, and a mask of its own for each microbatch. Null: nothing is dropped. */
export function dropoutAt(pass: Pass, p: number, site: number): { p: number; seed: number } | null {
  if (pass.dropout === null || p === 0) return null;
  return { p, seed: mixed(pass.dropout, site) };
}

/** Sites of a block, so that no two in a model share masks. 0 is the embedding. */
export const siteOf = (block: number, place: 0 | 1 | 2): number => 1 + block * 3 + place;

/** The finaliser of MurmurHash3 over seed and site. */
function mixed(seed: number, site: number): number {
  let h = (seed ^ Math.imul(site + 1, 0x9e3779b9)) >>> 0;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}
