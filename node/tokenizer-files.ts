// Tokenizers as files: a tokenizer.json, GPT-2's vocab.json with merges.txt, or a folder that holds either.
import { readFile, stat } from 'node:fs/promises';
import path from 'node:path';
import { MeshError } from '../runtime/errors.ts';
import { tokenizerFromJson } from '../runtime/text/from-json.ts';
import { gpt2Tokenizer } from '../runtime/text/gpt2.ts';
import { fromVocabAndMerges, notTokenizer } from '../runtime/text/tokenizer-json.ts';
import type { Tokenizer } from '../runtime/text/tokenizer.ts';
import { ifThere, isFile, writeWhole } from './files.ts';

export const TOKENIZER_FILE = 'tokenizer.json';

/** `gpt2`, or the path of a tokenizer.json or of a folder. Throws `bad-file` where none is there or it is not supported. */
export async function readTokenizer(nameOrPath: string): Promise<Tokenizer> {
  if (nameOrPath === 'gpt2') return gpt2Tokenizer();
  const found = await ifThere(nameOrPath, (name) => stat(name));
  if (found?.isDirectory()) {
    const tokenizer = await tokenizerOfFolder(nameOrPath);
    if (tokenizer) return tokenizer;
    throw new MeshError(
      'bad-file',
      `${nameOrPath} holds neither a ${TOKENIZER_FILE} nor a vocab.json with a merges.txt.`,
      'Name a folder that holds a tokenizer, or the file itself.',
    );
  }
  return tokenizerFromJson(await readJson(nameOrPath), nameOrPath);
}

/** Null where the folder has none. */
export async function tokenizerOfFolder(folder: string): Promise<Tokenizer | null> {
  const file = path.join(folder, TOKENIZER_FILE);
  if (await isFile(file)) return tokenizerFromJson(await readJson(file), file);
  const [vocab, merges] = [path.join(folder, 'vocab.json'), path.join(folder, 'merges.txt')];
  if (!(await isFile(vocab)) || !(await isFile(merges))) return null;
  const json = fromVocabAndMerges(await readJson(vocab), await readUtf8(merges));
  return tokenizerFromJson(json, `${vocab} with merges.txt`);
}

/** Whole or not at all. Returns the full path. */
export const writeTokenizer = (file: string, tokenizer: Tokenizer): Promise<string> =>
  writeWhole(file, tokenizerText(tokenizer));

export const tokenizerText = (tokenizer: Tokenizer): string => `${JSON.stringify(tokenizer.toJson(), null, 2)}\n`;

/** Throws `bad-file` where it cannot be read or is not UTF-8. */
export async function readUtf8(file: string): Promise<string> {
  const bytes = await readFile(file).catch((cause: Error) => {
    throw new MeshError('bad-file', `${file} cannot be read: ${cause.message}.`, 'Check the path.', { cause });
  });
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch (cause) {
    throw new MeshError('bad-file', `${file} is not UTF-8 text.`, 'Save it as UTF-8.', { cause });
  }
}

export async function readJson(file: string): Promise<unknown> {
  const text = await readUtf8(file);
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw notTokenizer(file, `it is not JSON (${(cause as Error).message})`);
  }
}
