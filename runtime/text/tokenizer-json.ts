// The layout of Hugging Face's `tokenizer.json`, as far as it is read here: checked, and what cannot be done is refused by its name.
// `tokenizerFromJson` makes the tokenizer; files are the host's business.
import { z } from 'zod';
import { MeshError } from '../errors.ts';

/** An extra token that is recognised in text as a whole. The four flags change how, and are supported as false only. */
const addedTokenSchema = z.looseObject({
  id: z.int().min(0),
  content: z.string().min(1),
  special: z.boolean().default(false),
  single_word: z.boolean().default(false),
  lstrip: z.boolean().default(false),
  rstrip: z.boolean().default(false),
  normalized: z.boolean().default(false),
});
export type AddedToken = z.infer<typeof addedTokenSchema>;

/** A part of the pipeline: a kind and its settings. */
const partSchema = z.looseObject({ type: z.string() });
export type Part = z.infer<typeof partSchema>;
const part = partSchema.nullish();

/** Unknown keys are kept, so that a file that was read is written as it was. */
export const tokenizerJsonSchema = z.looseObject({
  version: z.string().default('1.0'),
  added_tokens: z.array(addedTokenSchema).default([]),
  normalizer: part,
  pre_tokenizer: part,
  post_processor: part,
  decoder: part,
  model: z.looseObject({
    type: z.string().optional(),
    // Checked by `vocabularyOf`: its keys may be any text, `__proto__` too.
    vocab: z.unknown(),
    merges: z.unknown().optional(),
  }),
});
export type TokenizerJson = z.infer<typeof tokenizerJsonSchema>;

/** Beyond this an id is a mistake or an attack: the largest vocabularies have about 260,000. */
const MAX_VOCABULARY = 1 << 21;

/** Throws `bad-file` where it is not a tokenizer file; says nothing yet about what is supported. */
export function parseTokenizerJson(value: unknown, name: string): TokenizerJson {
  const parsed = tokenizerJsonSchema.safeParse(value);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  throw notTokenizer(name, `${issue?.path.join('.') || 'the document'}: ${issue?.message ?? ''}`);
}

/** The ids of `model.vocab` by name. Throws `bad-file`. */
export function vocabularyOf(json: TokenizerJson, name: string): Map<string, number> {
  const { vocab } = json.model;
  if (typeof vocab !== 'object' || vocab === null || Array.isArray(vocab))
    throw notTokenizer(name, 'model.vocab is no object of tokens and ids');
  const ids = new Map<string, number>();
  const seen = new Set<number>();
  for (const [token, id] of Object.entries(vocab)) {
    if (typeof id !== 'number' || !Number.isInteger(id) || id < 0 || id >= MAX_VOCABULARY)
      throw notTokenizer(name, `model.vocab gives the token ${JSON.stringify(token)} the id ${String(id)}`);
    if (seen.has(id)) throw notTokenizer(name, `model.vocab gives the id ${id} to two tokens`);
    seen.add(id);
    ids.set(token, id);
  }
  if (ids.size === 0) throw notTokenizer(name, 'model.vocab is empty');
  return ids;
}

/** `model.merges` as pairs: either "left right" or ["left", "right"]. Throws `bad-file`. */
export function mergesOf(json: TokenizerJson, name: string): [string, string][] {
  const { merges } = json.model;
  if (!Array.isArray(merges)) throw notTokenizer(name, 'model.merges is no list');
  return merges.map((merge: unknown, i) => {
    const parts: unknown[] = typeof merge === 'string' ? merge.split(' ') : Array.isArray(merge) ? merge : [];
    const [left, right] = parts;
    if (parts.length !== 2 || typeof left !== 'string' || typeof right !== 'string')
      throw notTokenizer(name, `model.merges[${i}] is no pair of tokens`);
    return [left, right];
  });
}

/** GPT-2's two files, `vocab.json` and `merges.txt`, as one document. */
export function fromVocabAndMerges(vocab: unknown, merges: string): TokenizerJson {
  const lines = merges.split('\n').map((line) => line.replace(/\r$/, ''));
  const pairs = lines.filter((line, i) => line !== '' && !(i === 0 && line.startsWith('#version')));
  const end =
    typeof vocab === 'object' && vocab !== null ? (vocab as Record<string, unknown>)['<|endoftext|>'] : undefined;
  const added = typeof end === 'number' ? [addedToken('<|endoftext|>', end)] : [];
  return byteLevelJson(vocab, pairs, added);
}

export const addedToken = (content: string, id: number): AddedToken => ({
  id,
  content,
  special: true,
  single_word: false,
  lstrip: false,
  rstrip: false,
  normalized: false,
});

/** The document of a byte-level BPE with GPT-2's pre-tokenisation. */
export function byteLevelJson(vocab: unknown, merges: readonly string[], added: AddedToken[]): TokenizerJson {
  const byteLevel = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true };
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: added,
    normalizer: null,
    pre_tokenizer: byteLevel,
    post_processor: null,
    decoder: byteLevel,
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab,
      merges,
    },
  };
}

/** Throws `bad-file` for a feature that would change what comes out if it were passed over. */
export function refuse(name: string, what: string): never {
  throw new MeshError(
    'bad-file',
    `${name} uses ${what}, which is not supported.`,
    'Use a byte-level BPE tokenizer, as GPT-2, Llama 3, Qwen and SmolLM have.',
  );
}

export const notTokenizer = (name: string, why: string): MeshError =>
  new MeshError(
    'bad-file',
    `${name} is no tokenizer file: ${why}.`,
    'Give a tokenizer.json as Hugging Face writes it, or a folder that holds one.',
  );

/** The steps of a part that may be a `Sequence`; an absent part has none. `key` is where a sequence keeps them. */
export function stepsOf(given: Part | null | undefined, key: string, name: string): Part[] {
  if (!given) return [];
  if (given.type !== 'Sequence') return [given];
  const parsed = z.array(partSchema).safeParse(given[key]);
  if (!parsed.success) throw notTokenizer(name, `a Sequence without ${key}`);
  return parsed.data.flatMap((step) => stepsOf(step, key, name));
}

/** Normalizers change the text, and a text that does not come back cannot be trained on unnoticed. */
export function checkCommon(json: TokenizerJson, name: string): void {
  const [normalizer] = stepsOf(json.normalizer, 'normalizers', name);
  if (normalizer) refuse(name, `the normalizer ${normalizer.type}`);
  for (const token of json.added_tokens)
    if (token.single_word || token.lstrip || token.rstrip)
      refuse(name, `the added token ${JSON.stringify(token.content)} with single_word, lstrip or rstrip`);
}
