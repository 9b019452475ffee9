// From the document of a tokenizer file, or of GPT-2's vocabulary, to the tokenizer. Which kind it is, the document says.
import { bpeTokenizer } from './bpe.ts';
import { charTokenizerFromJson } from './char.ts';
import { parseTokenizerJson, refuse } from './tokenizer-json.ts';
import type { Tokenizer } from './tokenizer.ts';

/** Throws `bad-file` where it is no tokenizer or one that is not supported; `name` is how the error calls it. */
export function tokenizerFromJson(value: unknown, name = 'tokenizer.json'): Tokenizer {
  const json = parseTokenizerJson(value, name);
  // Files from before models named their type are BPE when they have merges.
  const type = json.model.type ?? (Array.isArray(json.model.merges) ? 'BPE' : 'without a type');
  if (type === 'BPE') return bpeTokenizer(json, name);
  if (type === 'WordLevel') return charTokenizerFromJson(json, name);
  return refuse(name, `the model ${type}`);
}
