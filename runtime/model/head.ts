// Where a model ends: logits, or the loss and its gradient. A language model's vocabulary comes in windows, and its logits are
// never all in memory where they would be too large: rows are taken a few at a time.
import type { Slice } from '../gpu/buffers.ts';
import type { KernelUse } from '../gpu/kernel-table.ts';
import { matmulNn, matmulNt, matmulTn, type MatmulNeed, type WeightFormat } from '../gpu/matmul.ts';
import { crossEntropy, crossEntropyUse } from '../gpu/ops.ts';
import { crossEntropyBackward, crossEntropyLoss, crossEntropyStats, vocabularyUses } from '../gpu/vocabulary.ts';
import type { LanguageSpec } from '../model-spec.ts';
import { WINDOW_ROWS, wholeWords, windowsOf, type Window } from './embedding.ts';
import { dimensionsOf, headName } from './language-spec.ts';
import type { Pass } from './pass.ts';

export interface Losses {
  /** (rows) each: the loss, and 1 where the largest logit is the target. */
  loss: Slice;
  correct: Slice;
  /** Gradient of `scale` times the sum of the losses with respect to h, (rows, width); null where not wanted. */
  dh: Slice | null;
}

export interface Head {
  readonly uses: readonly KernelUse[];
  readonly needs: readonly MatmulNeed[];
  /** Logits (rows, V) of h (rows, width). h is the head's, to give. */
  logits(pass: Pass, h: Slice, rows: number): Slice;
  /** targets (rows) i32. Adds to the gradients of the head's weights where `train`. h is the head's, to give. */
  loss(pass: Pass, h: Slice, targets: Slice, rows: number, options: { scale: number; train: boolean }): Losses;
}

/** The last layer gives the logits already. */
export function classHead(V: number): Head {
  return {
    uses: [crossEntropyUse],
    needs: [],
    logits: (_pass, h) => h,
    loss(pass, h, targets, rows, { scale, train }) {
      const dlogits = pass.take(rows * V * 4);
      const outputs = { dlogits, loss: pass.take(rows * 4), correct: pass.take(rows * 4) };
      crossEntropy(pass.recorder, outputs, h, targets, { M: rows, V, scale });
      pass.give(h);
      return { loss: outputs.loss, correct: outputs.correct, dh: train ? dlogits : null };
    },
  };
}

/** Bytes of logits in memory at once. */
const LOGITS_BYTES = 128 * 2 ** 20;
/** Rows of a piece begin where a binding may begin. */
const PIECE_ROWS = 64;

export function vocabularyHead(model: LanguageSpec): Head {
  const { V, C } = dimensionsOf(model);
  const name = headName(model);

  /** Windows of whole 128s, and a ragged rest of its own: products are quickest where their sizes divide by four. */
  const even = V % 4 === 0 || V < 1024 ? V : Math.floor(V / WINDOW_ROWS) * WINDOW_ROWS;
  const windows = (pass: Pass, whole: Slice, bytes = 4): Window[] => {
    const list = windowsOf(whole, even, C, pass.maxBinding, bytes);
    const start = even * C * bytes;
    const rest = { ...whole, offset: whole.offset + start, bytes: wholeWords((V - even) * C * bytes) };
    if (even < V) list.push({ first: even, count: V - even, slice: rest });
    return list;
  };
  const weightsOf = (pass: Pass): { list: Window[]; format: WeightFormat } => {
    const { slice, format } = pass.matrix(name);
    return { list: windows(pass, slice, format === 'f32' ? 4 : 2), format };
  };
  /** Rows of logits that fit. */
  const pieceOf = (bytes: number): number =>
    Math.max(PIECE_ROWS, Math.floor(bytes / (V * 4) / PIECE_ROWS) * PIECE_ROWS);
  const rowsOf = (whole: Slice, first: number, count: number, width: number): Slice => ({
    buffer: whole.buffer,
    offset: whole.offset + first * width * 4,
    bytes: count * width * 4,
  });

  return {
    uses: vocabularyUses,
    needs: [even, V - even].flatMap((W): MatmulNeed[] =>
      W === 0
        ? []
        : [
            { product: 'nt', N: W, K: C },
            { product: 'nt', N: W, K: C, outStride: V },
            { product: 'nn', N: C, K: W },
            { product: 'nn', N: C, K: W, accumulate: true },
            { product: 'tn', M: W, N: C },
          ],
    ),

    logits(pass, h, rows) {
      const y = pass.take(rows * V * 4, true); // (rows, V)
      const { list, format } = weightsOf(pass);
      const piece = pieceOf(pass.maxBinding);
      for (let row = 0; row < rows; row += piece) {
        const M = Math.min(piece, rows - row);
        const hPart = rowsOf(h, row, M, C);
        const yPart = rowsOf(y, row, M, V);
        for (const { first, count, slice } of list) {
          const part = { ...yPart, offset: yPart.offset + first * 4, bytes: yPart.bytes - first * 4 };
          const shape = { M, N: count, K: C };
          matmulNt(pass.recorder, part, hPart, slice, null, shape, { outStride: V, weights: format });
        }
      }
      pass.give(h);
      return y;
    },

    loss(pass, h, targets, rows, { scale, train }) {
      const loss = pass.take(rows * 4);
      const correct = pass.take(rows * 4);
      const dh = train ? pass.take(rows * C * 4) : null; // (rows, C)
      const { list: weights, format } = weightsOf(pass);
      const gradients = train ? windows(pass, pass.gradient(name)) : [];
      const piece = pieceOf(Math.min(LOGITS_BYTES, pass.maxBinding));
      for (let first = 0; first < rows; first += piece) {
        const M = Math.min(piece, rows - first);
        const hPart = rowsOf(h, first, M, C);
        const goal = rowsOf(targets, first, M, 1);
        const stats = pass.take(M * 16); // (M, 4)
        const logits = weights.map(({ first: v, count: W, slice }, i) => {
          const part = pass.take(M * W * 4); // (M, W)
          matmulNt(pass.recorder, part, hPart, slice, null, { M, N: W, K: C }, { weights: format });
          crossEntropyStats(pass.recorder, stats, part, goal, { M, W, first: v, isFirst: i === 0 });
          if (!train) pass.give(part);
          return part;
        });
        crossEntropyLoss(pass.recorder, rowsOf(loss, first, M, 1), rowsOf(correct, first, M, 1), stats, goal, { M });
        if (dh !== null)
          weights.forEach(({ first: v, count: W, slice }, i) => {
            const part = logits[i];
            const gradient = gradients[i];
            if (part === undefined || gradient === undefined) return;
            crossEntropyBackward(pass.recorder, part, stats, goal, { M, W, first: v, scale });
            matmulTn(pass.recorder, gradient.slice, part, hPart, { M: W, N: C, K: M });
            const dhPart = rowsOf(dh, first, M, C);
            matmulNn(pass.recorder, dhPart, part, slice, { M, N: C, K: W }, { accumulate: i > 0, weights: format });
            pass.give(part);
          });
        pass.give(stats);
      }
      pass.give(h);
      return { loss, correct, dh };
    },
  };
}
