// A language model over two stages × two replicas of real processes equals the same model whole in one worker: the embedding that both
// ends share, clipping by the norm of all, a schedule; also when a replica dies, and when the run goes on from a checkpoint.
import assert from 'node:assert/strict';
import { readdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import test from 'node:test';
import { platform } from '#platform';
import { openCheckpoint } from '../../node/checkpoints.ts';
import { readHfFolder } from '../../node/hf-folder.ts';
import { prepareRun } from '../../node/run-data.ts';
import { trainOnce } from '../../node/train.ts';
import type { EventOf, MeshEvent } from '../../runtime/events.ts';
import { layerCount } from '../../runtime/model/spec.ts';
import { transposed } from '../../runtime/model/huggingface.ts';
import type { Tensors } from '../../runtime/tensor.ts';
import { parseRunConfig } from '../../runtime/train/config.ts';
import { lrAt, rateOf } from '../../runtime/train/learning-rate.ts';
import { randomBelow, randomWords } from '../../runtime/train/random.ts';
import { makeSchedule } from '../../runtime/train/schedule.ts';
import { startMesh, type TestMesh } from '../support/mesh.ts';
import { assertClose, assertWeights } from '../support/training.ts';

const STEPS = 8;
const CLIP = 0.5;
const document = (folder: string, more: object = {}): object => ({
  model: { family: 'gpt2', n_layer: 2, n_embd: 16, n_head: 2, resid_pdrop: 0, embd_pdrop: 0, attn_pdrop: 0 },
  data: { text: path.join(folder, 'text.txt'), tokenizer: 'char', contextLength: 16 },
  policy: 'all',
  batch: 6,
  microbatch: 2,
  epochs: 1,
  maxSteps: STEPS,
  // A large eps: where a gradient is only rounding, AdamW would make a whole step of its sign.
  optimizer: { name: 'adamw', lr: 0.01, eps: 1e-3, weightDecay: 0.1, decay: 'matrices' },
  schedule: { warmup: 3, kind: 'cosine', final: 0.1 },
  clip: CLIP,
  evalRows: 20,
  seed: 7,
  patienceMs: 60_000,
  ...more,
});

/** Words of a small language, the same every time. */
function text(): string {
  const words = ['the', 'geese', 'fly', 'in', 'a', 'skein', 'over', 'water', 'and', 'take', 'turns', 'in front'];
  const draw = randomWords(5, 5);
  return Array.from({ length: 1_200 }, () => words[randomBelow(words.length, draw)]).join(' ');
}

interface Alone {
  losses: number[];
  heldOutLoss: number;
  weights: Tensors;
}

/** Whole batches through the whole model in one worker. */
async function alone(given: object): Promise<Alone> {
  const { config, data } = await prepareRun(parseRunConfig(given));
  const { model, seed, optimizer, schedule: spec } = config;
  const worker = await platform.startCompute();
  const { compute } = worker;
  const { stage } = await compute.open({ model, from: 0, to: layerCount(model), seed, optimizer });
  const schedule = makeSchedule({ ...config, microbatch: config.batch, rows: data.train.rows, order: (epoch) => data.train.order(epoch) }); // prettier-ignore
  assert.ok(spec);
  const rate = rateOf(spec, optimizer.lr, schedule.steps);
  const losses: number[] = [];
  for (let step = 0; step < schedule.steps; step += 1) {
    const [whole] = schedule.at(step);
    assert.ok(whole);
    const { x, y } = data.train.batch(whole.rows);
    const scale = 1 / (whole.rows.length * data.targetsPerRow);
    losses.push((await compute.loss(stage, x, y, { scale, train: true, accumulate: true })).loss);
    const norm = Math.sqrt(await compute.squaredNorm(stage, {}));
    assert.ok(norm > CLIP, `the norm ${norm} is clipped`);
    await compute.step(stage, { lr: lrAt(rate, step), gradientScale: CLIP / (norm + 1e-6) });
  }
  const { x, y } = data.test.batch(Uint32Array.from({ length: 20 }, (_, i) => i));
  const held = await compute.loss(stage, x, y, { scale: 1 / (20 * 16), train: false, accumulate: false });
  const weights = await compute.read(stage, 'weights');
  await worker.end();
  return { losses, heldOutLoss: held.loss, weights };
}

interface Meshed {
  losses: number[];
  done: EventOf<'run.done'>;
  events: MeshEvent[];
}

async function meshed(
  mesh: TestMesh,
  given: object,
  out: string,
  onEvent?: (event: MeshEvent) => void,
): Promise<Meshed> {
  const events: MeshEvent[] = [];
  const emit = (event: MeshEvent): void => {
    events.push(event);
    onEvent?.(event);
  };
  const { signal } = new AbortController();
  const config = parseRunConfig(given);
  const done = await trainOnce({ join: mesh.joinUrl, config, out, host: '127.0.0.1', port: 0 }, { emit, signal });
  const losses = events.flatMap((event) => (event.kind === 'step.applied' ? [event.loss] : []));
  return { losses, done, events };
}

const weightsOf = async (folder: string): Promise<Tensors> => {
  const { tensors, tensor } = await readHfFolder(folder);
  const read = await Promise.all([...tensors.keys()].map(async (name) => [name, await tensor(name)] as const));
  return new Map(
    read.map(([name, value]) => [name, /c_(attn|proj|fc)\.weight$/.test(name) ? transposed(value) : value]),
  );
};

test('over two stages × two replicas as alone', { timeout: 175_000 }, async (t) => {
  const mesh = await startMesh(t);
  const folder = mesh.directory;
  await writeFile(path.join(folder, 'text.txt'), text());
  const uids = ['front.0.0.0', 'back.0.0.0', 'front.0.1.0', 'back.0.1.0'];
  const starting = Promise.all(uids.map((uid, i) => mesh.serveReady(i === 0 ? [uid, 'whole.0.0.0'] : [uid])));
  const reference = await alone(document(folder));
  const servers = await starting;
  const checkpoints = path.join(folder, 'checkpoints');
  const sample = { prompt: 'the ', tokens: 12 };

  await t.test('tied, clipped, scheduled; evaluated, sampled, saved', async () => {
    const out = path.join(folder, 'model/');
    const run = await meshed(mesh, document(folder, { sample, evalEvery: 4, checkpoints: { folder: checkpoints, every: 4 } }), out); // prettier-ignore
    assertClose(run.losses, reference.losses, 2e-5);
    assertClose([run.done.heldOutLoss ?? NaN], [reference.heldOutLoss], 2e-5);
    assertWeights(await weightsOf(out), reference.weights, 1e-3);
    const last = run.events.map(({ kind }) => kind).filter((kind) => /^(run\.(evaluated|done)|text|model)/.test(kind));
    assert.deepEqual(last, ['run.evaluated', 'run.evaluated', 'text.sampled', 'model.saved', 'run.done']);
    const sampled = run.events.find((event) => event.kind === 'text.sampled');
    assert.equal(sampled?.prompt, 'the ');
    assert.equal(sampled.text.length, 12);
    assert.ok(run.done.appliedMicrobatches === STEPS * 3 && run.done.plannedMicrobatches === STEPS * 3);
    assert.ok(await (await readHfFolder(out)).tokenizer());
  });

  await t.test('a run that goes on has the same losses', async () => {
    const saved = (await openCheckpoint(checkpoints)).run;
    assert.equal(saved.step, STEPS);
    const [first] = (await readdir(checkpoints)).filter((name) => name.startsWith('step-000004'));
    const resume = path.join(checkpoints, first ?? '');
    // Also split another way: what is kept is the model, whichever stages it was on.
    for (const stages of [['front', 'back'], ['whole']]) {
      const run = await meshed(mesh, document(folder, { resume, stages }), path.join(folder, `${stages.join()}/`));
      assertClose(run.losses, reference.losses.slice(4), 2e-5);
      assert.equal(run.done.appliedMicrobatches, 4 * 3);
      assertClose([run.done.heldOutLoss ?? NaN], [reference.heldOutLoss], 2e-5);
      assert.equal(run.events.find((event) => event.kind === 'run.started')?.resumedAt, 4);
    }
    await assert.rejects(
      meshed(mesh, document(folder, { resume, model: { family: 'gpt2', n_layer: 3, n_embd: 16, n_head: 2 } }), path.join(folder, 'x/')),
      { code: 'usage', message: /holds model/ },
    ); // prettier-ignore
  });

  await t.test('async, untied: each stage by itself, paced', async () => {
    const model = { ...(document(folder) as { model: object }).model, tie_word_embeddings: false };
    const given = document(folder, { model, mode: 'async', maxSteps: 24, averageEvery: 5 });
    const run = await meshed(mesh, given, path.join(folder, 'async.safetensors'));
    assert.equal(run.done.appliedMicrobatches, 72);
    assert.ok((run.done.heldOutLoss ?? NaN) < 2.9, `${run.done.heldOutLoss}`);
  });

  await t.test('a replica of the last stage dies in the middle', async () => {
    const victim = servers[3];
    const run = await meshed(mesh, document(folder), path.join(folder, 'killed/'), (event) => {
      if (event.kind === 'step.applied' && event.step === 2) void victim?.kill('SIGKILL');
    });
    assert.ok(run.events.some(({ kind }) => kind === 'trainer.stopped'));
    assertClose(run.losses, reference.losses, 2e-5);
    assertWeights(await weightsOf(path.join(folder, 'killed/')), reference.weights, 1e-3);
  });
});
