// Cross-entropy over windows of a vocabulary on the real device against loops in double precision: any width, any split. The
// gradient against finite differences. Tolerances are relative to the norm of losses of at least 1, and to the scale of gradients.
import assert from 'node:assert/strict';
import test from 'node:test';
import {
  crossEntropyBackward,
  crossEntropyLoss,
  crossEntropyStats,
  vocabularyUses,
} from '../../runtime/gpu/vocabulary.ts';
import * as reference from '../reference/kernels.ts';
import { gradientOf, noise } from '../reference/kernels.ts';
import { bitsOf, close, gpuWith, run, zeros } from './transformer-support.ts';

const gpu = await gpuWith(() => vocabularyUses);

type Floats = Float32Array<ArrayBuffer>;

/** Columns [first, first + W) of logits (M, V). */
const windowOf = (logits: Floats, M: number, V: number, first: number, W: number): Floats =>
  Float32Array.from({ length: M * W }, (_, i) => logits[Math.floor(i / W) * V + first + (i % W)] ?? NaN);

/** loss, correct, and the gradient (M, V) put together again. */
async function crossEntropy(
  logits: Floats,
  targets: Int32Array<ArrayBuffer>,
  M: number,
  widths: readonly number[],
  scale: number,
): Promise<{ loss: Float32Array | undefined; correct: number[]; dlogits: Float32Array }> {
  const V = widths.reduce((sum, W) => sum + W, 0);
  const firsts = widths.map((_, i) => widths.slice(0, i).reduce((sum, W) => sum + W, 0));
  const windows = widths.map((W, i) => windowOf(logits, M, V, firsts[i] ?? 0, W));
  const read = await run(
    gpu,
    [zeros(M), zeros(M), ...windows, noise(M * 4, 1), targets],
    2 + widths.length,
    (r, loss, correct, ...rest) => {
      const [stats, goals] = rest.slice(-2);
      if (stats === undefined || goals === undefined) return;
      widths.forEach((W, i) => {
        const window = rest[i];
        if (window) crossEntropyStats(r, stats, window, goals, { M, W, first: firsts[i] ?? 0, isFirst: i === 0 });
      });
      crossEntropyLoss(r, loss, correct, stats, goals, { M });
      widths.forEach((W, i) => {
        const window = rest[i];
        if (window) crossEntropyBackward(r, window, stats, goals, { M, W, first: firsts[i] ?? 0, scale });
      });
    },
  );
  const dlogits = zeros(M * V);
  widths.forEach((W, i) => {
    for (let m = 0; m < M; m++) dlogits.set(read[2 + i]?.slice(m * W, (m + 1) * W) ?? [], m * V + (firsts[i] ?? 0));
  });
  return { loss: read[0], correct: bitsOf(read[1]), dlogits };
}

const CASES: { M: number; widths: number[] }[] = [
  { M: 1, widths: [1] },
  { M: 5, widths: [1, 1] },
  { M: 7, widths: [2, 1, 3] },
  { M: 6, widths: [3] },
  { M: 1, widths: [10] },
  { M: 3, widths: [4, 8] },
  { M: 4, widths: [127, 129] },
  { M: 3, widths: [511, 513, 2] },
  { M: 2, widths: [2047] },
  { M: 3, widths: [4099, 2] },
  { M: 65, widths: [30] },
];

test('losses, hits and gradients of any split (1e-6, exact, 1e-5)', async () => {
  for (const { M, widths } of CASES) {
    const V = widths.reduce((sum, W) => sum + W, 0);
    const label = `${M} × ${widths.join(' + ')}`;
    const logits = noise(M * V, 2, 3);
    if (V > 2) logits[0] = logits[V - 1] = logits[Math.floor(V / 2)] = 40; // equal maxima: the first wins, across windows too
    const targets = Int32Array.from({ length: M }, (_, m) => (m === 0 ? 0 : m % 5 === 1 ? -100 : (m * 7919) % V));
    const scale = 1 / M;
    const { loss, correct, dlogits } = await crossEntropy(logits, targets, M, widths, scale);
    const losses = reference.crossEntropy(logits, targets, M, V);
    // A loss near 0 is the logarithm of a number near 1, which f32 rounds.
    const scaleOfLoss = losses.map((value) => Math.max(value, 1));
    close(loss, losses, 1e-6, `loss ${label}`, scaleOfLoss);
    assert.deepEqual(correct, reference.correctRows(logits, targets, M, V), label);
    const exact = (x: Float64Array): number =>
      scale * reference.crossEntropy(x, targets, M, V).reduce((sum, row) => sum + row, 0);
    if (M * V <= 300)
      close(dlogits, gradientOf(exact, logits), 1e-5, `dlogits ${label}`, zeros(M * V).fill(scale / Math.sqrt(V)));
    const wanted = new Float64Array(M * V);
    targets.forEach((target, m) => {
      if (target < 0) return;
      const row = logits.subarray(m * V, (m + 1) * V);
      const largest = Math.max(...row);
      const sum = row.reduce((total, value) => total + Math.exp(value - largest), 0);
      row.forEach((value, v) => {
        wanted[m * V + v] = scale * (Math.exp(value - largest) / sum - (v === target ? 1 : 0));
      });
    });
    close(dlogits, wanted, 2e-6, `dlogits ${label}`, zeros(M * V).fill(scale / Math.sqrt(V)));
  }
});

test('the last of many equal logits is not the first', async () => {
  const V = 1001;
  const { correct } = await crossEntropy(zeros(3 * V).fill(1), Int32Array.of(0, 1, V - 1), 3, [500, 501], 1);
  assert.deepEqual(correct, [1, 0, 0]);
});

test('stable at logits of ±1e4, and where a window is far below another', async () => {
  const logits = Float32Array.from([1e4, -1e4, 0, -1e4, -1e4, -1e4, 0, 1e4, -1e4]);
  const { loss, dlogits } = await crossEntropy(logits, Int32Array.of(0, 2, 0), 3, [1, 2], 1);
  assert.equal(loss?.[0], 0);
  assert.ok(Math.abs((loss?.[1] ?? 0) - Math.log(3)) < 1e-6);
  assert.equal(loss?.[2], 1e4);
  assert.ok(dlogits.every(Number.isFinite));
});

test.after(() => gpu.destroy());
