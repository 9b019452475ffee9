// A language model's data in memory: a long row of tokens, and the windows of it that are trained on and tested on. A row of the data
// is a window, named by the place of its first token. Knows no files and no random numbers: the order comes in as functions.
import { MeshError } from '../errors.ts';
import { i32Tensor, type Tensor } from '../tensor.ts';

export interface TokenData {
  readonly tokens: Uint16Array<ArrayBuffer> | Int32Array<ArrayBuffer>;
  readonly vocabularySize: number;
}

/** x (B, T) i32, and y (B, T) i32: at each place the token that follows. */
export interface TokenBatch {
  x: Tensor;
  y: Tensor;
}

/** Draws that depend on the epoch and on a seed which the caller keeps, and on nothing else. */
export interface Draws {
  /** A permutation of 0 to rows − 1. */
  order(rows: number, epoch: number): Uint32Array;
  /** A number from 0 to bound − 1. */
  below(bound: number, epoch: number): number;
}

export interface TextRows {
  rows: number;
  batch(rows: Uint32Array): TokenBatch;
}

/** What a run needs of its data: `RunData` of runtime/train, over tokens. */
export interface TextRunData {
  train: TextRows & { order(epoch: number): Uint32Array };
  test: TextRows;
  /** The size of the vocabulary. */
  classes: number;
}

/** Two bytes a token where the vocabulary allows it. */
export function tokenData(ids: Int32Array<ArrayBuffer>, vocabularySize: number): TokenData {
  return { tokens: vocabularySize <= 2 ** 16 ? Uint16Array.from(ids) : ids, vocabularySize };
}

/** Throws `bad-file` where the training or the held-out tokens are fewer than one window of `contextLength` + 1. */
export function textRunData(
  parts: { train: TokenData; heldOut: TokenData },
  contextLength: number,
  draws: Draws,
): TextRunData {
  const { train, heldOut } = parts;
  return {
    train: trainingRows(train, contextLength, draws),
    test: heldOutRows(heldOut, contextLength),
    classes: train.vocabularySize,
  };
}

/**
 * Windows side by side, from an offset that each epoch draws, in an order that each epoch draws; the number of rows is the same in
 * every epoch. A row is the place of the window's first token.
 */
export function trainingRows(
  data: TokenData,
  contextLength: number,
  draws: Draws,
): TextRows & { order(epoch: number): Uint32Array } {
  const count = checkLength(data, contextLength, 'The training text');
  // One window fewer than would fit, where that leaves room for an offset of any size.
  const rows = Math.max(1, Math.floor((count - contextLength) / contextLength));
  const offsets = Math.min(contextLength, count - rows * contextLength);
  return {
    rows,
    batch: (starts) => windows(data, contextLength, starts),
    order(epoch) {
      const offset = draws.below(offsets, epoch);
      return Uint32Array.from(draws.order(rows, epoch), (window) => offset + window * contextLength);
    },
  };
}

/** Windows side by side from the first token on; a row is the number of the window. Tokens that fill no window are left out. */
export function heldOutRows(data: TokenData, contextLength: number): TextRows {
  const count = checkLength(data, contextLength, 'The held-out text');
  const rows = Math.floor((count - 1) / contextLength);
  return {
    rows,
    batch: (numbers) =>
      windows(
        data,
        contextLength,
        Uint32Array.from(numbers, (number) => {
          if (number >= rows) throw beyond(number, rows);
          return number * contextLength;
        }),
      ),
  };
}

/** The windows that begin at `starts`, each of `contextLength` + 1 tokens. Throws `usage` where one reaches beyond the tokens. */
export function windows({ tokens }: TokenData, contextLength: number, starts: Uint32Array): TokenBatch {
  const x = new Int32Array(starts.length * contextLength); // (B, T)
  const y = new Int32Array(starts.length * contextLength); // (B, T)
  for (const [row, start] of starts.entries()) {
    if (start + contextLength >= tokens.length) throw beyond(start, tokens.length - contextLength);
    x.set(tokens.subarray(start, start + contextLength), row * contextLength);
    y.set(tokens.subarray(start + 1, start + 1 + contextLength), row * contextLength);
  }
  const shape = [starts.length, contextLength];
  return { x: i32Tensor(shape, x), y: i32Tensor(shape, y) };
}

function checkLength({ tokens }: TokenData, contextLength: number, what: string): number {
  if (!Number.isInteger(contextLength) || contextLength < 1)
    throw new MeshError(
      'usage',
      `A context of ${contextLength} tokens is none.`,
      'Give a contextLength of at least 1.',
    );
  if (tokens.length > contextLength) return tokens.length;
  throw new MeshError(
    'bad-file',
    `${what} has ${tokens.length} tokens, fewer than the ${contextLength + 1} of one window.`,
    'Give a longer text, hold out another share of it, or lower contextLength.',
  );
}

const beyond = (row: number, rows: number): MeshError =>
  new MeshError('usage', `The data ends before row ${rows}; row ${row} was asked for.`, 'Ask for a row it has.');
