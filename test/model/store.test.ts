// A stage's parameter store on the real device: what is shown, served, received and merged, and that no step is lost in between.
import assert from 'node:assert/strict';
import test from 'node:test';
import { modelSpecSchema } from '../../runtime/model-spec.ts';
import { optimizerSpecSchema, type StageSpec } from '../../runtime/compute.ts';
import type { LayerFormat } from '../../runtime/layer-store.ts';
import { stageInfo } from '../../runtime/model/spec.ts';
import { defaultUnitBytes, unitsOf } from '../../runtime/model/units.ts';
import { f32Of, f32Tensor, i32Tensor, type Tensor, type Tensors } from '../../runtime/tensor.ts';
import { noise } from '../reference/kernels.ts';
import { narrowCompute, testCompute } from './harness.ts';

const compute = testCompute();
const model = modelSpecSchema.parse({ family: 'mlp', sizes: [37, 19, 5] });
const UNIT_BYTES = 600;
const spec = (seed: number, outer = false): StageSpec => ({
  model,
  from: 0,
  to: 2,
  seed,
  optimizer: optimizerSpecSchema.parse({ name: 'sgd', lr: 0.1, momentum: 0.9 }),
  store: { unitBytes: UNIT_BYTES, outer },
});
const units = unitsOf(stageInfo(model, 0, 2).parameters, UNIT_BYTES);
const every = units.map((_, unit) => unit);

const open = async (seed: number, outer = false): Promise<number> => (await compute.open(spec(seed, outer))).stage;
const weights = (stage: number): Promise<Tensors> => compute.read(stage, 'weights');
const valuesOf = (tensors: Tensors, unit: number): number[] =>
  (units[unit]?.ranges ?? []).flatMap(({ name, start, count }) => {
    const tensor = tensors.get(name);
    return tensor ? [...f32Of(tensor).subarray(start, start + count)] : [];
  });
const copied = (tensors: Tensors): Map<string, Tensor> =>
  new Map([...tensors].map(([name, tensor]) => [name, { ...tensor, data: tensor.data.slice() }]));
const train = async (stage: number, seed: number): Promise<void> => {
  const x = f32Tensor([4, 37], noise(4 * 37, seed));
  await compute.loss(stage, x, i32Tensor([4], Int32Array.of(0, 1, 2, 3)), {
    scale: 0.25,
    train: true,
    accumulate: true,
  });
  await compute.step(stage);
};
const near = (a: readonly number[], b: readonly number[], tolerance: number, what: string): void => {
  assert.equal(a.length, b.length, what);
  const worst = Math.max(0, ...a.map((value, i) => Math.abs(value - (b[i] ?? NaN))));
  assert.ok(worst <= tolerance, `${what}: off by ${worst}`);
};

test('units cover every element once, whole rows, no larger than asked', () => {
  for (const bytes of [64, 600, 10_000, defaultUnitBytes(200_000)]) {
    const seen = new Map<string, number>();
    for (const { ranges, count } of unitsOf(stageInfo(model, 0, 2).parameters, bytes)) {
      assert.ok(count * 4 <= Math.max(bytes, 38 * 4));
      for (const { name, start, count: length } of ranges) {
        assert.equal(start, seen.get(name) ?? 0, `${name} goes on where it ended`);
        seen.set(name, start + length);
      }
    }
    assert.deepEqual(Object.fromEntries(seen), {
      'layers.0.weight': 37 * 19,
      'layers.0.bias': 19,
      'layers.1.weight': 19 * 5,
      'layers.1.bias': 5,
    });
  }
});

test('a snapshot tells how far training went since the last one, and how large the weights are', async () => {
  const stage = await open(1);
  const first = await compute.snapshot(stage);
  assert.ok(first.progress.every((sum) => sum === 0));
  const before = await weights(stage);
  await train(stage, 1);
  const second = await compute.snapshot(stage);
  const after = await weights(stage);
  assert.ok(second.version > first.version);
  for (const unit of every) {
    const [a, b] = [valuesOf(before, unit), valuesOf(after, unit)];
    const moved = b.reduce((sum, value, i) => sum + (value - (a[i] ?? 0)) ** 2, 0);
    assert.ok(Math.abs((second.progress[unit] ?? 0) - moved) <= 1e-5 * moved + 1e-12, `progress of unit ${unit}`);
    const norm = b.reduce((sum, value) => sum + value * value, 0);
    assert.ok(Math.abs((second.squaredNorm[unit] ?? 0) - norm) <= 1e-5 * norm, `norm of unit ${unit}`);
  }
  const third = await compute.snapshot(stage);
  assert.deepEqual(third.progress, second.progress);
  await compute.close(stage);
});

test('a merge of three peers is Eq. 1, and the steps taken meanwhile stay', async () => {
  const [own, ...peers] = await Promise.all([open(1), open(2), open(3), open(4)]);
  await compute.snapshot(own);
  const snapshot = await weights(own);
  const theirs: Tensors[] = [];
  const parts: number[] = [];
  for (const peer of peers) {
    await compute.snapshot(peer);
    theirs.push(await weights(peer));
    const { tensors } = await compute.serve(peer, { kind: 'weights', units: every, format: 'f32' });
    const { part, units: received } = await compute.receive(own, { units: every, format: 'f32' }, copied(tensors));
    parts.push(part);
    received.forEach(({ isFinite, squaredDistance }, unit) => {
      const [a, b] = [valuesOf(theirs.at(-1) ?? new Map(), unit), valuesOf(snapshot, unit)];
      const wanted = a.reduce((sum, value, i) => sum + (value - (b[i] ?? 0)) ** 2, 0);
      assert.ok(isFinite && Math.abs(squaredDistance - wanted) <= 1e-5 * wanted);
    });
  }
  await train(own, 9); // between snapshot and merge
  const trained = await weights(own);
  await compute.merge(own, every.map((unit) => ({ unit, from: parts.map((part) => ({ part, coefficient: 1 / 4 })) }))); // prettier-ignore
  await compute.drop(own, parts);
  const merged = await weights(own);
  for (const unit of every) {
    const all = [snapshot, ...theirs].map((tensors) => valuesOf(tensors, unit));
    const mean = (all[0] ?? []).map((_, i) => all.reduce((sum, values) => sum + (values[i] ?? NaN), 0) / 4);
    const wanted = valuesOf(trained, unit).map((w, i) => w + (mean[i] ?? 0) - (all[0]?.[i] ?? 0));
    near(valuesOf(merged, unit), wanted, 1e-6, `unit ${unit}`);
  }
  for (const stage of [own, ...peers]) await compute.close(stage);
});

test('six contributions: more than one call of the kernel, and the trimmed mean', async () => {
  const stages = await Promise.all([1, 2, 3, 4, 5, 6, 7].map((seed) => open(seed)));
  const [own = 0, ...peers] = stages;
  for (const stage of stages) await compute.snapshot(stage);
  const all = await Promise.all(stages.map(weights));
  const bring = async (): Promise<number[]> => {
    const parts: number[] = [];
    for (const peer of peers) {
      const { tensors } = await compute.serve(peer, { kind: 'weights', units: every, format: 'f32' });
      parts.push((await compute.receive(own, { units: every, format: 'f32' }, copied(tensors))).part);
    }
    return parts;
  };
  const [first, second] = [await bring(), await bring()];
  const clipped = [0.05, 0.1, 0.15, 0.2, 0.1, 0.05];
  await compute.merge(own, [
    { unit: 0, from: first.map((part, i) => ({ part, coefficient: clipped[i] ?? 0 })) },
    { unit: 1, from: second.map((part) => ({ part, coefficient: 1 })), trim: 3 },
    { unit: 2, from: second.slice(0, 2).map((part) => ({ part, coefficient: 1 })), trim: 1 },
  ]);
  const merged = await weights(own);
  const values = (unit: number): number[][] => all.map((tensors) => valuesOf(tensors, unit));
  const at = (list: number[][], i: number): number[] => list.map((one) => one[i] ?? NaN);
  const mean = (values(0)[0] ?? []).map((w, i) =>
    clipped.reduce((sum, c, p) => sum + c * ((at(values(0), i)[p + 1] ?? NaN) - w), w),
  );
  near(valuesOf(merged, 0), mean, 1e-6, 'weighted');
  const median = (list: number[]): number => list.sort((a, b) => a - b)[(list.length - 1) / 2] ?? NaN;
  near(valuesOf(merged, 1), (values(1)[0] ?? []).map((_, i) => median(at(values(1), i))), 1e-6, 'median of seven'); // prettier-ignore
  near(valuesOf(merged, 2), (values(2)[0] ?? []).map((_, i) => median(at(values(2).slice(0, 3), i))), 1e-6, 'median of three'); // prettier-ignore
  near(valuesOf(merged, 3), values(3)[0] ?? [], 0, 'a unit that nobody sent stays');
  await compute.drop(own, [...first, ...second]);
  for (const stage of stages) await compute.close(stage);
});

test('formats: f16 to 2^-11 of each value, int8 and int4 to half a step of their block', async () => {
  const [from, to] = [await open(5), await open(6)];
  await compute.snapshot(from);
  const wanted = await weights(from);
  const errors: Record<LayerFormat, number> = { f32: 0, f16: 2 ** -11, int8: 1 / 254, int4: 1 / 14 };
  for (const [format, error] of Object.entries(errors) as [LayerFormat, number][]) {
    await compute.load(to, { kind: 'weights', units: every }, await packedZeros(to));
    await compute.snapshot(to);
    const { tensors } = await compute.serve(from, { kind: 'weights', units: every, format });
    const { part } = await compute.receive(to, { units: every, format }, copied(tensors));
    await compute.merge(to, every.map((unit) => ({ unit, from: [{ part, coefficient: 1 }] }))); // prettier-ignore
    await compute.drop(to, [part]);
    const got = await weights(to);
    const largest = Math.max(...every.flatMap((unit) => valuesOf(wanted, unit)).map(Math.abs));
    for (const unit of every) near(valuesOf(got, unit), valuesOf(wanted, unit), error * largest + 1e-7, format);
  }
  await compute.close(from);
  await compute.close(to);
});

const packedZeros = async (stage: number): Promise<Map<string, Tensor>> => {
  const { tensors } = await compute.serve(stage, { kind: 'weights', units: every, format: 'f32' });
  const data = tensors.get('data');
  assert.ok(data);
  return new Map([['data', { ...data, data: new Uint8Array(data.data.byteLength) }]]);
};

test('what does not fit or is not finite is refused or flagged, and changes nothing', async () => {
  const stage = await open(7);
  await compute.snapshot(stage);
  const before = await weights(stage);
  const { tensors } = await compute.serve(stage, { kind: 'weights', units: [0, 1], format: 'f32' });
  const data = tensors.get('data');
  assert.ok(data);
  const request = (list: number[], format: LayerFormat, map: Tensors): Promise<unknown> =>
    compute.receive(stage, { units: list, format }, map);
  await assert.rejects(request([0, 1, 2], 'f32', copied(tensors)), { code: 'malformed' });
  await assert.rejects(request([0, 0], 'f32', copied(tensors)), { code: 'malformed' });
  await assert.rejects(request([0, 99], 'f32', copied(tensors)), { code: 'malformed' });
  await assert.rejects(request([0, 1], 'int8', copied(tensors)), { code: 'malformed' });
  await assert.rejects(request([0, 1], 'f32', new Map()), { code: 'malformed' });
  const extra = new Map([...copied(tensors), ['more', { ...data, data: data.data.slice() }]]);
  await assert.rejects(request([0, 1], 'f32', extra), { code: 'malformed' });
  const bad = f32Of({ ...data, data: data.data.slice() });
  bad[3] = Number.NaN;
  const { units: received } = await compute.receive(stage, { units: [0, 1], format: 'f32' }, new Map([['data', f32Tensor(data.shape, bad)]])); // prettier-ignore
  assert.deepEqual(received.map(({ isFinite }) => isFinite), [false, true]); // prettier-ignore
  await assert.rejects(compute.merge(stage, [{ unit: 0, from: [{ part: 999, coefficient: 1 }] }]), { code: 'stale' });
  await assert.rejects(compute.outerGradient(stage, [0], 'f32'), { code: 'usage' });
  const after = await weights(stage);
  for (const unit of every) assert.deepEqual(valuesOf(after, unit), valuesOf(before, unit));
  await compute.close(stage);
  const plain = await compute.open({ ...spec(1), store: undefined } as unknown as StageSpec);
  await assert.rejects(compute.snapshot(plain.stage), { code: 'usage' });
  await compute.close(plain.stage);
});

test('outer step: two replicas that exchange outer gradients end with the same slow weights, to the last bit', async () => {
  for (const format of ['f32', 'int8', 'int4'] as const) {
    const stages = await Promise.all([open(8, true), open(8, true)]);
    for (let round = 0; round < 3; round += 1) {
      for (const [i, stage] of stages.entries()) await train(stage, 20 + round * 2 + i);
      for (const stage of stages) await compute.snapshot(stage, every);
      const gradients = await Promise.all(stages.map((stage) => compute.outerGradient(stage, every, format)));
      for (const stage of stages) {
        const parts: number[] = [];
        for (const gradient of gradients)
          parts.push((await compute.receive(stage, { units: every, format }, copied(gradient))).part);
        const both = parts.map((part) => ({ part, coefficient: 1 / 2 }));
        await compute.outerStep(stage, { units: every, gradients: both, rate: 0.7, momentum: 0.9 });
        await compute.drop(stage, parts);
      }
    }
    const served = await Promise.all(
      stages.map((stage) => compute.serve(stage, { kind: 'slow', units: every, format: 'f32' })),
    );
    assert.deepEqual(served[0]?.tensors.get('data')?.data, served[1]?.tensors.get('data')?.data, format);
    const [a, b] = await Promise.all(stages.map(weights));
    for (const unit of every) near(valuesOf(a ?? new Map(), unit), valuesOf(b ?? new Map(), unit), 1e-6, format);
    for (const stage of stages) await compute.close(stage);
  }
});

test('a store gives everything back when its stage closes', async () => {
  const before = (await compute.describe()).stats.usedBytes;
  const stage = await open(9, true);
  await compute.snapshot(stage);
  const { tensors } = await compute.serve(stage, { kind: 'weights', units: every, format: 'int8' });
  await compute.receive(stage, { units: every, format: 'int8' }, copied(tensors));
  assert.ok((await compute.describe()).stats.usedBytes > before);
  await compute.close(stage);
  assert.equal((await compute.describe()).stats.usedBytes, before);
});

test('what is being received when the stage closes is given back too', async () => {
  const before = (await compute.describe()).stats.usedBytes;
  const [from, to] = [await open(1), await open(2)];
  await compute.snapshot(from);
  const { tensors } = await compute.serve(from, { kind: 'weights', units: every, format: 'f32' });
  const received = compute.receive(to, { units: every, format: 'f32' }, copied(tensors));
  const closed = compute.close(to);
  await assert.rejects(received, { code: 'no-stage' });
  await closed;
  await compute.close(from);
  assert.equal((await compute.describe()).stats.usedBytes, before);
});

test('a trimmed mean of more than one binding holds is taken piece by piece', async () => {
  const narrow = narrowCompute(8 * 1024);
  const wide = await Promise.all([1, 2, 3, 4, 5].map((seed) => open(seed)));
  const own = await narrow.compute.open(spec(1));
  await narrow.compute.snapshot(own.stage);
  const merge = async (on: typeof compute, stage: number): Promise<number[]> => {
    const parts: number[] = [];
    for (const peer of wide.slice(1)) {
      await compute.snapshot(peer);
      const { tensors } = await compute.serve(peer, { kind: 'weights', units: every, format: 'f32' });
      parts.push((await on.receive(stage, { units: every, format: 'f32' }, copied(tensors))).part);
    }
    await on.merge(stage, every.map((unit) => ({ unit, from: parts.map((part) => ({ part, coefficient: 1 })), trim: 2 }))); // prettier-ignore
    const merged = await on.read(stage, 'weights');
    return every.flatMap((unit) => valuesOf(merged, unit));
  };
  const [first = 0] = wide;
  await compute.snapshot(first);
  assert.deepEqual(await merge(narrow.compute, own.stage), await merge(compute, first));
  for (const stage of wide) await compute.close(stage);
  await narrow.stop();
});
