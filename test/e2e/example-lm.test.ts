// The language-model example: the run that it makes is the one that PyTorch was measured on, and a short one ends as the long one does.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import test from 'node:test';
import { readHfFolder } from '../../node/hf-folder.ts';
import { prepareRun } from '../../node/run-data.ts';
import { parseRunConfig } from '../../runtime/train/config.ts';
import { lrAt, rateOf } from '../../runtime/train/learning-rate.ts';
import type { MeshEvent } from '../../runtime/events.ts';
import { ROOT } from '../support/processes.ts';

const readJson = async (name: string): Promise<Record<string, never>> =>
  JSON.parse(await readFile(path.join(ROOT, name), 'utf8')) as Record<string, never>;

test('model, data, optimizer and reference are those of the golden run', async () => {
  const golden: Record<string, unknown> = await readJson('test/golden/lm/sotu-char-reference.json');
  const { run, reference } = (await readJson('node/example-lm.json')) as { run?: object; reference?: Record<string, unknown> }; // prettier-ignore
  assert.ok(run && reference);
  const { config, data } = await prepareRun(parseRunConfig(run));
  const model = config.model as Record<string, unknown>;
  for (const [key, value] of Object.entries(golden['model'] as object)) assert.equal(model[key], value, key);
  for (const key of ['resid_pdrop', 'embd_pdrop', 'attn_pdrop']) assert.equal(model[key], 0, key);
  assert.deepEqual(
    [config.batch, data.targetsPerRow, config.maxSteps, config.evalRows],
    [golden['batch'], golden['tokens'], golden['steps'], golden['heldOutWindows']],
  );
  const { name, lr, minLr, warmupSteps, beta1, beta2, eps, weightDecay, clipNorm } = golden['optimizer'] as Record<string, number>; // prettier-ignore
  assert.deepEqual(config.optimizer, { name, lr, beta1, beta2, eps, weightDecay, decay: 'matrices' });
  assert.equal(config.clip, clipNorm);
  assert.ok(config.schedule && lr && minLr && warmupSteps);
  const rate = rateOf(config.schedule, lr, config.maxSteps ?? 0);
  assert.ok(Math.abs(lrAt(rate, 0) - lr / warmupSteps) < 1e-12 && lrAt(rate, warmupSteps) === lr);
  assert.ok(Math.abs(lrAt(rate, rate.steps) - minLr) < 1e-12);
  assert.ok(Math.abs(Number(reference['heldOutLoss']) - Number(golden['referenceLoss'])) < 1e-3);
});

test('four steps: evaluated, sampled, saved as a folder, and done last', { timeout: 170_000 }, async (t) => {
  const folder = await mkdtemp(path.join(tmpdir(), 'skein-example-'));
  t.after(() => rm(folder, { recursive: true, force: true }));
  const out = path.join(folder, 'gpt/');
  const args = ['--exit', '--json', '--steps', '4', '--port', '0', '--state', path.join(folder, 'state'), '--out', out];
  const child = spawn(process.execPath, ['node/example-lm.ts', ...args], {
    cwd: ROOT,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  t.after(() => child.kill('SIGTERM'));
  let stdout = '';
  let stderr = '';
  child.stdout.on('data', (text: Buffer) => (stdout += text.toString()));
  child.stderr.on('data', (text: Buffer) => (stderr += text.toString()));
  const code = await new Promise((resolve) => child.once('close', resolve));
  assert.equal(code, 0, stderr.slice(-2_000));
  const events = stdout.trimEnd().split('\n').map((line) => JSON.parse(line) as MeshEvent); // prettier-ignore
  const kinds = events.map(({ kind }) => kind);
  const ends = kinds.filter((kind) => /^(run\.evaluated|text\.sampled|model\.saved|run\.done)$/.test(kind));
  assert.deepEqual(ends, ['run.evaluated', 'text.sampled', 'model.saved', 'run.done']);
  const done = events.at(-1);
  assert.ok(done?.kind === 'run.done');
  assert.ok(done.heldOutLoss !== undefined && done.heldOutLoss < 4.5 && done.referenceLoss === undefined);
  assert.equal(done.peers, 4);
  const sampled = events.find((event) => event.kind === 'text.sampled');
  assert.equal(sampled?.text.length, 200);
  const { config, tensors, tokenizer } = await readHfFolder(out);
  assert.equal(config['model_type'], 'gpt2');
  assert.ok(tensors.has('transformer.wte.weight') && !tensors.has('lm_head.weight'));
  assert.equal((await tokenizer())?.vocabularySize, config['vocab_size']);
});
