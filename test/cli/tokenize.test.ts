// `skein tokenize` trains a tokenizer that it then reads, prints its figures for people and programs, and says what is wrong.
import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { after, before } from 'node:test';
import { assertRefused, runNode } from '../support/cli.ts';

let folder = '';
let book = '';
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'skein-tokenize-'));
  book = join(folder, 'book.txt');
  await writeFile(book, 'The cat sat on the mat. 😀\n'.repeat(50));
});
after(() => rm(folder, { recursive: true, force: true }));

const tokenize = (...args: string[]) => runNode(['node/cli.ts', 'tokenize', ...args]);

test('trains, writes, and reads what it wrote', async () => {
  const out = join(folder, 'made', 'tokenizer.json');
  const trained = await tokenize('--text', book, '--train', '270', '--out', out, '--json');
  assert.equal(trained.code, 0, trained.stderr);
  const figures = JSON.parse(trained.stdout) as Record<string, unknown>;
  assert.deepEqual(
    [figures.kind, figures.files, figures.characters, figures.vocabularySize, figures.out],
    ['tokenize.done', 1, 1300, 270, out],
  );
  const json = JSON.parse(await readFile(out, 'utf8')) as { model: { type: string; merges: string[] } };
  assert.deepEqual([json.model.type, json.model.merges.length], ['BPE', 14]);
  for (const given of [out, join(folder, 'made')]) {
    const read = await tokenize('--tokenizer', given, '--text', book, '--json');
    assert.deepEqual(JSON.parse(read.stdout), { ...figures, out: null });
  }
});

test('counts for people', async () => {
  const counted = await tokenize('--tokenizer', 'gpt2', '--text', join(folder, '*.txt'));
  assert.equal(counted.code, 0, counted.stderr);
  assert.match(
    counted.stdout,
    /^\d+ tokens of 1300 characters in 1 file: 0\.\d{4} tokens per character; .* 50257 tokens\n$/,
  );
});

test('says when the text has too few pairs', async () => {
  const few = await tokenize('--text', book, '--train', '2000');
  assert.match(few.stderr, /tokens only/);
});

test('says what is wrong', async () => {
  assertRefused(await tokenize('--text', book), 2, /--train and --tokenizer/, /--help/);
  assertRefused(await tokenize('--train', '300'), 2, /--text .* needed/, /--help/);
  assertRefused(await tokenize('--text', book, '--train', '10'), 2, /--train .*256/, /--help/);
  assertRefused(await tokenize('--text', join(folder, 'none'), '--train', '300'), 2, /none cannot be read/, /path/);
  assertRefused(
    await tokenize('--text', book, '--tokenizer', book),
    2,
    /book\.txt is no tokenizer file/,
    /tokenizer\.json/,
  );
  assertRefused(await tokenize('--text', book, '--train', '300', '--out', folder), 2, /cannot be written/, /folder/);
});
