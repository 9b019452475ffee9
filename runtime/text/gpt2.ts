// GPT-2's own vocabulary: 50,257 tokens from the npm package gpt-tokenizer (575 kB, loaded when asked for). The package has the tokens
// in the order of their ids; the merges that made them follow from it.
import { bpeTokenizer, mergeWord, pairKey, type Merges } from './bpe.ts';
import { BYTE_ALPHABET, charactersOf } from './byte-characters.ts';
import { addedToken, byteLevelJson } from './tokenizer-json.ts';
import type { Tokenizer } from './tokenizer.ts';

const END_OF_TEXT = '<|endoftext|>';

export async function gpt2Tokenizer(): Promise<Tokenizer> {
  const { default: ranks } = await import('gpt-tokenizer/bpeRanks/r50k_base');
  const utf8 = new TextEncoder();
  const tokens = ranks.map((token) => charactersOf(typeof token === 'string' ? utf8.encode(token) : token));
  const vocab = Object.fromEntries([...tokens, END_OF_TEXT].map((token, id) => [token, id]));
  return bpeTokenizer(byteLevelJson(vocab, mergesOfRanks(tokens), [addedToken(END_OF_TEXT, tokens.length)]), 'gpt2');
}

/** A token was made from the two parts that the merges before it leave of its bytes. */
function mergesOfRanks(tokens: readonly string[]): string[] {
  const idOf = new Map(tokens.map((token, id) => [token, id]));
  const merges: Merges = new Map();
  const lines: string[] = [];
  for (const [id, token] of tokens.entries()) {
    if (id < BYTE_ALPHABET.length) continue;
    const [left = 0, right = 0] = mergeWord(
      Array.from(token, (character) => idOf.get(character) ?? 0),
      merges,
    );
    merges.set(pairKey(left, right), { rank: id, id });
    lines.push(`${tokens[left] ?? ''} ${tokens[right] ?? ''}`);
  }
  return lines;
}
