// Token and position embeddings, forward and backward, as recordings. A table of tokens may come in windows of its rows,
// [first, first + count), because one binding may be smaller than the table.
import type { Slice } from './buffers.ts';
import type { Recorder } from './gpu.ts';
import type { TableUse } from './kernel-table.ts';
import { use } from './ops.ts';

export interface EmbedWindow {
  rows: number;
  C: number;
  /** The window's first row of the table, and how many it has. */
  first: number;
  count: number;
}

export const embeddingUses: readonly TableUse[] = [
  use('embed', { ADD: false }),
  use('embed', { ADD: true }),
  use('embed-backward'),
  use('embed-positions'),
  use('positions-backward'),
];

/** y[i] (rows, C) = [y[i] +] w[ids[i] - first] where ids[i] (i32) lies in the window; other rows are left alone. */
export function embed(
  recorder: Recorder,
  y: Slice,
  ids: Slice,
  w: Slice,
  { rows, C, first, count, accumulate = false }: EmbedWindow & { accumulate?: boolean },
): void {
  recorder.dispatch('embed', { ADD: accumulate }, [y, ids, w], { rows, C, first, count }, rows);
}

/** y[i] (rows, C) += w[start + i mod T], w (start + T or more, C) */
export function embedPositions(
  recorder: Recorder,
  y: Slice,
  w: Slice,
  { rows, T, C, start = 0 }: { rows: number; T: number; C: number; start?: number },
): void {
  recorder.dispatch('embed-positions', {}, [y, w], { rows, T, C, start }, rows);
}

/** What `embedBackward` reads instead of the ids: (rows, 2), an id and its row, ordered by id and then by row. */
export function embedPlan(ids: Int32Array): Int32Array<ArrayBuffer> {
  const rows = ids.length;
  const plan = new Int32Array(rows * 2);
  // Id and row in one number, exact below 2⁵³: numbers are sorted faster than by a comparison of ours.
  const keys = new Float64Array(rows);
  for (let row = 0; row < rows; row++) keys[row] = (ids[row] ?? 0) * rows + row;
  keys.sort();
  for (let i = 0; i < rows; i++) {
    const key = keys[i] ?? 0;
    const id = Math.floor(key / rows);
    plan[i * 2] = id;
    plan[i * 2 + 1] = key - id * rows;
  }
  return plan;
}

/** dw[v - first] (count, C) += Σ dy[i] (rows, C) over the rows of id v in the window; `plan` is embedPlan of the ids. */
export function embedBackward(
  recorder: Recorder,
  dw: Slice,
  plan: Slice,
  dy: Slice,
  { rows, C, first, count }: EmbedWindow,
): void {
  recorder.dispatch('embed-backward', {}, [dw, plan, dy], { rows, C, first, count }, rows);
}

/** dw[t] (T or more, C) += Σ dy[i] (rows, C) over the rows with i mod T = t */
export function positionsBackward(
  recorder: Recorder,
  dw: Slice,
  dy: Slice,
  { rows, T, C }: { rows: number; T: number; C: number },
): void {
  recorder.dispatch('positions-backward', {}, [dw, dy], { rows, T, C }, T);
}
