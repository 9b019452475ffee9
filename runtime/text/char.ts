// A token for each character (code point) that occurs in a text, in the order of code points. As a tokenizer.json it is a WordLevel
// model behind a Split into single characters, which Hugging Face's `tokenizers` reads and treats the same.
import { MeshError } from '../errors.ts';
import { checkCommon, notTokenizer, refuse, stepsOf, vocabularyOf, type TokenizerJson } from './tokenizer-json.ts';
import { unknownCharacter, unknownToken, type Tokenizer } from './tokenizer.ts';

/** Any one character: `.` would leave out line ends. */
const ANY_CHARACTER = String.raw`[\s\S]`;

/** Throws `bad-file` for a text without characters. */
export function charTokenizer(text: string): Tokenizer {
  const characters = [...new Set(text.toWellFormed())].sort(
    (a, b) => (a.codePointAt(0) ?? 0) - (b.codePointAt(0) ?? 0),
  );
  if (characters.length === 0)
    throw new MeshError('bad-file', 'The text is empty: it has no characters to be tokens.', 'Give a text.');
  return ofCharacters(characters, charJson(characters));
}

/** The layout that `charTokenizer` writes. Throws `bad-file` for any other WordLevel tokenizer. */
export function charTokenizerFromJson(json: TokenizerJson, name = 'tokenizer.json'): Tokenizer {
  checkCommon(json, name);
  const [split, ...more] = stepsOf(json.pre_tokenizer, 'pretokenizers', name);
  const pattern = (split?.pattern ?? null) as { Regex?: unknown } | null;
  if (split?.type !== 'Split' || split.behavior !== 'Isolated' || pattern?.Regex !== ANY_CHARACTER || more.length > 0)
    refuse(name, 'a WordLevel model over words instead of single characters');
  if (json.added_tokens.length > 0) refuse(name, 'a WordLevel model with added tokens');
  const decoders = stepsOf(json.decoder, 'decoders', name).map(({ type }) => type);
  if (decoders.length !== 1 || decoders[0] !== 'Fuse') refuse(name, `a WordLevel model without the decoder Fuse`);
  const characters: string[] = [];
  for (const [token, id] of vocabularyOf(json, name)) {
    if (token === '' || String.fromCodePoint(token.codePointAt(0) ?? 0) !== token)
      throw notTokenizer(name, `the token ${JSON.stringify(token)} is not one character`);
    characters[id] = token;
  }
  const gap = characters.findIndex((character) => character === undefined);
  if (gap >= 0) throw notTokenizer(name, `model.vocab has no token ${gap}`);
  return ofCharacters(characters, json);
}

function ofCharacters(characters: readonly string[], json: TokenizerJson): Tokenizer {
  const ids = new Map(characters.map((character, id) => [character, id]));
  const characterOf = (id: number): string => {
    const character = characters[id];
    if (character === undefined) throw unknownToken(id, characters.length);
    return character;
  };
  return {
    vocabularySize: characters.length,
    endOfText: null,
    encode: (text) =>
      Int32Array.from(text.toWellFormed(), (character) => {
        const id = ids.get(character);
        if (id !== undefined) return id;
        const code = (character.codePointAt(0) ?? 0).toString(16).toUpperCase().padStart(4, '0');
        throw unknownCharacter(`${JSON.stringify(character)} (U+${code})`);
      }),
    decode(given) {
      let text = '';
      for (const id of given) text += characterOf(id);
      return text;
    },
    stream: () => ({ push: characterOf, end: () => '' }),
    toJson: () => json,
  };
}

const charJson = (characters: readonly string[]): TokenizerJson => ({
  version: '1.0',
  truncation: null,
  padding: null,
  added_tokens: [],
  normalizer: null,
  pre_tokenizer: { type: 'Split', pattern: { Regex: ANY_CHARACTER }, behavior: 'Isolated', invert: false },
  post_processor: null,
  decoder: { type: 'Fuse' },
  // `unk_token` must be there and is in no vocabulary: `tokenizers` then refuses a character it does not know, as this one does.
  model: { type: 'WordLevel', vocab: Object.fromEntries(characters.map((c, id) => [c, id])), unk_token: '<unk>' },
});
