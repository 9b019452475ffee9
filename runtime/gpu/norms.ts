// LayerNorm and RMSNorm, forward and backward, as recordings. Which kernel runs depends on the width and on the device: loads of
// four where C allows it, few lanes a row on software drivers, whose barriers are slow.
import type { GpuDescription } from '../compute.ts';
import type { Slice } from './buffers.ts';
import type { Recorder } from './gpu.ts';
import type { TableUse } from './kernel-table.ts';
import { biasBackward, biasBackwardUse, use } from './ops.ts';

type Device = Pick<GpuDescription, 'isSoftware'>;

const lanesOf = (device: Device): number => (device.isSoftware ? 8 : 64);

const isWide = (C: number): boolean => C % 4 === 0;

/** Rows that one invocation sums for the gradients of the weights: enough of them for every core, few enough to add up. */
const spanOf = (M: number): number => Math.max(16, Math.ceil(M / 64));

const partsOf = (M: number): number => Math.ceil(M / spanOf(M));

/** Slices begin at multiples of 256 bytes. */
const partBytes = (M: number, C: number): number => Math.ceil((partsOf(M) * C * 4) / 256) * 256;

/** Bytes that `layernormBackward` and `rmsnormBackward` want as scratch. */
export const normScratchBytes = ({ M, C }: { M: number; C: number }): number => 2 * partBytes(M, C);

/** The kernels of layers C wide on this device. */
export const layernormUses = (device: Device, C: number, hasBias: boolean): TableUse[] => [
  use(isWide(C) ? 'layernorm-vec4' : 'layernorm', { BIAS: hasBias, LANES: lanesOf(device) }),
  ...[false, true].map((ADD) =>
    use(isWide(C) ? 'layernorm-backward-vec4' : 'layernorm-backward', { ADD, LANES: lanesOf(device) }),
  ),
  use('layernorm-backward-weights'),
  biasBackwardUse,
];

/** The kernels of layers C wide on this device. */
export const rmsnormUses = (device: Device, C: number): TableUse[] => [
  use(isWide(C) ? 'rmsnorm-vec4' : 'rmsnorm', { LANES: lanesOf(device) }),
  ...[false, true].map((ADD) =>
    use(isWide(C) ? 'rmsnorm-backward-vec4' : 'rmsnorm-backward', { ADD, LANES: lanesOf(device) }),
  ),
  use('rmsnorm-backward-weights'),
  biasBackwardUse,
];

/** y (M, C) and stats (M, 2), mean and 1 / √(variance + eps), of x (M, C), w (C), b (C) or none */
export function layernorm(
  recorder: Recorder,
  y: Slice,
  stats: Slice,
  x: Slice,
  w: Slice,
  b: Slice | null,
  sizes: { M: number; C: number; eps: number },
): void {
  const overrides = { BIAS: b !== null, LANES: lanesOf(recorder.description) };
  recorder.dispatch(
    isWide(sizes.C) ? 'layernorm-vec4' : 'layernorm',
    overrides,
    [y, stats, x, w, b ?? w],
    sizes,
    sizes.M,
  );
}

/** dx (M, C), set or added to; dw (C) and db (C) are added to. `scratch` has normScratchBytes. */
export function layernormBackward(
  recorder: Recorder,
  dx: Slice,
  parameters: { dw: Slice; db: Slice | null },
  dy: Slice,
  x: Slice,
  stats: Slice,
  w: Slice,
  sizes: { M: number; C: number },
  accumulateDx: boolean,
  scratch: Slice,
): void {
  const { M, C } = sizes;
  const bytes = partBytes(M, C);
  const dwParts = { ...scratch, bytes };
  const dbParts = { ...scratch, offset: scratch.offset + bytes, bytes };
  const span = spanOf(M);
  recorder.dispatch(
    'layernorm-backward-weights',
    {},
    [dwParts, dbParts, dy, x, stats],
    { M, C, span },
    partsOf(M) * Math.ceil(C / 64),
  );
  biasBackward(recorder, parameters.dw, dwParts, { M: partsOf(M), N: C });
  if (parameters.db !== null) biasBackward(recorder, parameters.db, dbParts, { M: partsOf(M), N: C });
  const overrides = { ADD: accumulateDx, LANES: lanesOf(recorder.description) };
  recorder.dispatch(
    isWide(C) ? 'layernorm-backward-vec4' : 'layernorm-backward',
    overrides,
    [dx, dy, x, stats, w],
    sizes,
    M,
  );
}

/** y (M, C) and stats (M), 1 / √(mean(x²) + eps), of x (M, C), w (C) */
export function rmsnorm(
  recorder: Recorder,
  y: Slice,
  stats: Slice,
  x: Slice,
  w: Slice,
  sizes: { M: number; C: number; eps: number },
): void {
  const overrides = { LANES: lanesOf(recorder.description) };
  recorder.dispatch(isWide(sizes.C) ? 'rmsnorm-vec4' : 'rmsnorm', overrides, [y, stats, x, w], sizes, sizes.M);
}

/** dx (M, C), set or added to; dw (C) is added to. `scratch` has normScratchBytes. */
export function rmsnormBackward(
  recorder: Recorder,
  dx: Slice,
  dw: Slice,
  dy: Slice,
  x: Slice,
  stats: Slice,
  w: Slice,
  sizes: { M: number; C: number },
  accumulateDx: boolean,
  scratch: Slice,
): void {
  const { M, C } = sizes;
  const parts = { ...scratch, bytes: partBytes(M, C) };
  recorder.dispatch(
    'rmsnorm-backward-weights',
    {},
    [parts, dy, x, stats],
    { M, C, span: spanOf(M) },
    partsOf(M) * Math.ceil(C / 64),
  );
  biasBackward(recorder, dw, parts, { M: partsOf(M), N: C });
  const overrides = { ADD: accumulateDx, LANES: lanesOf(recorder.description) };
  recorder.dispatch(
    isWide(C) ? 'rmsnorm-backward-vec4' : 'rmsnorm-backward',
    overrides,
    [dx, dy, x, stats, w],
    sizes,
    M,
  );
}
