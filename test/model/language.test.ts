// Transformers agree with PyTorch (test/golden/make_lm_golden.py): loss within 1e-5, every gradient within 2e-4 of its norm, whole
// and cut into stages in every way; recomputed activations give the same; a step of AdamW lands where PyTorch's does.
import assert from 'node:assert/strict';
import { readFileSync, readdirSync } from 'node:fs';
import test from 'node:test';
import { optimizerSpecSchema, type StageSpec } from '../../runtime/compute.ts';
import { modelSpecSchema } from '../../runtime/model-spec.ts';
import { fromHuggingFace } from '../../runtime/model/huggingface.ts';
import { layerCount, stageInfo } from '../../runtime/model/spec.ts';
import { decode } from '../../runtime/safetensors.ts';
import { i32Of, i32Tensor, type Tensor } from '../../runtime/tensor.ts';
import { relativeError } from '../reference/kernels.ts';
import { splits } from '../support/splits.ts';
import { Pipeline, copyOf, floats, narrowCompute, testCompute } from './harness.ts';

const LOSS = 1e-5;
const GRADIENT = 2e-4;
const ADAMW = 1e-5;
/** Where weights and kept inputs have 16 bits. */
const NEAR = { gradient: 5e-2, loss: 2e-2 };
const folder = new URL('../golden/lm/', import.meta.url);
const compute = testCompute();
const optimizer = optimizerSpecSchema.parse({
  name: 'adamw',
  lr: 1e-3,
  beta1: 0.9,
  beta2: 0.95,
  eps: 1e-8,
  weightDecay: 0.1,
});

interface Golden {
  spec: StageSpec;
  layers: number;
  get: (name: string) => Tensor;
  /** Tensors `<prefix><name>` by our names, in our layout. */
  all: (prefix: string) => Map<string, Tensor>;
  scale: number;
}

function load(name: string): Golden {
  const model = modelSpecSchema.parse(JSON.parse(readFileSync(new URL(`${name}.json`, folder), 'utf8')));
  const { tensors } = decode(new Uint8Array(readFileSync(new URL(`${name}.safetensors`, folder))));
  const get = (key: string): Tensor => {
    const tensor = tensors.get(key);
    if (tensor === undefined) throw new Error(`${name} lacks ${key}`);
    return copyOf(tensor);
  };
  const layers = layerCount(model);
  const known = stageInfo(model, 0, layers).parameters.map((parameter) => parameter.name);
  const counted = i32Of(get('labels')).filter((label) => label !== -100).length;
  return {
    spec: { model, from: 0, to: layers, seed: 1, optimizer },
    layers,
    get,
    all: (prefix) => fromHuggingFace(model, new Map(known.map((key) => [key, get(prefix + key)]))),
    scale: 1 / counted,
  };
}

/** One microbatch through all stages: the loss, and every gradient, those of a shared parameter added up. */
async function gradientsOf(
  golden: Golden,
  counts: number[],
  options: Partial<StageSpec> = {},
): Promise<{ loss: number; gradients: Map<string, Float32Array>; pipeline: Pipeline }> {
  const pipeline = await Pipeline.open(compute, { ...golden.spec, ...options }, counts);
  await pipeline.write('weights', golden.all(''));
  const { loss } = await pipeline.train('0', golden.get('input_ids'), golden.get('labels'), golden.scale, true);
  const gradients = new Map<string, Float32Array>();
  for (const stage of pipeline.stages)
    for (const [name, tensor] of await compute.read(stage, 'gradients')) {
      const before = gradients.get(name);
      gradients.set(
        name,
        before === undefined ? floats(tensor) : floats(tensor).map((value, i) => value + (before[i] ?? 0)),
      );
    }
  return { loss, gradients, pipeline };
}

function check(
  golden: Golden,
  loss: number,
  gradients: Map<string, Float32Array>,
  tolerance = GRADIENT,
  lossTolerance = (LOSS * tolerance) / GRADIENT,
): void {
  const wantedLoss = floats(golden.get('loss'))[0] ?? Number.NaN;
  assert.ok(Math.abs(loss - wantedLoss) <= lossTolerance, `loss ${loss}, PyTorch ${wantedLoss}`);
  const wanted = golden.all('grad.');
  assert.equal(gradients.size, wanted.size);
  for (const [name, tensor] of wanted) {
    const error = relativeError(gradients.get(name) ?? [], floats(tensor));
    assert.ok(error <= tolerance, `gradient of ${name}: ${error}`);
  }
}

const names = readdirSync(folder)
  .filter((file) => file.endsWith('.safetensors'))
  .map((file) => file.replace('.safetensors', ''));

for (const name of names) {
  const golden = load(name);
  for (const counts of splits(golden.layers))
    test(`${name} split into ${counts.join('+')}`, async () => {
      const { loss, gradients, pipeline } = await gradientsOf(golden, counts);
      check(golden, loss, gradients);
      await pipeline.close();
    });
}

for (const name of ['gpt2-four-layers', 'llama-four-layers', 'llama-four-layers-tied-rope-llama3']) {
  const golden = load(name);
  for (const precision of ['bf16', 'f16'] as const)
    test(`${name} in ${precision} is near PyTorch's f32`, async () => {
      const { loss, gradients, pipeline } = await gradientsOf(golden, [2, 2], { precision });
      check(golden, loss, gradients, NEAR.gradient, NEAR.loss);
      await pipeline.close();
    });

  test(`${name} recomputed for the backward pass`, async () => {
    const { loss, gradients, pipeline } = await gradientsOf(golden, [2, 2], { recompute: true });
    check(golden, loss, gradients);
    await pipeline.close();
  });
}

for (const name of names) {
  const golden = load(name);
  test(`${name} takes PyTorch's step of AdamW`, async () => {
    const { gradients, pipeline } = await gradientsOf(golden, [golden.layers]);
    await pipeline.step();
    const weights = await pipeline.read('weights');
    for (const [key, tensor] of golden.all('adamw.')) {
      // Where a gradient is only rounding, the step's sign is, too.
      const clear = (gradients.get(key) ?? new Float32Array()).map((value) => (Math.abs(value) >= 1e-5 ? 1 : 0));
      const masked = (values: Float32Array): Float32Array => values.map((value, i) => value * (clear[i] ?? 0));
      const error = relativeError(masked(floats(weights.get(key))), masked(floats(tensor)), floats(tensor));
      assert.ok(error <= ADAMW, `${key}: ${error}`);
    }
    await pipeline.close();
  });
}

test('dropout: one seed is one set of masks, also when recomputed; another seed is another; none is none', async () => {
  const golden = load('gpt2-four-layers');
  const { model } = golden.spec;
  const dropping = modelSpecSchema.parse({ ...model, resid_pdrop: 0.2, embd_pdrop: 0.1, attn_pdrop: 0.3 });
  const run = async (
    dropout: number | undefined,
    recompute: boolean,
  ): Promise<{ loss: number; flat: Float32Array }> => {
    const { stage } = await compute.open({ ...golden.spec, model: dropping, recompute });
    await compute.write(stage, 'weights', golden.all(''));
    const options = {
      scale: golden.scale,
      train: true,
      accumulate: true,
      ...(dropout === undefined ? {} : { dropout }),
    };
    const { loss } = await compute.loss(stage, golden.get('input_ids'), golden.get('labels'), options);
    const gradients = await compute.read(stage, 'gradients');
    await compute.close(stage);
    return { loss, flat: Float32Array.from([...gradients.values()].flatMap((tensor) => [...floats(tensor)])) };
  };
  const [once, again, recomputed, other, none] = [
    await run(5, false),
    await run(5, false),
    await run(5, true),
    await run(6, false),
    await run(undefined, false),
  ];
  assert.equal(once.loss, again.loss);
  assert.ok(relativeError(once.flat, again.flat) < 1e-6 && relativeError(once.flat, recomputed.flat) < 1e-5);
  assert.ok(relativeError(once.flat, other.flat) > 0.05, 'another seed');
  const wanted = floats(golden.get('loss'))[0] ?? 0;
  assert.ok(Math.abs(none.loss - wanted) < LOSS && Math.abs(once.loss - wanted) > 1e-4, 'none is none');
});

for (const precision of ['f32', 'bf16'] as const)
  test(`a table larger than one binding is read, trained and stepped in windows: ${precision}`, async () => {
    // The device says that it binds 66 KiB at most: less than the table of 257 × 66 values, and than the logits of 70 tokens.
    const limit = 66 * 1024;
    const { compute: small, stop } = narrowCompute(limit);
    // Not AdamW: where a gradient is only rounding, the sign of its first step is, too.
    const spec = { ...load('gpt2-untied').spec, optimizer: optimizerSpecSchema.parse({ name: 'sgd', lr: 0.1 }) };
    const model = modelSpecSchema.parse({
      ...{ family: 'gpt2', vocab_size: 257, n_positions: 35, n_embd: 66, n_layer: 1, n_head: 3 },
      ...{ resid_pdrop: 0, embd_pdrop: 0, attn_pdrop: 0, n_inner: 60 },
    });
    const x = i32Tensor(
      [2, 35],
      Int32Array.from({ length: 70 }, (_, i) => (i * 37) % 257),
    );
    const y = i32Tensor(
      [2, 35],
      Int32Array.from({ length: 70 }, (_, i) => (i * 41 + 5) % 257),
    );
    try {
      const results = [];
      for (const on of [compute, small]) {
        const { stage } = await on.open({ ...spec, model, from: 0, to: 1, precision });
        const logits = await on.forward(stage, 'k', copyOf(x), { keep: false });
        const { loss } = await on.loss(stage, copyOf(x), copyOf(y), { scale: 1 / 70, train: true, accumulate: true });
        const gradients = await on.read(stage, 'gradients');
        const { gradientNorm } = await on.step(stage);
        const weights = await on.read(stage, 'weights');
        results.push({ logits: floats(logits), loss, gradients, gradientNorm, weights });
      }
      const [whole, windowed] = results;
      assert.ok(whole !== undefined && windowed !== undefined);
      assert.ok(Math.abs(whole.loss - windowed.loss) < 1e-6);
      assert.ok(Math.abs(whole.gradientNorm - windowed.gradientNorm) < 1e-6 * whole.gradientNorm);
      assert.ok(relativeError(windowed.logits, whole.logits) < 1e-6);
      for (const [name, tensor] of whole.gradients)
        assert.ok(relativeError(floats(windowed.gradients.get(name)), floats(tensor)) < 1e-5, `gradient of ${name}`);
      for (const [name, tensor] of whole.weights)
        assert.ok(relativeError(floats(windowed.weights.get(name)), floats(tensor)) < 1e-5, name);
    } finally {
      await stop();
    }
  });
