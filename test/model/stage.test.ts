// What a stage promises beyond numbers: splits are equal, refusals change nothing, memory is steady and returns, a lost device
// rejects and a new one works.
import assert from 'node:assert/strict';
import test from 'node:test';
import fc from '../support/fast-check.ts';
import { sizeClass } from '../../runtime/gpu/buffers.ts';
import { philox, uniform } from '../../runtime/model/random.ts';
import { layerCount, splitLayers, stageInfo } from '../../runtime/model/spec.ts';
import { layoutOf } from '../../runtime/model/weights.ts';
import { f32Tensor, type Tensor } from '../../runtime/tensor.ts';
import { relativeError } from '../reference/kernels.ts';
import { Pipeline, copiesOf, devices, floats, meshError, random, specOf, targets, testCompute } from './harness.ts';

const compute = testCompute();
const SIZES = [9, 12, 7, 5];
const adamw = { name: 'adamw', lr: 0.01 };

test('philox gives its published values', () => {
  const out = new Uint32Array(4);
  philox(new Uint32Array(4), new Uint32Array(2), out);
  assert.deepEqual([...out], [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
  philox(new Uint32Array(4).fill(0xffffffff), new Uint32Array(2).fill(0xffffffff), out);
  assert.deepEqual([...out], [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]);
});

test('initial values are uniform, and depend on seed and name', () => {
  const values = uniform(1, 'a', 40_000, 0.5);
  assert.ok(values.every((value) => value >= -0.5 && value < 0.5));
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const variance = values.reduce((sum, value) => sum + value * value, 0) / values.length;
  assert.ok(Math.abs(mean) < 0.005 && Math.abs(variance - 1 / 12) < 0.002, `${mean} ${variance}`);
  assert.notDeepEqual(uniform(2, 'a', 8, 1), uniform(1, 'a', 8, 1));
  assert.notDeepEqual(uniform(2 ** 40 + 1, 'a', 8, 1), uniform(1, 'a', 8, 1));
  assert.notDeepEqual(uniform(1, 'b', 8, 1), uniform(1, 'a', 8, 1));
  assert.deepEqual(uniform(1, 'a', 4, 1), uniform(1, 'a', 8, 1).subarray(0, 4));
});

test('spans: counts, shapes, refusals', () => {
  const { model } = specOf(SIZES);
  assert.equal(layerCount(model), 3);
  assert.deepEqual(splitLayers(model, [1, 2]), [
    { from: 0, to: 1 },
    { from: 1, to: 3 },
  ]);
  const info = stageInfo(model, 1, 3);
  assert.deepEqual([info.inputShape, info.outputShape, info.isFirst, info.isLast], [[12], [5], false, true]);
  assert.deepEqual(
    info.parameters.map(({ name }) => name),
    ['layers.1.weight', 'layers.1.bias', 'layers.2.weight', 'layers.2.bias'],
  );
  assert.equal(info.parameterBytes, 4 * (12 * 7 + 7 + 7 * 5 + 5));
  for (const counts of [[3, 1], [0, 3], [1.5, 1.5], []])
    assert.throws(() => splitLayers(model, counts), meshError('stage-shapes'));
  assert.throws(() => stageInfo(model, 2, 4), meshError('stage-shapes'));
});

test('every split trains like the whole (bit for bit)', async () => {
  const results: Map<string, Tensor>[] = [];
  for (const counts of [[3], [1, 2], [2, 1], [1, 1, 1]]) {
    const pipeline = await Pipeline.open(compute, specOf(SIZES, { activation: 'gelu', optimizer: adamw }), counts);
    for (let step = 0; step < 3; step++) {
      await pipeline.train('a', random([4, 9], step), targets(0, 4, -100, 2), 1 / 7, false);
      await pipeline.train('b', random([3, 9], step + 50), targets(1, 1, 3), 1 / 7, true);
      await pipeline.step();
    }
    results.push(await pipeline.read('weights'));
    await pipeline.close();
  }
  for (const other of results.slice(1))
    assert.deepEqual(new Map([...other].sort()), new Map([...(results[0] ?? [])].sort()));
});

test('two microbatches accumulate to the gradient of both; without accumulate nothing is touched', async () => {
  const { stage } = await compute.open(specOf(SIZES));
  const [x1, x2, both] = [random([2, 9], 1), random([3, 9], 2), new Float32Array(45)];
  both.set(floats(x1), 0);
  both.set(floats(x2), 18);
  const options = { scale: 0.2, train: true, accumulate: true };
  await compute.loss(stage, x1, targets(0, 1), options);
  const evaluated = await compute.loss(stage, x1, targets(0, 1), { ...options, train: false });
  assert.equal(evaluated.dx, null);
  await compute.loss(stage, x2, targets(2, 3, 4), options);
  const summed = await compute.read(stage, 'gradients');
  const repeated = await compute.loss(stage, x1, targets(0, 1), { ...options, accumulate: false });
  assert.ok(repeated.loss > 0);
  assert.deepEqual(await compute.read(stage, 'gradients'), summed);
  await compute.discard(stage, { gradients: true });
  await compute.loss(stage, f32Tensor([5, 9], both), targets(0, 1, 2, 3, 4), options);
  for (const [name, tensor] of await compute.read(stage, 'gradients'))
    assert.ok(relativeError(floats(summed.get(name)), floats(tensor)) < 1e-6, name);
  await compute.discard(stage, { gradients: true });
  for (const tensor of (await compute.read(stage, 'gradients')).values())
    assert.ok(floats(tensor).every((value) => value === 0));
  await compute.close(stage);
});

test('forward: keep replaces, backward forgets, discard forgets', async () => {
  const { stage } = await compute.open(specOf(SIZES, { from: 0, to: 2 }));
  const [x, dy] = [random([2, 9], 1), random([2, 7], 2)];
  await compute.forward(stage, 'k', random([3, 9], 9), { keep: true });
  const kept = await compute.forward(stage, 'k', x, { keep: true });
  const plain = await compute.forward(stage, 'k2', x, { keep: false });
  assert.deepEqual(kept, plain);
  await assert.rejects(compute.backward(stage, 'k2', dy, { accumulate: true }), meshError('stale'));
  await assert.rejects(compute.backward(stage, 'k', random([3, 7], 2), { accumulate: true }), meshError('malformed'));
  assert.equal(await compute.backward(stage, 'k', dy, { accumulate: true }), null);
  await assert.rejects(compute.backward(stage, 'k', dy, { accumulate: true }), meshError('stale'));
  await compute.forward(stage, 'a', x, { keep: true });
  await compute.forward(stage, 'b', x, { keep: true });
  await compute.discard(stage, { keys: ['a'] });
  await assert.rejects(compute.backward(stage, 'a', dy, { accumulate: true }), meshError('stale'));
  await compute.backward(stage, 'b', dy, { accumulate: true });
  await compute.close(stage);
  await assert.rejects(compute.forward(stage, 'a', x, { keep: true }), meshError('no-stage'));
});

test('bad inputs are refused before anything is accumulated', async () => {
  const { stage } = await compute.open(specOf(SIZES));
  const options = { scale: 1, train: true, accumulate: true };
  const x = random([2, 9], 1);
  const poisoned = (value: number): Tensor =>
    f32Tensor([2, 9], floats(x).map((v, i) => (i === 17 ? value : v)) as Float32Array<ArrayBuffer>);
  for (const value of [NaN, Infinity, -Infinity])
    await assert.rejects(compute.loss(stage, poisoned(value), targets(0, 1), options), meshError('not-finite'));
  for (const bad of [random([2, 8], 1), random([18], 1), { ...x, shape: [3, 9] }, { ...x, dtype: 'i32' as const }])
    await assert.rejects(compute.loss(stage, bad, targets(0, 1), options), meshError('malformed'));
  for (const y of [targets(0, 5), targets(0, -1), targets(0), random([2], 1)])
    await assert.rejects(compute.loss(stage, x, y, options), meshError('malformed'));
  for (const tensor of (await compute.read(stage, 'gradients')).values())
    assert.ok(floats(tensor).every((value) => value === 0));
  await compute.close(stage);
  const front = await compute.open(specOf(SIZES, { from: 0, to: 1 }));
  await assert.rejects(compute.loss(front.stage, x, targets(0, 1), options), meshError('usage'));
  await compute.close(front.stage);
});

test('write: exact names, shapes, dtypes and finite values, or nothing at all', async () => {
  const { stage } = await compute.open(specOf(SIZES, { optimizer: adamw }));
  await compute.loss(stage, random([2, 9], 1), targets(0, 1), { scale: 1, train: true, accumulate: true });
  await compute.step(stage);
  for (const kind of ['weights', 'gradients', 'optimizer'] as const) {
    const before = copiesOf(await compute.read(stage, kind));
    const changed = (edit: (tensors: Map<string, Tensor>) => void): Map<string, Tensor> => {
      const tensors = new Map(
        [...before].map(([name, tensor]) => [name, tensor.dtype === 'f32' ? random([...tensor.shape], 3) : tensor]),
      );
      edit(tensors);
      return tensors;
    };
    const last = [...before.keys()].findLast((name) => name !== 'step') ?? '';
    const shape = [...(before.get(last)?.shape ?? [])];
    const nan = f32Tensor([5], Float32Array.of(1, 2, 3, 4, NaN));
    await assert.rejects(
      compute.write(
        stage,
        kind,
        changed((t) => t.delete(last)),
      ),
      meshError('malformed'),
    );
    await assert.rejects(
      compute.write(
        stage,
        kind,
        changed((t) => t.set('layers.9.bias', random([5], 1))),
      ),
      meshError('malformed'),
    );
    await assert.rejects(
      compute.write(
        stage,
        kind,
        changed((t) => t.set(last, random([1, ...shape], 1))),
      ),
      meshError('malformed'),
    );
    await assert.rejects(
      compute.write(
        stage,
        kind,
        changed((t) => t.set(last, nan)),
      ),
      meshError('not-finite'),
    );
    assert.deepEqual(await compute.read(stage, kind), before, `${kind} unchanged`);
    const next = changed((t) =>
      kind === 'optimizer' ? t.set('step', { dtype: 'i32', shape: [1], data: new Uint8Array([9, 0, 0, 0]) }) : t,
    );
    await compute.write(stage, kind, copiesOf(next));
    assert.deepEqual(await compute.read(stage, kind), next, `${kind} written`);
  }
  await compute.close(stage);
});

test('combine: set and add, refusals change nothing', async () => {
  const { stage, info } = await compute.open(specOf(SIZES));
  const part = (seed: number): Map<string, Tensor> =>
    new Map(info.parameters.map(({ name, shape }, i) => [name, random(shape, seed + i)]));
  const before = copiesOf(await compute.read(stage, 'weights'));
  const expected = (name: string, base: number): number[] =>
    [...floats(part(10).get(name))].map(
      (v, i) => 0.25 * v - 0.5 * (floats(part(30).get(name))[i] ?? 0) + base * (floats(before.get(name))[i] ?? 0),
    );
  await assert.rejects(compute.combine(stage, 'weights', [part(10)], [1, 2], 'set'), meshError('malformed'));
  await assert.rejects(compute.combine(stage, 'weights', [], [], 'set'), meshError('malformed'));
  await assert.rejects(compute.combine(stage, 'weights', [part(10)], [NaN], 'set'), meshError('malformed'));
  const bad = part(10).set('layers.2.bias', f32Tensor([5], Float32Array.of(0, 0, 0, 0, Infinity)));
  await assert.rejects(compute.combine(stage, 'weights', [part(10), bad], [1, 0], 'set'), meshError('not-finite'));
  const huge = part(10).set('layers.2.bias', f32Tensor([5], new Float32Array(5).fill(3e38)));
  await assert.rejects(compute.combine(stage, 'weights', [huge, part(30)], [4, 1], 'set'), meshError('not-finite'));
  assert.deepEqual(await compute.read(stage, 'weights'), before);
  await compute.combine(stage, 'weights', [part(10), part(30)], [0.25, -0.5], 'add');
  for (const [name, tensor] of await compute.read(stage, 'weights'))
    assert.ok(relativeError(floats(tensor), expected(name, 1)) < 1e-6, name);
  await compute.combine(stage, 'weights', [part(10), part(30)], [0.25, -0.5], 'set');
  for (const [name, tensor] of await compute.read(stage, 'weights'))
    assert.ok(relativeError(floats(tensor), expected(name, 0)) < 1e-6, name);
  await compute.close(stage);
});

test('step refuses gradients that are not finite, and changes nothing', async () => {
  for (const optimizer of [{ name: 'sgd', lr: 0.1, momentum: 0.9 }, adamw]) {
    const { stage } = await compute.open(specOf(SIZES, { optimizer }));
    await compute.loss(stage, random([2, 9], 1), targets(0, 1), { scale: 1e38, train: true, accumulate: true });
    for (let i = 0; i < 5; i++)
      await compute.loss(stage, random([2, 9], 1), targets(0, 1), { scale: 3e38, train: true, accumulate: true });
    const states = async (): Promise<unknown> =>
      Promise.all((['weights', 'gradients', 'optimizer'] as const).map((kind) => compute.read(stage, kind)));
    const before = await states();
    await assert.rejects(compute.step(stage), meshError('not-finite'));
    assert.deepEqual(await states(), before);
    await compute.discard(stage, { gradients: true });
    assert.equal((await compute.step(stage)).gradientNorm, 0);
    await compute.close(stage);
  }
});

test('calls on one stage take effect in call order', async () => {
  const run = async (isWaiting: boolean): Promise<unknown> => {
    const { stage } = await compute.open(specOf(SIZES, { optimizer: adamw }));
    const calls: (() => Promise<unknown>)[] = [];
    for (let i = 0; i < 5; i++) {
      calls.push(() =>
        compute.loss(stage, random([2, 9], i), targets(0, 1), { scale: 1, train: true, accumulate: true }),
      );
      calls.push(() => compute.step(stage));
    }
    if (isWaiting) for (const call of calls) await call();
    else await Promise.all(calls.map((call) => call()));
    const weights = await compute.read(stage, 'weights');
    await compute.close(stage);
    return weights;
  };
  assert.deepEqual(await run(false), await run(true));
});

test('no buffer is created in steady state, and closing frees all', async () => {
  const idle = (await compute.describe()).stats;
  const { stage } = await compute.open(specOf([200, 300, 10], { optimizer: adamw }));
  const { stage: front } = await compute.open(specOf([200, 300, 10], { to: 1 }));
  const round = async (i: number): Promise<void> => {
    const y = await compute.forward(front, `${i}`, random([32, 200], i), { keep: true });
    await compute.backward(front, `${i}`, y, { accumulate: true });
    await compute.loss(stage, random([32, 200], i), targets(...Array.from({ length: 32 }, (_, r) => r % 10)), {
      scale: 1 / 32,
      train: true,
      accumulate: true,
    });
    await compute.step(stage);
    await compute.step(front);
    const weights = await compute.read(stage, 'weights');
    await compute.write(stage, 'weights', weights);
    await compute.combine(stage, 'weights', [weights, weights], [0.5, 0.5], 'set');
  };
  for (let i = 0; i < 3; i++) await round(i);
  const warm = (await compute.describe()).stats;
  const rssBefore = process.memoryUsage().rss;
  for (let i = 0; i < 30; i++) await round(i);
  const after = (await compute.describe()).stats;
  assert.equal(after.buffersCreated, warm.buffersCreated);
  assert.equal(after.allocatedBytes, warm.allocatedBytes);
  assert.equal(after.usedBytes, warm.usedBytes);
  assert.ok(process.memoryUsage().rss - rssBefore < 100 * 2 ** 20, 'resident memory grew by more than 100 MiB');
  await compute.close(stage);
  await compute.close(front);
  assert.equal((await compute.describe()).stats.allocatedBytes, idle.allocatedBytes);
});

test('GPU memory of closed stages returns to the system', async () => {
  const rss: number[] = [];
  for (let i = 0; i < 8; i++) {
    const { stage } = await compute.open(specOf([2000, 3000, 10], { optimizer: adamw })); // 96 MB with moments and gradients
    await compute.close(stage);
    rss.push(process.memoryUsage().rss);
  }
  assert.ok((rss.at(-1) ?? 0) - (rss[1] ?? 0) < 300 * 2 ** 20, `resident bytes: ${rss.join(' ')}`);
});

test('size classes hold what they must and waste at most a quarter', () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 2 ** 31 }), (bytes) => {
      const size = sizeClass(bytes);
      assert.ok(size >= bytes && size % 64 === 0 && size <= Math.max(256, bytes * 1.25), `${bytes} in ${size}`);
    }),
  );
});

test('a stage larger than one binding lies in several slabs and trains all the same', async () => {
  const parameters = ['a', 'b', 'c'].map((name) => ({ name, shape: [100] }));
  const { entries, slabs } = layoutOf(parameters, { maxStorageBufferBindingSize: 1024, maxBufferSize: 4096 });
  assert.deepEqual(
    [entries.map(({ slab, offset }) => [slab, offset]), slabs.map(({ bytes }) => bytes)],
    [
      [
        [0, 0],
        [0, 512],
        [1, 0],
      ],
      [1024, 512],
    ],
  );

  const { stage, info } = await compute.open(specOf([4096, 4096, 4608, 4])); // 64 MiB + 72 MiB: beyond 128 MiB
  await compute.loss(stage, random([4, 4096], 1), targets(0, 1, 2, 3), { scale: 0.25, train: true, accumulate: true });
  const before = await compute.read(stage, 'weights');
  const gradients = await compute.read(stage, 'gradients');
  const { gradientNorm } = await compute.step(stage);
  const after = await compute.read(stage, 'weights');
  let squares = 0;
  for (const { name } of info.parameters) {
    const [w, g, now] = [floats(before.get(name)), floats(gradients.get(name)), floats(after.get(name))];
    for (const value of g) squares += value * value;
    const wrong = now.findIndex((value, i) => Math.abs(value - ((w[i] ?? NaN) - 0.1 * (g[i] ?? NaN))) > 1e-6);
    assert.equal(wrong, -1, `${name}[${wrong}]`);
  }
  assert.ok(Math.abs(gradientNorm / Math.sqrt(squares) - 1) < 1e-5, `${gradientNorm} ${Math.sqrt(squares)}`);
  await compute.close(stage);
});

test('what cannot fit says so with numbers', async () => {
  await assert.rejects(
    compute.open(specOf([1 << 20, 1 << 14, 10])),
    (cause: unknown) => meshError('out-of-memory')(cause) && /layers\.0\.weight .* MiB/.test(String(cause)),
  );
  const { stage } = await compute.open(specOf([4096, 4]));
  const limit = (await compute.describe()).maxStorageBufferBindingSize;
  const rows = Math.floor(limit / 4096 / 4) + 1;
  if (rows < 20_000)
    await assert.rejects(
      compute.forward(stage, 'k', f32Tensor([rows, 4096], new Float32Array(rows * 4096)), { keep: false }),
      meshError('out-of-memory'),
    );
  await compute.forward(stage, 'k', random([1, 4096], 1), { keep: false });
  await compute.close(stage);
});

test('a lost device rejects what is pending and what follows; a fresh open works', async () => {
  const { stage } = await compute.open(specOf(SIZES));
  const pending = Array.from({ length: 8 }, (_, i) =>
    compute.forward(stage, `${i}`, random([2, 9], 1), { keep: true }),
  );
  const outcomes = Promise.allSettled(pending);
  devices.at(-1)?.destroy();
  for (const outcome of await outcomes)
    assert.ok(outcome.status === 'fulfilled' || meshError('gpu-lost')(outcome.reason), JSON.stringify(outcome));
  await assert.rejects(compute.forward(stage, 'k', random([2, 9], 1), { keep: true }), meshError('gpu-lost'));
  await assert.rejects(compute.step(stage), meshError('gpu-lost'));
  const again = await compute.open(specOf(SIZES));
  assert.equal((await compute.forward(again.stage, 'k', random([2, 9], 1), { keep: false })).shape[1], 5);
  await compute.close(stage);
  await compute.close(again.stage);
});
