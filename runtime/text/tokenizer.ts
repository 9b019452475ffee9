// What every tokenizer is. The kinds are in files of their own; none of them reads files.
import { MeshError } from '../errors.ts';
import type { TokenizerJson } from './tokenizer-json.ts';

export interface Tokenizer {
  /** Ids are below it. */
  readonly vocabularySize: number;
  /** Lone surrogates count as U+FFFD. Throws `usage` for a character that the vocabulary lacks. */
  encode(text: string): Int32Array<ArrayBuffer>;
  /** Bytes that are no UTF-8 become U+FFFD. Throws `usage` for an id outside the vocabulary. */
  decode(ids: Iterable<number>): string;
  /** `decode` for ids that come one by one. */
  stream(): TextStream;
  /** The token that ends a document, or null. */
  readonly endOfText: number | null;
  /** What is written as `tokenizer.json`. */
  toJson(): TokenizerJson;
}

const END_OF_TEXT = ['<|endoftext|>', '<|end_of_text|>', '</s>'];

/** The id of the first customary name that there is. */
export function endOfTextOf(idOf: (content: string) => number | undefined): number | null {
  for (const name of END_OF_TEXT) {
    const id = idOf(name);
    if (id !== undefined) return id;
  }
  return null;
}

/** Text of a generation as it grows: a character comes out once all its bytes are there. */
export interface TextStream {
  /** Throws `usage` for an id outside the vocabulary. */
  push(id: number): string;
  /** What is still held back: unfinished characters, as U+FFFD. */
  end(): string;
}

export const unknownToken = (id: number, size: number): MeshError =>
  new MeshError(
    'usage',
    `Token ${id} is not in the vocabulary, which has ${size} tokens.`,
    'Use the tokenizer that the model was trained with.',
  );

export const unknownCharacter = (what: string): MeshError =>
  new MeshError(
    'usage',
    `The tokenizer has no token for ${what}.`,
    'Leave that character out, or use a tokenizer that was made from text with it.',
  );
