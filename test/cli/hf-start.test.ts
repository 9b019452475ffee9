// A run that begins with a Hugging Face folder: its model, its tokenizer and each stage's own weights; what does not fit is named.
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { after } from 'node:test';
import { startFrom, withFolder } from '../../node/hf-start.ts';
import { writeHfFolder } from '../../node/hf-write.ts';
import { readRunConfig } from '../../node/run-config.ts';
import type { ParameterInfo } from '../../runtime/compute.ts';
import { huggingFaceConfig, toHuggingFace } from '../../runtime/model/huggingface.ts';
import { layerCount, stageInfo } from '../../runtime/model/spec.ts';
import { isLanguage, modelSpecSchema } from '../../runtime/model-spec.ts';
import type { Tensor } from '../../runtime/tensor.ts';
import { charTokenizer } from '../../runtime/text/char.ts';
import { meshError, random } from '../model/harness.ts';

const root = mkdtempSync(join(tmpdir(), 'skein-start-'));
after(() => rmSync(root, { recursive: true, force: true }));

const model = modelSpecSchema.parse({
  family: 'gpt2',
  ...{ vocab_size: 9, n_positions: 8, n_embd: 8, n_layer: 2, n_head: 2, resid_pdrop: 0 },
});
if (!isLanguage(model)) throw new Error('not a language model');
const weights = new Map<string, Tensor>(
  stageInfo(model, 0, layerCount(model)).parameters.map(({ name, shape }, i) => [name, random([...shape], i + 1)]),
);
const tokenizer = charTokenizer('abcdefghi');
const folderOf = (name: string, tensors: ReadonlyMap<string, Tensor>): Promise<string> =>
  writeHfFolder(join(root, name), {
    config: huggingFaceConfig(model),
    tensors: toHuggingFace(model, tensors),
    tokenizer,
  });

test('what the run leaves out is the folder’s, and each stage gets its own weights', async () => {
  const folder = await folderOf('whole', weights);
  writeFileSync(join(root, 'text.txt'), 'abcdefghi'.repeat(50));
  writeFileSync(
    join(root, 'run.yaml'),
    `start: ${folder}\ndata: { text: ${join(root, 'text.txt')}, contextLength: 8 }\nstages: [front, back]\n`,
  );
  const config = readRunConfig(join(root, 'run.yaml'));
  assert.deepEqual(config.model, model);
  assert.deepEqual(config.data, { text: join(root, 'text.txt'), tokenizer: folder, heldOut: 0.1, contextLength: 8 });
  const start = await startFrom(folder, config);
  assert.equal(start.step, 0);
  for (const [stage, span] of [
    [0, 1],
    [1, 2],
  ].entries()) {
    const state = await start.stateOf(stage);
    const wanted: ParameterInfo[] = stageInfo(model, span[0] ?? 0, span[1] ?? 0).parameters;
    assert.deepEqual([...state.keys()].sort(), wanted.map(({ name }) => `weights/${name}`).sort());
    for (const { name } of wanted) assert.deepEqual(state.get(`weights/${name}`)?.data, weights.get(name)?.data, name);
  }
});

test('a folder that is none, lacks a tensor or has one of another shape is refused by name', async () => {
  assert.throws(() => withFolder({ start: join(root, 'nowhere') }), meshError('bad-file'));
  assert.deepEqual(withFolder({ epochs: 2 }), { epochs: 2 });
  const name = 'transformer.h.1.mlp.c_fc.weight';
  const config = { ...readRunConfig(undefined), model };
  const lacking = new Map([...weights].filter(([key]) => key !== name));
  const without = await startFrom(await folderOf('lacking', lacking), config);
  await assert.rejects(without.stateOf(1), /has no tensor transformer\.h\.1\.mlp\.c_fc\.weight/);
  const odd = new Map([...weights, [name, random([8, 8], 3)]] as [string, Tensor][]);
  const wrong = await startFrom(await folderOf('odd', odd), config);
  await assert.rejects(wrong.stateOf(1), /c_fc\.weight is f32 \(8, 8\), and the model needs \(8, 32\)/);
});
