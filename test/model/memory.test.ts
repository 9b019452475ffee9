// What a stage will need is known before it is built: within a tenth of what it then takes, in a steady state that makes no more
// buffers; recomputation lowers it as predicted; what does not fit is refused with what would.
import assert from 'node:assert/strict';
import test from 'node:test';
import { installDawnPacing } from '../../node/dawn-pacing.ts';
import { platform } from '../../node/platform.ts';
import { createCompute } from '../../runtime/compute-engine.ts';
import type { StageSpec } from '../../runtime/compute.ts';
import { toMeshError } from '../../runtime/errors.ts';
import { modelSpecSchema } from '../../runtime/model-spec.ts';
import { predictMemory, type Load } from '../../runtime/model/memory.ts';
import { i32Tensor, type Tensor } from '../../runtime/tensor.ts';
import { copyOf } from './harness.ts';

installDawnPacing();

const still = { resid_pdrop: 0, embd_pdrop: 0, attn_pdrop: 0 };
const model = modelSpecSchema.parse({
  family: 'gpt2',
  ...{ vocab_size: 300, n_positions: 64, n_embd: 96, n_layer: 4, n_head: 4 },
  ...still,
});
const optimizer = { name: 'adamw', lr: 1e-3, beta1: 0.9, beta2: 0.95, eps: 1e-8, weightDecay: 0.1 } as const;
const LOAD: Load = { B: 8, T: 64, kept: 3 };

const ids = (B: number, T: number): Tensor =>
  i32Tensor(
    [B, T],
    Int32Array.from({ length: B * T }, (_, i) => (i * 31) % 300),
  );

/** Two stages, trained for a few steps on a device of their own: the peak of each, and buffers made in the last steps. */
async function measured(change: Partial<StageSpec>): Promise<{ peaks: number[]; made: number }> {
  const peaks: number[] = [];
  let made = 0;
  const spans = [
    { from: 0, to: 2 },
    { from: 2, to: 4 },
  ];
  const { B, T, kept } = LOAD;
  const y = ids(B, T);
  for (const [i, span] of spans.entries()) {
    const { compute, stop } = createCompute(platform);
    const { stage, info } = await compute.open({ model, ...span, seed: 1, optimizer, ...change });
    const x = (): Tensor =>
      i === 0 ? ids(B, T) : { dtype: 'f32', shape: [B, T, 96], data: new Uint8Array(B * T * 96 * 4) };
    let before = 0;
    for (let step = 0; step < 6; step += 1) {
      if (step === 3) before = (await compute.describe()).stats.buffersCreated;
      if (info.isLast) {
        const options = { scale: 1 / (B * T), train: true, accumulate: true };
        await Promise.all(Array.from({ length: kept }, () => compute.loss(stage, x(), copyOf(y), options)));
      } else {
        for (let m = 0; m < kept; m += 1) await compute.forward(stage, String(m), x(), { keep: true });
        for (let m = 0; m < kept; m += 1) {
          const dy: Tensor = { dtype: 'f32', shape: [B, T, 96], data: new Uint8Array(B * T * 96 * 4) };
          await compute.backward(stage, String(m), dy, { accumulate: true });
        }
      }
      await compute.step(stage);
    }
    const { stats } = await compute.describe();
    peaks.push(stats.peakBytes);
    made += stats.buffersCreated - before;
    await stop();
  }
  return { peaks, made };
}

async function predicted(change: Partial<StageSpec>): Promise<number[]> {
  const { compute, stop } = createCompute(platform);
  const description = await compute.describe();
  await stop();
  const plans = [];
  for (const span of [
    { from: 0, to: 2 },
    { from: 2, to: 4 },
  ])
    plans.push(await predictMemory({ model, ...span, seed: 1, optimizer, ...change }, LOAD, description));
  return plans.map(({ peakBytes }) => peakBytes);
}

for (const change of [{}, { recompute: true }, { precision: 'bf16' as const }])
  test(`peak memory is predicted within a tenth: ${JSON.stringify(change)}`, async () => {
    const { peaks, made } = await measured(change);
    for (const [i, bytes] of (await predicted(change)).entries()) {
      const ratio = bytes / (peaks[i] ?? 0);
      assert.ok(ratio > 0.9 && ratio < 1.1, `stage ${i}: predicted ${bytes}, measured ${peaks[i]}`);
    }
    assert.equal(made, 0, 'buffers made in a steady state');
  });

test('recomputation lowers the peak, as predicted', async () => {
  const [plain = 0] = (await measured({})).peaks;
  const [less = 0] = (await measured({ recompute: true })).peaks;
  const [plainPlan = 0] = await predicted({});
  const [lessPlan = 0] = await predicted({ recompute: true });
  assert.ok(less < plain * 0.75, `${less} of ${plain}`);
  assert.ok(Math.abs(less / plain - lessPlan / plainPlan) < 0.1, `${less / plain}, predicted ${lessPlan / plainPlan}`);
});

test('a stage that will not fit is refused before it is built, with what would fit', async () => {
  const bytes = 12 * 2 ** 20;
  const { compute, stop } = createCompute({
    kernelSource: (name) => platform.kernelSource(name),
    gpuMissing: () => platform.gpuMissing(),
    gpu: () => platform.gpu(),
    memoryBytes: () => bytes,
  });
  try {
    const before = (await compute.describe()).stats.buffersCreated;
    const error = await compute.open({ model, from: 0, to: 4, seed: 1, optimizer, load: LOAD }).then(
      () => null,
      (cause: unknown) => toMeshError(cause),
    );
    assert.equal(error?.code, 'out-of-memory');
    assert.match(error.message, /Layers 0 to 4 of 4 need \d+(\.\d+)? MiB .* lends 1[12]\.\d MiB/);
    assert.match(error.fix, /What would fit here: .*(recompute|microbatch of 1|stages)/);
    assert.equal((await compute.describe()).stats.buffersCreated, before);
    await compute.open({ model, from: 0, to: 1, seed: 1, optimizer, load: { B: 1, T: 16, kept: 1 } });
  } finally {
    await stop();
  }
});

test('memory is not promised twice: not to a second stage, and not to two that are opened together', async () => {
  const spec = { model, from: 0, to: 2, seed: 1, optimizer, load: LOAD };
  const { compute: asked, stop: enough } = createCompute(platform);
  const plan = await predictMemory(spec, LOAD, await asked.describe());
  await enough();
  assert.ok(plan.heldBytes > plan.stateBytes + 2.9 * plan.keptBytes && plan.heldBytes < plan.peakBytes);
  for (const isTogether of [false, true]) {
    const { compute, stop } = createCompute({
      kernelSource: (name) => platform.kernelSource(name),
      gpuMissing: () => platform.gpuMissing(),
      gpu: () => platform.gpu(),
      // The first one leaves room for its own peak, and for the weights of another.
      memoryBytes: () => plan.peakBytes + plan.heldBytes / 2,
    });
    try {
      const first = compute.open(spec);
      if (!isTogether) await first;
      const second = compute.open(spec).then(
        () => null,
        (cause: unknown) => toMeshError(cause),
      );
      const { stage } = await first;
      assert.equal((await second)?.code, 'out-of-memory');
      await compute.close(stage);
      await compute.open(spec);
    } finally {
      await stop();
    }
  }
});
