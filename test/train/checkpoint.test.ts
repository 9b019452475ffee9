// Checkpoints: what is kept comes back the same, what was touched is refused by name, half of one never counts, old ones go.
import assert from 'node:assert/strict';
import { cp, mkdir, mkdtemp, readdir, readFile, rename, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import test, { type TestContext } from 'node:test';
import { openCheckpoint, prepareFolder, writeCheckpoint } from '../../node/checkpoints.ts';
import { MeshError } from '../../runtime/errors.ts';
import { f32Of, f32Tensor, i32Of, i32Tensor, type Tensors } from '../../runtime/tensor.ts';
import {
  checkpointName,
  compareConfigs,
  mergeStates,
  namesOfStage,
  newestFirst,
  parseCheckpointName,
  savedConfig,
  surplus,
  type Snapshot,
} from '../../runtime/train/checkpoint.ts';
import { parseRunConfig, planStages } from '../../runtime/train/config.ts';

const config = parseRunConfig({
  model: { family: 'mlp', sizes: [4, 3, 2], activation: 'relu' },
  optimizer: { name: 'adamw', lr: 0.01 },
});

/** Of a model of two layers: every value tells its parameter and its step. */
function snapshot(step: number): Snapshot {
  const names = namesOfStage(config, { from: 0, to: 2 });
  const sizes: Record<string, number[]> = {
    'layers.0.weight': [3, 4],
    'layers.0.bias': [3],
    'layers.1.weight': [2, 3],
    'layers.1.bias': [2],
  };
  const tensors = (list: string[], by: number): Tensors =>
    new Map(
      list.map((name, i) => {
        if (name === 'step') return [name, i32Tensor([1], Int32Array.of(step))] as const;
        const shape = sizes[name.replace(/\.exp_avg(_sq)?$/, '')] ?? [];
        const size = shape.reduce((a, b) => a * b, 1);
        return [name, f32Tensor(shape, new Float32Array(size).fill(step + by + i / 16))] as const;
      }),
    );
  return {
    step,
    steps: 100,
    weights: tensors(names.weights, 0),
    optimizer: tensors(names.optimizer, 0.5),
    lossScale: { scale: 512, goodSteps: 3 },
  };
}

async function scratch(t: TestContext): Promise<string> {
  const folder = await mkdtemp(path.join(tmpdir(), 'skein-checkpoints-'));
  t.after(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

const write = (folder: string, step: number, keep = 3): Promise<string> =>
  writeCheckpoint({ folder, keep, config: savedConfig(config), tokenizer: null }, snapshot(step));
const refused =
  (message: RegExp, fix: RegExp) =>
  (error: unknown): boolean =>
    error instanceof MeshError && error.code === 'bad-file' && message.test(error.message) && fix.test(error.fix);

test('what is kept comes back, stage by stage', async (t) => {
  const folder = await scratch(t);
  const written = await write(folder, 20);
  assert.match(path.basename(written), /^step-000020-[0-9a-f]{12}$/);
  assert.deepEqual((await readdir(folder)).sort(), ['latest.json', path.basename(written)].sort());
  for (const given of [folder, written]) {
    const { run, path: found, weights, optimizer } = await openCheckpoint(given);
    assert.equal(found, written);
    assert.deepEqual([run.step, run.steps, run.lossScale, run.tokenizer], [20, 100, { scale: 512, goodSteps: 3 }, null]); // prettier-ignore
    const names = namesOfStage(config, { from: 1, to: 2 });
    assert.deepEqual(names.weights, ['layers.1.weight', 'layers.1.bias']);
    const expected = snapshot(20);
    for (const [name, tensor] of await weights(names.weights)) assert.deepEqual(tensor, expected.weights.get(name));
    const moments = await optimizer(names.optimizer);
    assert.equal(moments.size, 5);
    for (const [name, tensor] of moments) assert.deepEqual(tensor, expected.optimizer.get(name));
    assert.deepEqual(savedConfig(parseRunConfig(run.config)), savedConfig(config));
  }
  assert.equal(await write(folder, 20), written, 'the same state is the same checkpoint');
});

test('the newest are kept, and what a writer that died has left goes', async (t) => {
  const folder = await scratch(t);
  await mkdir(path.join(folder, '.part-999999999-7'));
  await writeFile(path.join(folder, 'notes.txt'), 'mine');
  await prepareFolder(folder);
  const written: string[] = [];
  for (const step of [10, 20, 30, 40]) written.push(path.basename(await write(folder, step, 2)));
  assert.deepEqual((await readdir(folder)).sort(), ['latest.json', 'notes.txt', ...written.slice(2)].sort());
  // A run that began again from an older one: its own checkpoint stays, however many newer steps lie beside it.
  const early = path.basename(await write(folder, 5, 2));
  assert.ok((await readdir(folder)).includes(early));
  assert.equal((await openCheckpoint(folder)).run.step, 5);
});

test('a file that was touched is refused by name, and an older good one is named', async (t) => {
  const folder = await scratch(t);
  const [old, last] = [await write(folder, 10), await write(folder, 20)];
  const copy = path.join(folder, 'copy');
  for (const [file, damage] of [
    ['model.safetensors', (name: string) => flip(name, -3)],
    ['optimizer.safetensors', (name: string) => truncate(name, 40)],
    ['optimizer.safetensors', (name: string) => rm(name)],
    ['run.json', async (name: string) => writeFile(name, (await readFile(name, 'utf8')).replace('512', '513'))],
    ['run.json', (name: string) => truncate(name, 12)],
  ] as const) {
    await cp(last, copy, { recursive: true });
    await damage(path.join(last, file));
    const words = new RegExp(`${path.basename(last)}/${file} is not as it was written`);
    await assert.rejects(openCheckpoint(folder), refused(words, new RegExp(`--resume ${old}$`)));
    await rm(last, { recursive: true });
    await rename(copy, last);
  }
  assert.equal((await openCheckpoint(folder)).run.step, 20);
  await rm(path.join(folder, 'latest.json'));
  assert.equal((await openCheckpoint(folder)).run.step, 20, 'the newest, where nothing says which is the latest');
  await writeFile(path.join(folder, 'latest.json'), '{"checkpoint":"../elsewhere"}');
  await assert.rejects(openCheckpoint(folder), refused(/latest\.json names no checkpoint/, /--resume .*step-000020/));
  await rm(old, { recursive: true });
  await flip(path.join(last, 'model.safetensors'), -3);
  await assert.rejects(openCheckpoint(last), refused(/model\.safetensors/, /no older checkpoint/));
  await assert.rejects(openCheckpoint(await scratch(t)), refused(/holds none/, /checkpoints/));
});

async function flip(file: string, at: number): Promise<void> {
  const bytes = await readFile(file);
  const index = (at + bytes.length) % bytes.length;
  bytes[index] = (bytes[index] ?? 0) ^ 1;
  await writeFile(file, bytes);
}

test('a writer that fails half-way leaves what was there', async (t) => {
  const folder = await scratch(t);
  await write(folder, 10);
  const before = await readdir(folder);
  const broken = { ...snapshot(20), optimizer: new Map([['step', { dtype: 'i32' as const, shape: [9], data: new Uint8Array(4) }]]) }; // prettier-ignore
  await assert.rejects(
    writeCheckpoint({ folder, keep: 1, config: {}, tokenizer: null }, broken),
    refused(/cannot be written/, /./),
  );
  assert.deepEqual(await readdir(folder), before);
  assert.equal((await openCheckpoint(folder)).run.step, 10);
});

test('names sort by step; what is surplus never holds the one just written', () => {
  const name = (step: number): string => checkpointName(step, `${step}`.padStart(64, '0'));
  const names = [20, 1_000_000, 3, 999_999].map(name);
  assert.deepEqual(newestFirst([...names, 'latest.json', 'step-12-abc']), [1_000_000, 999_999, 20, 3].map(name));
  assert.deepEqual(parseCheckpointName(name(20)), { step: 20, hash: '000000000000' });
  assert.deepEqual(surplus(names, 2, name(3)), [name(999_999), name(20)]);
  assert.deepEqual(surplus(names, 9, name(3)), []);
});

test('states of stages become one, whatever their steps', () => {
  const state = (name: string, step: number): Tensors =>
    new Map([
      [`weights/${name}`, f32Tensor([1], Float32Array.of(step))],
      [`optimizer/${name}.exp_avg`, f32Tensor([1], Float32Array.of(-step))],
      ['optimizer/step', i32Tensor([1], Int32Array.of(step))],
    ]);
  const { weights, optimizer } = mergeStates([state('a', 4), state('b', 5)]);
  assert.deepEqual([...weights.keys()], ['a', 'b']);
  assert.deepEqual([...optimizer.keys()].sort(), ['a.exp_avg', 'b.exp_avg', 'step']);
  const [b, step] = [optimizer.get('b.exp_avg'), optimizer.get('step')];
  assert.ok(b && step);
  assert.deepEqual([f32Of(b)[0], i32Of(step)[0]], [-5, 5]);
});

test('another model or optimizer is refused, other data told, another split is none of its business', () => {
  const saved = savedConfig(config);
  const usage = (words: RegExp) => (error: unknown) => error instanceof MeshError && error.code === 'usage' && words.test(error.message); // prettier-ignore
  const other = (more: object): ReturnType<typeof parseRunConfig> => parseRunConfig({ ...saved, ...more });
  assert.deepEqual(compareConfigs(other({ stages: ['whole'], epochs: 9 }), saved, 'x'), []);
  assert.deepEqual(compareConfigs(other({ seed: 9, batch: 64 }), saved, 'x'), ['batch', 'seed']);
  assert.deepEqual(compareConfigs(other({ optimizer: { name: 'adamw', lr: 1 } }), saved, 'x'), ['optimizer']);
  assert.throws(() => compareConfigs(other({ model: { family: 'mlp', sizes: [4, 5, 2] } }), saved, 'x'), usage(/x holds model .*4,3,2.*4,5,2/)); // prettier-ignore
  assert.throws(() => compareConfigs(other({ optimizer: { name: 'sgd', lr: 1 } }), saved, 'x'), usage(/state of adamw; .* sgd without momentum/)); // prettier-ignore
});

test('tied ends ask for the same parameter, whichever way the run was split', () => {
  const gpt = parseRunConfig({
    model: { family: 'gpt2', n_layer: 4, n_embd: 8, n_head: 2 },
    data: { text: 'x', tokenizer: 'char', contextLength: 4 },
    optimizer: { name: 'adamw', lr: 1 },
    stages: ['head', 'body', 'tail'],
  });
  const holders = planStages(gpt).map((plan) => namesOfStage(gpt, plan).weights.includes('transformer.wte.weight'));
  assert.deepEqual(holders, [true, false, true]);
});
