// How good a worker's own model is on the held-out data that all workers have in common.
import type { Compute } from '../compute.ts';
import type { RunData } from '../train/client.ts';
import { elements, f32Of, i32Of } from '../tensor.ts';

export interface WorkerEvaluation {
  accuracy: number;
  /** Empty for text. */
  perClassAccuracy: number[];
  samples: number;
  heldOutLoss?: number;
  perplexity?: number;
}

const BATCH = 250;
const WINDOWS = 200;

/** Rows of labels in batches of 250; windows of text as large as those of training. */
export async function evaluateWorker(
  compute: Compute,
  handle: number,
  data: RunData,
  { evalRows, batch }: { evalRows?: number | undefined; batch: number },
): Promise<WorkerEvaluation> {
  const isText = data.kind === 'tokens';
  const rows = Math.min(data.test.rows, evalRows ?? (isText ? WINDOWS : Infinity));
  const right = new Array<number>(data.classes).fill(0);
  const total = new Array<number>(data.classes).fill(0);
  let [loss, correct, counted] = [0, 0, 0];
  const size = isText ? batch : BATCH;
  for (let start = 0; start < rows; start += size) {
    const list = Uint32Array.from({ length: Math.min(size, rows - start) }, (_, i) => start + i);
    const { x, y } = data.test.batch(list);
    if (isText) {
      const scale = 1 / Math.max(1, elements(y.shape));
      const found = await compute.loss(handle, x, y, { scale, train: false, accumulate: false });
      loss += found.loss / scale;
      correct += found.correct;
      counted += found.counted;
      continue;
    }
    const targets = i32Of(y);
    const logits = f32Of(await compute.forward(handle, 'evaluate', x, { keep: false })); // (B, classes)
    const width = logits.length / targets.length;
    targets.forEach((target, row) => {
      const own = logits.subarray(row * width, (row + 1) * width);
      total[target] = (total[target] ?? 0) + 1;
      if (own.indexOf(Math.max(...own)) === target) right[target] = (right[target] ?? 0) + 1;
    });
  }
  if (isText) {
    const heldOutLoss = loss / Math.max(1, counted);
    const perplexity = Math.exp(heldOutLoss);
    return { accuracy: correct / Math.max(1, counted), perClassAccuracy: [], samples: rows, heldOutLoss, perplexity };
  }
  const sum = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0);
  return {
    accuracy: sum(right) / Math.max(1, sum(total)),
    perClassAccuracy: right.map((hits, label) => hits / Math.max(1, total[label] ?? 0)),
    samples: rows,
  };
}
