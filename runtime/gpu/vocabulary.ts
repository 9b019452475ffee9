// Cross-entropy over a vocabulary that comes in windows of its classes, as recordings: the logits (M, W) of one window lie at a
// time, row after row, and what is known of each row is kept in stats (M, 4). Target -100 is ignored.
import type { Slice } from './buffers.ts';
import type { Recorder } from './gpu.ts';
import type { TableUse } from './kernel-table.ts';
import { fours, use, workgroups } from './ops.ts';

export const vocabularyUses: readonly TableUse[] = [
  use('cross-entropy-stats'),
  use('cross-entropy-loss'),
  use('cross-entropy-backward'),
];

/** Fours of logits that one workgroup turns into gradients. */
const BLOCK = 512;

/** stats (M, 4) f32: largest logit, sum of exp(logit - largest), target's logit, class of the first largest; the first window starts it. */
export function crossEntropyStats(
  recorder: Recorder,
  stats: Slice,
  logits: Slice,
  targets: Slice,
  { M, W, first, isFirst }: { M: number; W: number; first: number; isFirst: boolean },
): void {
  const sizes = { M, W, first, isFirst: isFirst ? 1 : 0 };
  recorder.dispatch('cross-entropy-stats', {}, [stats, fours(logits), targets], sizes, M);
}

/** loss (M) f32 and correct (M) u32 of stats that have seen all windows, targets (M) i32 */
export function crossEntropyLoss(
  recorder: Recorder,
  loss: Slice,
  correct: Slice,
  stats: Slice,
  targets: Slice,
  { M }: { M: number },
): void {
  const slices = [loss, correct, stats, targets];
  recorder.dispatch('cross-entropy-loss', {}, slices, { M }, workgroups('cross-entropy-loss', M));
}

/** logits (M, W) of one window become the gradient of scale · Σ loss. */
export function crossEntropyBackward(
  recorder: Recorder,
  logits: Slice,
  stats: Slice,
  targets: Slice,
  { M, W, first, scale }: { M: number; W: number; first: number; scale: number },
): void {
  const blocks = Math.ceil(W / 4 / BLOCK);
  recorder.dispatch(
    'cross-entropy-backward',
    {},
    [fours(logits), stats, targets],
    { M, W, first, blocks, scale },
    M * blocks,
  );
}
