// Where a language model begins: a row of the table for each token, plus GPT-2's learned positions. The table may be larger than
// one binding can hold: then it is read in windows of rows.
import { MeshError } from '../errors.ts';
import type { Slice } from '../gpu/buffers.ts';
import { dropoutInPlace, dropoutUses } from '../gpu/elementwise.ts';
import { embed, embedBackward, embedPlan, embedPositions, embeddingUses, positionsBackward } from '../gpu/embedding.ts';
import type { LanguageSpec } from '../model-spec.ts';
import { dimensionsOf, embeddingName, POSITIONS } from './language-spec.ts';
import type { Layer, Pass } from './pass.ts';
import { dropoutAt } from './projection.ts';

export interface Window {
  /** First row, and how many. */
  first: number;
  count: number;
  slice: Slice;
}

/** Rows of a window start where a binding may start, in 16 bits too. */
export const WINDOW_ROWS = 128;

/** A binding's length is a multiple of 4, also where an odd number of halves ends. */
export const wholeWords = (bytes: number): number => Math.ceil(bytes / 4) * 4;

/**
 * A (rows, width) tensor, `bytes` an element, in as few windows as bindings of f32 allow, all but the last of equal length: the
 * same rows in every format, so that a window of weights in 16 bits has one of gradients.
 */
export function windowsOf(whole: Slice, rows: number, width: number, maxBinding: number, bytes = 4): Window[] {
  const rowBytes = width * bytes;
  const most = Math.floor(maxBinding / (width * 4) / WINDOW_ROWS) * WINDOW_ROWS;
  if (most === 0)
    throw new MeshError(
      'out-of-memory',
      `${WINDOW_ROWS} rows of ${width} values exceed what this GPU binds at once (${maxBinding} bytes).`,
      'Make the model narrower, or host the stage on a GPU with higher limits.',
    );
  const windows = Math.ceil(rows / most);
  const each = Math.ceil(rows / windows / WINDOW_ROWS) * WINDOW_ROWS;
  return Array.from({ length: windows }, (_, i) => {
    const first = i * each;
    const count = Math.min(each, rows - first);
    return {
      first,
      count,
      slice: { buffer: whole.buffer, offset: whole.offset + first * rowBytes, bytes: wholeWords(count * rowBytes) },
    };
  });
}

export function embeddingLayer(model: LanguageSpec): Layer {
  const { V, C, maxTokens } = dimensionsOf(model);
  const name = embeddingName(model);
  const hasPositions = model.family === 'gpt2';
  const pdrop = model.family === 'gpt2' ? model.embd_pdrop : 0;
  const windows = (pass: Pass, whole: Slice): Window[] => windowsOf(whole, V, C, pass.maxBinding);
  return {
    parameters: [{ name, shape: [V, C] }, ...(hasPositions ? [{ name: POSITIONS, shape: [maxTokens, C] }] : [])],
    uses: [...embeddingUses, ...(pdrop > 0 ? dropoutUses : [])],

    forward(pass, ids, rows, keep) {
      const y = pass.take(rows * C * 4); // (rows, C)
      for (const { first, count, slice } of windows(pass, pass.weight(name)))
        embed(pass.recorder, y, ids, slice, { rows, C, first, count });
      if (hasPositions) embedPositions(pass.recorder, y, pass.weight(POSITIONS), { rows, T: pass.T, C });
      const drop = dropoutAt(pass, pdrop, 0);
      if (drop !== null) dropoutInPlace(pass.recorder, y, { count: rows * C, ...drop });
      // The rows of each token, in order, so that the gradient of a token's row is summed by one invocation.
      const saved = keep && pass.tokens !== null ? [uploaded(pass, embedPlan(pass.tokens))] : [];
      pass.give(ids);
      return { y, saved };
    },

    backward(pass, saved, dy, rows) {
      const [plan] = saved;
      if (plan === undefined) throw new Error('the embedding lost its tokens');
      const drop = dropoutAt(pass, pdrop, 0);
      if (drop !== null) dropoutInPlace(pass.recorder, dy, { count: rows * C, ...drop });
      for (const { first, count, slice } of windows(pass, pass.gradient(name)))
        embedBackward(pass.recorder, slice, plan, dy, { rows, C, first, count });
      if (hasPositions) positionsBackward(pass.recorder, pass.gradient(POSITIONS), dy, { rows, T: pass.T, C });
      pass.give(plan);
      pass.give(dy);
      return null;
    },
  };
}

function uploaded(pass: Pass, values: Int32Array<ArrayBuffer>): Slice {
  const slice = pass.take(values.byteLength);
  pass.recorder.write(slice, new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
  return slice;
}
