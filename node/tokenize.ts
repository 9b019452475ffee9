// `skein tokenize`: trains a tokenizer from text files, or counts the tokens that one makes of them.
import { z } from 'zod';
import { trainBpe } from '../runtime/text/bpe-train.ts';
import { charTokenizer } from '../runtime/text/char.ts';
import type { Tokenizer } from '../runtime/text/tokenizer.ts';
import { MeshError } from '../runtime/errors.ts';
import { command, option } from './command.ts';
import { expectWritable } from './model-file.ts';
import { readTexts, sotuCorpus } from './text-data.ts';
import { readTokenizer, writeTokenizer } from './tokenizer-files.ts';

const schema = z.strictObject({
  text: z.array(z.string().min(1), { error: 'is needed: one or more text files, or sotu' }).min(1),
  train: z.coerce
    .number({ error: 'is a number of tokens' })
    .check(z.int({ error: 'is a whole number' }), z.gte(256, { error: 'is at least 256' }), z.lte(2 ** 20))
    .optional(),
  tokenizer: z.string().min(1).optional(),
  out: z.string().min(1).optional(),
});
type Options = z.infer<typeof schema>;

export const tokenize = command({
  name: 'tokenize',
  description: 'Train a tokenizer from text files, or count the tokens that a tokenizer makes of them.',
  options: [
    option('--text <files...>', 'text files (UTF-8) or globs, or sotu: the State of the Union addresses'),
    option('--train <size>', 'train byte-level BPE with so many tokens'),
    option('--tokenizer <name>', 'gpt2, char, or the path of a tokenizer.json or of a folder that holds one'),
    option('--out <file>', 'where the tokenizer goes, as Hugging Face writes it'),
  ],
  schema,
  examples: [
    'node node/cli.ts tokenize --text book.txt --train 512 --out tokenizer.json',
    'node node/cli.ts tokenize --text book.txt --tokenizer tokenizer.json',
  ],
  run: async (options, { say, print, signal, isJson }) => {
    const { train, tokenizer: name, out } = options;
    if ((train === undefined) === (name === undefined))
      throw new MeshError('usage', 'One of --train and --tokenizer is needed.', 'See --help for examples.');
    if (out !== undefined) await expectWritable(out);
    const [first, ...more] = options.text;
    const { text, files } = first === 'sotu' && more.length === 0 ? await sotuCorpus() : await readTexts(options.text);
    const tokenizer = await tokenizerFor(options, text, say, signal);
    const tokens = tokenizer.encode(text).length;
    const characters = Array.from(text).length;
    const written = out === undefined ? null : await writeTokenizer(out, tokenizer);
    const { vocabularySize } = tokenizer;
    const tokensPerCharacter = tokens / Math.max(1, characters);
    const figures = { files: files.length, characters, tokens, tokensPerCharacter, vocabularySize, out: written };
    if (isJson) print(JSON.stringify({ kind: 'tokenize.done', ...figures }));
    else
      print(
        `${tokens} tokens of ${characters} characters in ${files.length} file${files.length === 1 ? '' : 's'}: ${tokensPerCharacter.toFixed(4)} tokens per ` +
          `character; the vocabulary has ${vocabularySize} tokens${written === null ? '' : `; written to ${written}`}`,
      );
  },
});

async function tokenizerFor(
  { train, tokenizer }: Options,
  text: string,
  say: (line: string) => void,
  signal: AbortSignal,
): Promise<Tokenizer> {
  if (train === undefined) return tokenizer === 'char' ? charTokenizer(text) : readTokenizer(tokenizer ?? 'gpt2');
  const trained = await trainBpe(text, train, { signal });
  if (trained.vocabularySize < train)
    say(`The text has pairs for ${trained.vocabularySize} tokens only; no other pair occurs twice.`);
  return trained;
}
