// The configuration of a run of a language model: what may be left out, what goes together, which line is wrong.
import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { prepareRun } from '../../node/run-data.ts';
import { readRunConfig } from '../../node/run-config.ts';
import { MeshError } from '../../runtime/errors.ts';
import { parseRunConfig } from '../../runtime/train/config.ts';

const data = { text: 'sotu', tokenizer: 'char', contextLength: 32 };
const gpt2 = { family: 'gpt2', n_layer: 2, n_embd: 8, n_head: 2 };
const run = (more: object = {}): object => ({ model: gpt2, data, ...more });
const refuse = (value: object, words: RegExp, code = 'usage'): void =>
  assert.throws(
    () => parseRunConfig(value),
    (error) => error instanceof MeshError && error.code === code && words.test(`${error.message} ${error.fix}`),
  );

test('positions are the context where they are left out, and the context the positions', () => {
  const positions = (model: object, given: object): unknown => {
    const parsed = parseRunConfig({ model: { ...gpt2, ...model }, data: { ...data, ...given } }).model;
    return parsed.family === 'gpt2' ? parsed.n_positions : null;
  };
  assert.equal(positions({}, {}), 32);
  assert.equal(positions({ n_positions: 64 }, {}), 64);
  assert.equal(positions({}, { contextLength: undefined }), 1024);
  const llama = parseRunConfig(run({ model: { family: 'llama', hidden_size: 8, num_attention_heads: 2 }, mode: 'async' })); // prettier-ignore
  assert.equal(llama.model.family === 'llama' && llama.model.max_position_embeddings, 32);
  refuse(run({ model: { ...gpt2, n_positions: 16 } }), /contextLength is 32, .* 16 tokens/);
});

test('the vocabulary is open where it is left out or auto, and the tokenizer closes it', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'skein-lm-config-'));
  t.after(() => rm(folder, { recursive: true, force: true }));
  await writeFile(join(folder, 'a.txt'), 'abcdefgh'.repeat(100));
  const text = { ...data, text: join(folder, 'a.txt') };
  const prepared = async (model: object): Promise<unknown> => {
    const { config, data: loaded } = await prepareRun(parseRunConfig({ model: { ...gpt2, ...model }, data: text }));
    assert.equal(config.isVocabularyOpen, undefined);
    assert.deepEqual([loaded.kind, loaded.targetsPerRow], ['tokens', 32]);
    return config.model.family === 'gpt2' && config.model.vocab_size;
  };
  assert.equal(parseRunConfig(run()).isVocabularyOpen, true);
  assert.equal(parseRunConfig(run({ model: { ...gpt2, vocab_size: 9 } })).isVocabularyOpen, undefined);
  assert.equal(await prepared({}), 8);
  assert.equal(await prepared({ vocab_size: 'auto' }), 8);
  assert.equal(await prepared({ vocab_size: 16 }), 16, 'more than are needed is padding');
  await assert.rejects(prepared({ vocab_size: 7 }), { code: 'usage', message: /7 tokens, and the tokenizer 8/ });
});

test('what does not go together is refused', () => {
  refuse({ model: gpt2 }, /gpt2 model reads text/);
  refuse({ data }, /mlp model cannot read text/);
  refuse(run({ mode: 'async' }), /share the embedding.*use mode: sync, or one stage, or model\.tie_word_embeddings: false/i); // prettier-ignore
  parseRunConfig(run({ mode: 'async', stages: ['whole'] }));
  parseRunConfig(run({ mode: 'async', model: { ...gpt2, tie_word_embeddings: false } }));
  refuse(run({ mode: 'async', stages: ['whole'], lossScale: 8 }), /lossScale/);
  refuse(run({ clip: 0 }), /clip/);
  refuse(run({ schedule: { kind: 'cosinus' } }), /schedule\.kind/);
  refuse(run({ schedule: { final: 0.5 } }), /schedule\.final/);
  refuse(run({ checkpoints: { every: 5 } }), /checkpoints\.folder/);
  refuse(run({ model: { ...gpt2, n_heads: 2 } }), /n_heads.*did you mean n_head/);
  refuse({ sample: {} }, /sample/);
});

test('an error names the line, in text as in images', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'skein-lm-config-'));
  t.after(() => rm(folder, { recursive: true, force: true }));
  const file = join(folder, 'run.yaml');
  const says = async (lines: string[], words: RegExp): Promise<void> => {
    await writeFile(file, lines.join('\n'));
    assert.throws(() => readRunConfig(file), { code: 'usage', message: words });
  };
  const model = 'model: { family: gpt2, n_layer: 2, n_embd: 8, n_head: 2 }';
  await says([model, 'data:', '  text: sotu', '  tokeniser: char'], /run\.yaml:4: data\.tokeniser: /);
  await says([model, 'data:', '  text: sotu', '  tokenizer: { train: 3 }'], /run\.yaml:4: data\.tokenizer/);
  await says(['data:', '  name: x', '  train: { images: a, labels: b }'], /run\.yaml:1: data\.test: /);
  await says([model, 'data: { text: sotu }', 'schedule:', '  warmup: -1'], /run\.yaml:4: schedule\.warmup: /);
  await says([model, 'data: { text: sotu }', 'lossScale: static'], /run\.yaml:3: lossScale: /);
});
