// Byte-level BPE (Sennrich et al. 2016, over bytes as in GPT-2): a word's bytes are tokens, and the pair of neighbours that was
// learned first is joined, again and again. Reads the document of a tokenizer.json; training is in bpe-train.ts.
import { bytesOf, charactersOf } from './byte-characters.ts';
import { Heap } from './heap.ts';
import { splitterOf } from './split.ts';
import {
  checkCommon,
  mergesOf,
  notTokenizer,
  refuse,
  stepsOf,
  vocabularyOf,
  type TokenizerJson,
} from './tokenizer-json.ts';
import { endOfTextOf, unknownCharacter, unknownToken, type TextStream, type Tokenizer } from './tokenizer.ts';

/** Ids stay below this, so that two of them fit one exact number. */
const PAIR = 2 ** 21;
export const pairKey = (left: number, right: number): number => left * PAIR + right;

/** Words whose tokens are remembered; then the memory begins anew. */
const MAX_REMEMBERED = 100_000;
const MAX_REMEMBERED_LENGTH = 64;

/** What joins two neighbours: the lower rank goes first. */
interface Merge {
  rank: number;
  id: number;
}
export type Merges = Map<number, Merge>;

/** Throws `bad-file` where the document is none or uses what is not supported. `name` is how errors call it. */
export function bpeTokenizer(json: TokenizerJson, name = 'tokenizer.json'): Tokenizer {
  checkSupported(json, name);
  const split = splitterOf(json, name);
  const ids = vocabularyOf(json, name);
  const added = new Map(json.added_tokens.map(({ content, id }) => [content, id]));
  const bytes = tokenBytes(ids, added, name);
  const merges = mergeTable(json, ids, name);
  const byteIds = Int32Array.from({ length: 256 }, (_, byte) => ids.get(charactersOf([byte])) ?? -1);
  const ignoresMerges = json.model.ignore_merges === true;
  const utf8 = new TextEncoder();
  const remembered = new Map<string, readonly number[]>();

  const encodeWord = (word: string): readonly number[] => {
    const known = remembered.get(word);
    if (known) return known;
    const raw = utf8.encode(word);
    const whole = ignoresMerges ? ids.get(charactersOf(raw)) : undefined;
    const tokens = whole === undefined ? mergeWord(startOf(raw, byteIds), merges) : [whole];
    if (word.length <= MAX_REMEMBERED_LENGTH) {
      if (remembered.size >= MAX_REMEMBERED) remembered.clear();
      remembered.set(word, tokens);
    }
    return tokens;
  };

  const pieces = addedSplitter([...added.keys()]);
  return {
    vocabularySize: bytes.length,
    endOfText: endOfTextOf((content) => added.get(content)),
    encode(text) {
      const tokens: number[] = [];
      for (const piece of pieces(text.toWellFormed())) {
        const special = added.get(piece);
        if (special !== undefined) tokens.push(special);
        else for (const word of split(piece)) for (const id of encodeWord(word)) tokens.push(id);
      }
      return Int32Array.from(tokens);
    },
    decode: (given) => decodeBytes(given, bytes),
    stream: () => streamBytes(bytes),
    toJson: () => json,
  };
}

function checkSupported(json: TokenizerJson, name: string): void {
  const { model } = json;
  if (model.type !== undefined && model.type !== 'BPE') refuse(name, `the model ${model.type}`);
  checkCommon(json, name);
  for (const key of ['continuing_subword_prefix', 'end_of_word_suffix', 'byte_fallback', 'dropout'])
    if (model[key]) refuse(name, `BPE with ${key}`);
  for (const { type } of stepsOf(json.decoder, 'decoders', name))
    if (type !== 'ByteLevel') refuse(name, `the decoder ${type}`);
}

/** What each id stands for; ids without a token are holes. */
function tokenBytes(
  ids: ReadonlyMap<string, number>,
  added: ReadonlyMap<string, number>,
  name: string,
): (Uint8Array | undefined)[] {
  const bytes: (Uint8Array | undefined)[] = [];
  for (const [token, id] of ids) {
    if (added.has(token)) continue;
    const own = bytesOf(token);
    if (!own) throw notTokenizer(name, `the token ${JSON.stringify(token)} is not byte-level`);
    bytes[id] = own;
  }
  const utf8 = new TextEncoder();
  for (const [content, id] of added) {
    if (id >= PAIR || bytes[id] !== undefined || (ids.get(content) ?? id) !== id)
      throw notTokenizer(name, `the added token ${JSON.stringify(content)} has the id ${id}, which it cannot have`);
    bytes[id] = utf8.encode(content);
  }
  return bytes;
}

function mergeTable(json: TokenizerJson, ids: ReadonlyMap<string, number>, name: string): Merges {
  const merges: Merges = new Map();
  for (const [rank, [left, right]] of mergesOf(json, name).entries()) {
    const [a, b, id] = [ids.get(left), ids.get(right), ids.get(left + right)];
    if (a === undefined || b === undefined || id === undefined)
      throw notTokenizer(name, `merge ${rank} (${left} ${right}) is of tokens that model.vocab lacks`);
    if (!merges.has(pairKey(a, b))) merges.set(pairKey(a, b), { rank, id });
  }
  return merges;
}

function startOf(raw: Uint8Array, byteIds: Int32Array): number[] {
  return Array.from(raw, (byte) => {
    const id = byteIds[byte] ?? -1;
    if (id < 0) throw unknownCharacter(`the byte 0x${byte.toString(16).padStart(2, '0')}`);
    return id;
  });
}

interface Candidate {
  rank: number;
  at: number;
  left: number;
  right: number;
  id: number;
}

/** Joins neighbours by rank, the leftmost first among equals, until no pair is left: O(n log n). */
export function mergeWord(tokens: number[], merges: Merges): number[] {
  if (tokens.length < 2) return tokens;
  // A list in place: `next[i]` and `before[i]` are the neighbours of the token at i; one that was joined to its left is −1.
  const next = tokens.map((_, i) => i + 1);
  const before = tokens.map((_, i) => i - 1);
  const candidates = new Heap<Candidate>((a, b) => a.rank < b.rank || (a.rank === b.rank && a.at < b.at));
  const consider = (at: number): void => {
    const left = tokens[at];
    const right = tokens[next[at] ?? -1];
    if (left === undefined || right === undefined) return;
    const merge = merges.get(pairKey(left, right));
    if (merge) candidates.push({ rank: merge.rank, at, left, right, id: merge.id });
  };
  for (let at = 0; at < tokens.length; at += 1) consider(at);
  for (let found = candidates.pop(); found; found = candidates.pop()) {
    const { at, left, right, id } = found;
    const other = next[at] ?? -1;
    if (tokens[at] !== left || tokens[other] !== right) continue; // one of the two was joined meanwhile
    const after = next[other] ?? tokens.length;
    tokens[at] = id;
    tokens[other] = -1;
    next[at] = after;
    if (after < tokens.length) before[after] = at;
    consider(at);
    const previous = before[at] ?? -1;
    if (previous >= 0) consider(previous);
  }
  return tokens.filter((id) => id >= 0);
}

/** Cuts out the added tokens, at each place the longest. */
function addedSplitter(contents: readonly string[]): (text: string) => string[] {
  if (contents.length === 0) return (text) => [text];
  const escaped = contents
    .toSorted((a, b) => b.length - a.length)
    .map((content) => content.replace(/[\\^$.*+?()[\]{}|/]/g, String.raw`\$&`));
  const pattern = new RegExp(`(${escaped.join('|')})`, 'u');
  return (text) => text.split(pattern).filter((piece) => piece !== '');
}

/** A byte order mark is a character like any other. */
const utf8Decoder = (): TextDecoder => new TextDecoder('utf-8', { ignoreBOM: true });

type TokenBytes = readonly (Uint8Array | undefined)[];

function decodeBytes(ids: Iterable<number>, bytes: TokenBytes): string {
  const parts: Uint8Array[] = [];
  let size = 0;
  for (const id of ids) {
    const part = bytes[id];
    if (!part) throw unknownToken(id, bytes.length);
    parts.push(part);
    size += part.byteLength;
  }
  const all = new Uint8Array(size);
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.byteLength;
  }
  return utf8Decoder().decode(all);
}

function streamBytes(bytes: TokenBytes): TextStream {
  const decoder = utf8Decoder();
  return {
    push(id) {
      const part = bytes[id];
      if (!part) throw unknownToken(id, bytes.length);
      return decoder.decode(part, { stream: true });
    },
    end: () => decoder.decode(),
  };
}
