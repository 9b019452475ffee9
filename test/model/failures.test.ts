// What a stage leaves behind: a call that fails leaves neither buffers nor half-made tables, writing takes no second copy on the
// GPU, equal steps use equal buffers; and what no kernel could bind is refused when the stage is opened.
import assert from 'node:assert/strict';
import test from 'node:test';
import { optimizerSpecSchema, type LossResult } from '../../runtime/compute.ts';
import { BufferPool, type Slice } from '../../runtime/gpu/buffers.ts';
import type { Recorder } from '../../runtime/gpu/gpu.ts';
import { stretchGroups } from '../../runtime/gpu/ops.ts';
import { modelSpecSchema } from '../../runtime/model-spec.ts';
import { i32Tensor, type Tensor } from '../../runtime/tensor.ts';
import { copiesOf, meshError, narrowCompute, testCompute } from './harness.ts';

const optimizer = optimizerSpecSchema.parse({ name: 'adamw', lr: 1e-3 });
const llama = modelSpecSchema.parse({
  family: 'llama',
  ...{ vocab_size: 64, hidden_size: 64, intermediate_size: 128, num_hidden_layers: 1, initializer_range: 0.3 },
  ...{ num_attention_heads: 2, num_key_value_heads: 1, max_position_embeddings: 512 },
});
const whole = { from: 0, to: 1, seed: 1, optimizer };
const ids = (B: number, T: number, step: number, V = 64): Tensor =>
  i32Tensor(
    [B, T],
    Int32Array.from({ length: B * T }, (_, i) => (i * step) % V),
  );

for (const precision of ['f32', 'bf16', 'f16'] as const)
  test(`a call that is refused while it is recorded leaves nothing: ${precision}`, async () => {
    const { compute, stop } = narrowCompute(128 * 1024);
    const lossOf = (stage: number, B: number): Promise<LossResult> =>
      compute.loss(stage, ids(B, 16, 37), ids(B, 16, 41), { scale: 1, train: B > 1, accumulate: true });
    try {
      const [fresh, tried] = [
        await compute.open({ ...whole, model: llama, precision }),
        await compute.open({ ...whole, model: llama, precision }),
      ];
      const wanted = await lossOf(fresh.stage, 1);
      const before = (await compute.describe()).stats.usedBytes;
      // 20 · 16 rows of 128 values are more than a binding; tables and copies of weights are made before that is met.
      await assert.rejects(lossOf(tried.stage, 20), meshError('out-of-memory'));
      assert.equal((await compute.describe()).stats.usedBytes, before);
      assert.equal((await lossOf(tried.stage, 1)).loss, wanted.loss);
      // Whatever lies in its buffers, one that follows at once makes its own.
      const [refused, next] = await Promise.allSettled([lossOf(tried.stage, 20), lossOf(tried.stage, 1)]);
      assert.equal(refused.status, 'rejected');
      assert.equal(next.status === 'fulfilled' ? next.value.loss : next.reason, wanted.loss);
    } finally {
      await stop();
    }
  });

test('halves of odd sizes are bound all the same', async () => {
  const compute = testCompute();
  const model = modelSpecSchema.parse({
    family: 'llama',
    ...{ vocab_size: 19, hidden_size: 7, intermediate_size: 3, num_hidden_layers: 1, initializer_range: 0.3 },
    ...{ num_attention_heads: 4, num_key_value_heads: 2, head_dim: 10, max_position_embeddings: 16 },
  });
  const losses: number[] = [];
  for (const precision of ['f32', 'bf16', 'f16'] as const) {
    const { stage } = await compute.open({ ...whole, model, precision });
    const options = { scale: 1 / 15, train: true, accumulate: true };
    losses.push((await compute.loss(stage, ids(3, 5, 37, 19), ids(3, 5, 41, 19), options)).loss);
    await compute.close(stage);
  }
  const [exact = Number.NaN, ...halves] = losses;
  for (const loss of halves) assert.ok(Math.abs(loss - exact) < 0.02 * exact, `${loss}, ${exact}`);
});

test('a matrix that no binding holds is refused when the stage is opened; the tables of all tokens are not', async () => {
  const { compute, stop } = narrowCompute(64 * 1024);
  const still = { resid_pdrop: 0, embd_pdrop: 0, attn_pdrop: 0 };
  const gpt2 = (sizes: object): unknown => ({
    family: 'gpt2',
    n_positions: 16,
    n_layer: 1,
    n_head: 2,
    ...still,
    ...sizes,
  });
  try {
    const wide = modelSpecSchema.parse(gpt2({ vocab_size: 50, n_embd: 128 }));
    await assert.rejects(compute.open({ ...whole, model: wide }), meshError('out-of-memory'));
    const tall = modelSpecSchema.parse(gpt2({ vocab_size: 700, n_embd: 32 }));
    await compute.open({ ...whole, model: tall });
  } finally {
    await stop();
  }
});

test('weights and moments are written without a second copy of them on the GPU', async () => {
  const compute = testCompute();
  const { stage } = await compute.open({ ...whole, model: llama });
  for (const kind of ['weights', 'optimizer'] as const) {
    const tensors = copiesOf(await compute.read(stage, kind));
    const { allocatedBytes } = (await compute.describe()).stats;
    await compute.write(stage, kind, tensors);
    assert.equal((await compute.describe()).stats.allocatedBytes, allocatedBytes);
  }
  await compute.close(stage);
});

test('equal steps take equal buffers, in whatever order they are given back', () => {
  const device = {
    createBuffer: ({ size, usage }: GPUBufferDescriptor) => ({ size, usage, destroy: () => {} }),
    queue: { submit: () => {} },
  };
  const limits = { maxBufferSize: 2 ** 20, maxStorageBufferBindingSize: 2 ** 20, idleBytes: 2 ** 20 };
  // A stand-in for a host object, of which the pool calls only this.
  const pool = new BufferPool(device as unknown as GPUDevice, limits, () => {});
  const step = (order: readonly number[]): GPUBuffer[] => {
    const slices = Array.from({ length: 4 }, (): Slice => pool.take(1000));
    for (const i of order) pool.release(slices[i] ?? { buffer: {} as GPUBuffer, offset: 0, bytes: 0 });
    return slices.map(({ buffer }) => buffer);
  };
  const first = step([0, 1, 2, 3]);
  for (const order of [
    [3, 1, 0, 2],
    [2, 3, 1, 0],
    [0, 2, 1, 3],
  ])
    assert.ok(step(order).every((buffer, i) => buffer === first[i]));
});

test('a grid of strides has one row', () => {
  const software = { description: { isSoftware: true } } as unknown as Recorder;
  const hardware = { description: { isSoftware: false } } as unknown as Recorder;
  for (const recorder of [software, hardware])
    for (const count of [1, 255, 2 ** 20, 2 ** 29, 2 ** 31]) {
      const groups = stretchGroups(recorder, count);
      assert.ok(groups >= 1 && groups <= 65_535, `${count}: ${groups}`);
    }
});
