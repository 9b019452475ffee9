// Trains a byte-level BPE vocabulary: 256 bytes, then the pair that occurs most often becomes a token, again and again. Of pairs that
// occur equally often the one with the lower ids wins, as in Hugging Face's trainer, so that equal text gives equal tokens everywhere.
import { MeshError } from '../errors.ts';
import { bpeTokenizer, pairKey } from './bpe.ts';
import { BYTE_ALPHABET, charactersOf } from './byte-characters.ts';
import { Heap } from './heap.ts';
import { gpt2Splitter } from './split.ts';
import { addedToken, byteLevelJson } from './tokenizer-json.ts';
import type { Tokenizer } from './tokenizer.ts';

export interface BpeTraining {
  /** Take the highest ids; recognised in text as a whole. */
  specialTokens?: readonly string[];
  onProgress?: (merges: number, of: number) => void;
  signal?: AbortSignal;
}

/** A pair that occurs once is no pattern. */
const MIN_COUNT = 2;
/** Work between two looks at the signal and turns of the event loop: a few tens of milliseconds. */
const MERGES_AT_ONCE = 50;
const WORDS_AT_ONCE = 50_000;

/** Throws `usage` for a size that 256 bytes and the special tokens do not fit in. May give fewer tokens where the text has no more. */
export async function trainBpe(
  texts: string | Iterable<string>,
  vocabularySize: number,
  options: BpeTraining = {},
): Promise<Tokenizer> {
  const { specialTokens = [], onProgress, signal } = options;
  const wanted = vocabularySize - BYTE_ALPHABET.length - specialTokens.length;
  if (!Number.isInteger(wanted) || wanted < 0)
    throw new MeshError(
      'usage',
      `A vocabulary of ${vocabularySize} tokens does not hold 256 bytes and ${specialTokens.length} special tokens.`,
      `Ask for at least ${BYTE_ALPHABET.length + specialTokens.length} tokens.`,
    );
  const pairs = new PairCounts(await countWords(typeof texts === 'string' ? [texts] : texts, signal));
  const tokens = [...BYTE_ALPHABET];
  const merges: string[] = [];
  while (merges.length < wanted) {
    const best = pairs.best();
    if (!best) break;
    const [left, right] = [tokens[best.left] ?? '', tokens[best.right] ?? ''];
    pairs.merge(best, tokens.length);
    tokens.push(left + right);
    merges.push(`${left} ${right}`);
    if (merges.length % MERGES_AT_ONCE === 0) {
      onProgress?.(merges.length, wanted);
      await turn(signal);
    }
  }
  onProgress?.(merges.length, merges.length);
  const added = specialTokens.map((content, i) => addedToken(content, tokens.length + i));
  const vocab = Object.fromEntries([...tokens, ...specialTokens].map((token, id) => [token, id]));
  return bpeTokenizer(byteLevelJson(vocab, merges, added), 'the trained tokenizer');
}

async function turn(signal: AbortSignal | undefined): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve));
  signal?.throwIfAborted();
}

async function countWords(texts: Iterable<string>, signal: AbortSignal | undefined): Promise<Map<string, number>> {
  const counts = new Map<string, number>();
  let seen = 0;
  for (const text of texts)
    for (const word of gpt2Splitter(text.toWellFormed())) {
      counts.set(word, (counts.get(word) ?? 0) + 1);
      seen += 1;
      if (seen % WORDS_AT_ONCE === 0) await turn(signal);
    }
  return counts;
}

interface Pair {
  left: number;
  right: number;
  count: number;
}

/** How often each pair of neighbours occurs, kept up to date where a merge changes it and nowhere else. */
class PairCounts {
  readonly #words: { tokens: number[]; count: number }[];
  readonly #counts = new Map<number, number>();
  /** Words that have, or once had, the pair. */
  readonly #places = new Map<number, Set<number>>();
  /** May hold counts that have since fallen; they are looked at again when they come out. */
  readonly #queue = new Heap<Pair>(
    (a, b) =>
      a.count > b.count || (a.count === b.count && (a.left < b.left || (a.left === b.left && a.right < b.right))),
  );

  constructor(words: ReadonlyMap<string, number>) {
    const idOf = new Map(BYTE_ALPHABET.map((character, id) => [character, id]));
    const utf8 = new TextEncoder();
    this.#words = [...words].map(([word, count]) => ({
      tokens: Array.from(charactersOf(utf8.encode(word)), (character) => idOf.get(character) ?? 0),
      count,
    }));
    for (const [place, word] of this.#words.entries())
      for (let i = 0; i + 1 < word.tokens.length; i += 1)
        this.#change(word.tokens[i] ?? 0, word.tokens[i + 1] ?? 0, word.count, place);
    for (const [key, count] of this.#counts) this.#enqueue(key, count);
  }

  best(): Pair | null {
    for (let pair = this.#queue.pop(); pair; pair = this.#queue.pop()) {
      const count = this.#counts.get(pairKey(pair.left, pair.right)) ?? 0;
      if (count < MIN_COUNT) continue;
      if (count === pair.count) return pair;
      this.#queue.push({ ...pair, count });
    }
    return null;
  }

  /** Every occurrence of the pair, from the left, becomes `id`. */
  merge({ left, right }: Pair, id: number): void {
    const touched = new Set<number>();
    const places = this.#places.get(pairKey(left, right)) ?? new Set<number>();
    for (const place of places) {
      const word = this.#words[place];
      if (!word) continue;
      const { tokens, count } = word;
      const merged: number[] = [];
      for (let i = 0; i < tokens.length; i += 1) {
        const token = tokens[i] ?? 0;
        const isPair = token === left && tokens[i + 1] === right;
        merged.push(isPair ? id : token);
        if (isPair) i += 1;
      }
      if (merged.length === tokens.length) continue;
      for (let i = 0; i + 1 < tokens.length; i += 1) this.#change(tokens[i] ?? 0, tokens[i + 1] ?? 0, -count, place);
      for (let i = 0; i + 1 < merged.length; i += 1) {
        const key = this.#change(merged[i] ?? 0, merged[i + 1] ?? 0, count, place);
        if (merged[i] === id || merged[i + 1] === id) touched.add(key);
      }
      word.tokens = merged;
    }
    this.#places.delete(pairKey(left, right));
    // Only pairs with the new token can occur more often than before.
    for (const key of touched) this.#enqueue(key, this.#counts.get(key) ?? 0);
  }

  #change(left: number, right: number, by: number, place: number): number {
    const key = pairKey(left, right);
    this.#counts.set(key, (this.#counts.get(key) ?? 0) + by);
    if (by > 0) {
      const places = this.#places.get(key);
      if (places) places.add(place);
      else this.#places.set(key, new Set([place]));
    }
    return key;
  }

  #enqueue(key: number, count: number): void {
    const right = key % pairKey(1, 0);
    this.#queue.push({ left: (key - right) / pairKey(1, 0), right, count });
  }
}
