// Convolutional networks as stages: what a spec may say, LeNet-5 as the default, equal splits, recomputation, 16-bit weights, samples
// in pieces, memory as predicted. That the numbers are PyTorch's is golden.test.ts's.
import assert from 'node:assert/strict';
import test from 'node:test';
import { platform } from '../../node/platform.ts';
import { createCompute } from '../../runtime/compute-engine.ts';
import { optimizerSpecSchema, type Compute, type StageSpec } from '../../runtime/compute.ts';
import { toMeshError } from '../../runtime/errors.ts';
import { modelSpecSchema } from '../../runtime/model-spec.ts';
import { initialValues } from '../../runtime/model/families.ts';
import { predictMemory, type Load } from '../../runtime/model/memory.ts';
import { layerCount, samplesOf, splitLayers, stageInfo } from '../../runtime/model/spec.ts';
import { elements, f32Tensor, i32Tensor, type Tensor } from '../../runtime/tensor.ts';
import { relativeError } from '../reference/kernels.ts';
import { floats, narrowCompute, Pipeline, random, testCompute } from './harness.ts';

const compute = testCompute();
const optimizer = optimizerSpecSchema.parse({ name: 'adamw', lr: 0.01 });

const specOf = (model: object, change: Partial<StageSpec> = {}): StageSpec => {
  const parsed = modelSpecSchema.parse({ family: 'cnn', ...model });
  return { model: parsed, from: 0, to: layerCount(parsed), seed: 7, optimizer, ...change };
};

/** Odd sizes; a convolution without pooling before another, and one that linear layers read; more columns than 16. */
const ODD = {
  input: [2, 9, 11],
  layers: [
    { kind: 'conv', channels: 5, kernel: 3, padding: 1 },
    { kind: 'conv', channels: 18, kernel: 3, stride: 2 },
    { kind: 'pool', size: 3, stride: 1 },
    { kind: 'conv', channels: 3, kernel: 2, padding: 1 },
    { kind: 'linear', features: 6 },
    { kind: 'linear', features: 4 },
  ],
};

const labels = (count: number, classes: number): Tensor =>
  i32Tensor(
    [count],
    Int32Array.from({ length: count }, (_, i) => (i % 5 === 3 ? -100 : (i * 7) % classes)),
  );

test('without more words it is LeNet-5', () => {
  const { model } = specOf({});
  assert.ok(model.family === 'cnn' && model.activation === 'relu');
  assert.equal(layerCount(model), 5);
  assert.deepEqual(samplesOf(model), { features: 784, classes: 10 });
  const { parameters, parameterBytes } = stageInfo(model, 0, 5);
  assert.equal(parameterBytes, 61_706 * 4);
  assert.deepEqual(
    parameters.filter(({ name }) => name.endsWith('weight')).map(({ name, shape }) => [name, ...shape]),
    [
      ['layers.0.weight', 6, 1, 5, 5],
      ['layers.1.weight', 16, 6, 5, 5],
      ['layers.2.weight', 120, 400],
      ['layers.3.weight', 84, 120],
      ['layers.4.weight', 10, 84],
    ],
  );
  assert.deepEqual(modelSpecSchema.parse(model), model);
});

test('stages: pooling goes with its convolution, and what passes between them is flat', () => {
  const { model } = specOf(ODD);
  assert.equal(layerCount(model), 5);
  const widths = splitLayers(model, [1, 1, 1, 1, 1]).map(({ from, to }) => {
    const { inputShape, outputShape, isFirst, isLast } = stageInfo(model, from, to);
    return [...inputShape, ...outputShape, isFirst, isLast];
  });
  assert.deepEqual(widths, [
    [198, 495, true, false],
    [495, 2 * 3 * 18, false, false],
    [108, 3 * 4 * 3, false, false],
    [36, 6, false, false],
    [6, 4, false, true],
  ]);
});

test('specs that cannot be are refused where they are wrong', () => {
  const conv = { kind: 'conv', channels: 4, kernel: 3 };
  const linear = { kind: 'linear', features: 3 };
  const pool = { kind: 'pool', size: 2 };
  const refusals: [string, object, RegExp][] = [
    ['layers.0.kernel', { input: [1, 2, 8], layers: [conv, linear] }, /3 × 3 does not fit 2 × 8 pixels/],
    ['layers.1.size', { input: [1, 3, 9], layers: [conv, pool, linear] }, /2 × 2 does not fit 1 × 7 pixels/],
    ['layers.0.padding', { input: [1, 4, 4], layers: [{ ...conv, padding: 3 }, linear] }, /below the kernel, 3/],
    ['layers.1.kind', { layers: [linear, conv] }, /only linear layers/],
    ['layers.1.kind', { layers: [linear, pool, linear] }, /only linear layers/],
    ['layers.0.kind', { layers: [pool, linear] }, /after a convolution/],
    ['layers.1.kind', { layers: [conv, pool] }, /last layer must be linear/],
    ['layers.0.kind', { layers: [conv] }, /last layer must be linear/],
    ['layers', { layers: [] }, /./],
    ['layers.0.kernel', { layers: [{ ...conv, kernel: [3, 3] }, linear] }, /number/],
    ['layers.0', { layers: [{ ...conv, dilation: 2 }, linear] }, /dilation/],
    ['layers.0.stride', { layers: [{ ...conv, stride: 0 }, linear] }, /./],
    ['layers.1.pool', { layers: [conv, { ...pool, pool: 'median' }, linear] }, /./],
    ['layers.0.channels', { input: [1, 512, 512], layers: [{ ...conv, channels: 100 }, linear] }, /more than 16777216/],
    ['layers.0.kernel', { input: [1 << 16, 32, 32], layers: [{ ...conv, kernel: 32 }, linear] }, /weights to a value/],
    ['input', { input: [28, 28] }, /./],
    ['activation', { activation: 'tanh' }, /./],
  ];
  for (const [path, model, message] of refusals) {
    const parsed = modelSpecSchema.safeParse({ family: 'cnn', ...model });
    const issues = parsed.error?.issues.map((issue) => `${issue.path.join('.')}: ${issue.message}`) ?? [];
    assert.ok(
      issues.some((issue) => issue.startsWith(`${path}: `) && message.test(issue)),
      `${path}, ${String(message)}: ${issues.join('; ')}`,
    );
  }
});

test('weights begin as nn.Conv2d and nn.Linear begin theirs', () => {
  const { model } = specOf({});
  for (const { name, shape } of stageInfo(model, 0, 5).parameters) {
    const inputs = [25, 150, 400, 120, 84][Number(name.split('.')[1])] ?? NaN;
    const values = initialValues(model, 3, { name, shape });
    const bound = 1 / Math.sqrt(inputs);
    assert.equal(values.length, elements(shape));
    const largest = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    assert.ok(largest <= bound && (values.length < 80 || largest > bound * 0.9), `${name}: ${largest} of ${bound}`);
  }
});

interface Trained {
  losses: number[];
  gradients: Map<string, Tensor>;
  weights: Map<string, Tensor>;
}

/** Two microbatches, a step, and another microbatch. */
async function trained(on: Compute, spec: StageSpec, counts: number[]): Promise<Trained> {
  const pipeline = await Pipeline.open(on, spec, counts);
  const { features, classes } = samplesOf(spec.model as Parameters<typeof samplesOf>[0]);
  const losses: number[] = [];
  const microbatch = async (B: number, seed: number): Promise<void> => {
    const { loss } = await pipeline.train('a', random([B, features], seed), labels(B, classes), 1 / 9, true);
    losses.push(loss);
  };
  await microbatch(6, 1);
  await microbatch(3, 2);
  await pipeline.step();
  await microbatch(5, 3);
  const gradients = await pipeline.read('gradients');
  const weights = await pipeline.read('weights');
  await pipeline.close();
  return { losses, gradients: new Map([...gradients].sort()), weights: new Map([...weights].sort()) };
}

function assertClose(got: Trained, wanted: Trained, tolerance: number, what: string): void {
  for (const [i, loss] of got.losses.entries())
    assert.ok(Math.abs(loss / (wanted.losses[i] ?? NaN) - 1) <= tolerance, `${what}: loss ${loss}`);
  for (const [name, tensor] of wanted.gradients) {
    const error = relativeError(floats(got.gradients.get(name)), floats(tensor));
    assert.ok(error <= tolerance, `${what}: gradient of ${name} differs by ${error}`);
  }
}

for (const activation of ['relu', 'gelu'] as const)
  test(`one to five stages train alike, also with recomputation (bit for bit): ${activation}`, async () => {
    const spec = specOf({ ...ODD, activation });
    const whole = await trained(compute, spec, [5]);
    for (const counts of [
      [2, 3],
      [3, 2],
      [1, 2, 2],
      [2, 1, 2],
      [1, 1, 1, 1, 1],
    ])
      assert.deepEqual(await trained(compute, spec, counts), whole, counts.join('+'));
    for (const counts of [[5], [2, 3], [1, 1, 1, 1, 1]])
      assert.deepEqual(
        await trained(compute, { ...spec, recompute: true }, counts),
        whole,
        `again ${counts.join('+')}`,
      );
  });

test('16-bit weights and kept inputs come close (bf16 0.05)', async () => {
  const sgd = optimizerSpecSchema.parse({ name: 'sgd', lr: 0.01 });
  // Means, because which of two values is the larger may turn with the last bit.
  const layers = ODD.layers.map((layer) => (layer.kind === 'pool' ? { ...layer, pool: 'average' } : layer));
  const spec = specOf({ ...ODD, layers, activation: 'gelu' }, { optimizer: sgd });
  const exact = await trained(compute, spec, [5]);
  for (const recompute of [false, true])
    for (const counts of [[5], [2, 3]]) {
      const rounded = await trained(compute, { ...spec, precision: 'bf16', recompute }, counts);
      assertClose(rounded, exact, 0.05, `recompute ${recompute}, ${counts.join('+')}`);
    }
});

test('samples whose unfolded rows do not fit one binding together go in pieces (1e-5)', async () => {
  const layers = [
    { kind: 'conv', channels: 3, kernel: 5, padding: 2 }, // eight neighbours share a row: 30 KiB a sample
    { kind: 'conv', channels: 64, kernel: 6, stride: 2 }, // a row each: 15 KiB
    { kind: 'pool', pool: 'average', size: 6 },
    { kind: 'linear', features: 3 },
  ];
  const spec = specOf({ input: [4, 16, 16], layers });
  const narrow = narrowCompute(64 * 1024);
  try {
    const [got, wanted] = [await trained(narrow.compute, spec, [3]), await trained(compute, spec, [3])];
    assertClose(got, wanted, 1e-5, 'pieces');
    assert.notDeepEqual(got.gradients, wanted.gradients, 'sums of pieces are rounded otherwise');
  } finally {
    await narrow.stop();
  }
});

const LARGE = { ...ODD, input: [2, 36, 44] };
const LOAD: Load = { B: 16, T: 1, kept: 8 };

/** Two stages, trained for a few steps on a device of their own: the peak of each, and buffers made in the last steps. */
async function measured(change: Partial<StageSpec>): Promise<{ peaks: number[]; made: number }> {
  const peaks: number[] = [];
  let made = 0;
  for (const span of SPANS) {
    const { compute: own, stop } = createCompute(platform);
    const { stage, info } = await own.open({ ...specOf(LARGE), ...span, ...change });
    const zeros = (width = 0): Tensor => f32Tensor([LOAD.B, width], new Float32Array(LOAD.B * width));
    let before = 0;
    for (let step = 0; step < 6; step += 1) {
      if (step === 3) before = (await own.describe()).stats.buffersCreated;
      const keys = Array.from({ length: LOAD.kept }, (_, i) => String(i));
      const options = { scale: 1, train: true, accumulate: true };
      if (info.isLast)
        await Promise.all(keys.map(() => own.loss(stage, zeros(info.inputShape[0]), labels(LOAD.B, 4), options)));
      else {
        for (const key of keys) await own.forward(stage, key, zeros(info.inputShape[0]), { keep: true });
        for (const key of keys) await own.backward(stage, key, zeros(info.outputShape[0]), { accumulate: true });
      }
      await own.step(stage);
    }
    const { stats } = await own.describe();
    peaks.push(stats.peakBytes);
    made += stats.buffersCreated - before;
    await stop();
  }
  return { peaks, made };
}

const SPANS = [
  { from: 0, to: 2 },
  { from: 2, to: 5 },
];

test('peak memory is predicted within a tenth, in a steady state, and recomputation lowers it', async () => {
  const description = await compute.describe();
  const firsts: number[] = [];
  for (const change of [{}, { recompute: true }]) {
    const { peaks, made } = await measured(change);
    assert.equal(made, 0, 'buffers made in a steady state');
    firsts.push(peaks[0] ?? NaN);
    for (const [i, span] of SPANS.entries()) {
      const { peakBytes } = await predictMemory({ ...specOf(LARGE), ...span, ...change }, LOAD, description);
      const ratio = peakBytes / (peaks[i] ?? NaN);
      assert.ok(ratio > 0.9 && ratio < 1.1, `stage ${i}: predicted ${peakBytes}, measured ${peaks[i]}`);
    }
  }
  const [plain = NaN, less = NaN] = firsts;
  assert.ok(less < plain * 0.9, `${less} of ${plain}`);
});

test('a stage that will not fit is refused with what would fit, recomputation among it', async () => {
  const spec = specOf(LARGE, { to: 3 });
  const load = { B: 64, T: 1, kept: 8 };
  const description = await compute.describe();
  const { peakBytes } = await predictMemory({ ...spec, recompute: true }, load, description);
  const { compute: small, stop } = createCompute({
    kernelSource: (name) => platform.kernelSource(name),
    gpuMissing: () => platform.gpuMissing(),
    gpu: () => platform.gpu(),
    memoryBytes: () => peakBytes + 2 ** 20,
  });
  try {
    const error = await small.open({ ...spec, load }).then(
      () => null,
      (cause: unknown) => toMeshError(cause),
    );
    assert.equal(error?.code, 'out-of-memory');
    assert.match(error.fix, /recompute: true/);
  } finally {
    await stop();
  }
});
