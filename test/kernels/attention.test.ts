// Attention on the real device against plain loops in double precision: every kernel that the device can run, odd shapes, fused and
// separate layouts, shared key/value heads, dropout. The loops' own gradients are held against finite differences.
import assert from 'node:assert/strict';
import test from 'node:test';
import { platform } from '../../node/platform.ts';
import type { GpuDescription } from '../../runtime/compute.ts';
import {
  attention,
  attentionBackward,
  attentionUses,
  type AttentionDropout,
  type AttentionSizes,
} from '../../runtime/gpu/attention.ts';
import { Gpu, type Recorder } from '../../runtime/gpu/gpu.ts';
import * as reference from '../reference/attention.ts';
import { gradientOf, noise, relativeError, type Values } from '../reference/kernels.ts';
import './device.ts'; // installs the pacing

type Floats = Float32Array<ArrayBuffer>;
const zeros = (count: number): Floats => new Float32Array(count);

const gpu = await Gpu.acquire(platform);
test.after(() => gpu.destroy());

/** Minimum subgroup sizes to pretend: each makes another kernel run. 0 is a device without subgroups. */
const SUBGROUPS = [0, 4, 8].filter((size) => size <= gpu.description.subgroupMinSize);

interface Shape {
  B: number;
  T: number;
  H: number;
  G: number;
  D: number;
}

const SHAPES: Shape[] = [
  { B: 1, T: 1, H: 1, G: 1, D: 4 },
  { B: 2, T: 7, H: 2, G: 1, D: 8 },
  { B: 1, T: 33, H: 3, G: 3, D: 6 },
  { B: 5, T: 9, H: 4, G: 2, D: 32 },
  { B: 2, T: 65, H: 2, G: 1, D: 64 },
  { B: 1, T: 40, H: 2, G: 2, D: 20 },
  { B: 1, T: 34, H: 3, G: 1, D: 100 },
  { B: 1, T: 11, H: 1, G: 1, D: 256 },
  { B: 1, T: 5, H: 2, G: 2, D: 1 },
];

/** One buffer (B, T, (H + 2G) · D) with queries, keys and values in turn. */
function fused({ B, T, H, G, D }: Shape): AttentionSizes {
  const stride = (H + 2 * G) * D;
  return {
    ...{ B, T, H, G, D, scale: 1 / Math.sqrt(D) },
    ...{ qStride: stride, kStride: stride, vStride: stride },
    ...{ qOffset: 0, kOffset: H * D, vOffset: (H + G) * D },
  };
}

/** Queries in one buffer, keys and values in another, with gaps. */
function separate(shape: Shape): AttentionSizes {
  const { H, G, D } = shape;
  return {
    ...fused(shape),
    ...{ qStride: H * D + 4, kStride: 2 * G * D + 8, vStride: 2 * G * D + 8 },
    ...{ qOffset: 4, kOffset: G * D + 4, vOffset: 0 },
  };
}

interface Result {
  y: Values;
  lse: Values;
  dq: Values;
  dkv: Values;
}

/** `kv` absent: everything is in `q`, and so are the gradients. */
interface Inputs {
  q: Floats;
  kv: Floats | null;
  dy: Floats;
}

function inputsOf(sizes: AttentionSizes, isFused: boolean): Inputs {
  const { B, T, H, D } = sizes;
  return {
    q: noise(B * T * sizes.qStride, 1),
    kv: isFused ? null : noise(B * T * sizes.kStride, 2),
    dy: noise(B * T * H * D, 3),
  };
}

async function onDevice(
  inputs: Inputs,
  sizes: AttentionSizes,
  dropout: AttentionDropout | undefined,
  subgroupMinSize: number,
): Promise<Result> {
  const { B, T, H, D } = sizes;
  const description: GpuDescription = { ...gpu.description, subgroupMinSize };
  await gpu.warm(attentionUses(dropout !== undefined, D, description));
  await gpu.warm(attentionUses(dropout !== undefined, 1, description)); // layouts that are no multiple of 4
  const take = (count: number) => gpu.pool.take(count * 4);
  const [q, dq, y, dy] = [take(inputs.q.length), take(inputs.q.length), take(B * T * H * D), take(B * T * H * D)];
  const [lse, delta] = [take(B * H * T), take(B * H * T)];
  const kv = inputs.kv === null ? q : take(inputs.kv.length);
  const dkv = inputs.kv === null ? dq : take(inputs.kv.length);
  const all = new Set([q, dq, y, dy, lse, delta, kv, dkv]);
  try {
    const bytes = await gpu.submit((recorder) => {
      recorder.write(q, new Uint8Array(inputs.q.buffer));
      recorder.write(dy, new Uint8Array(inputs.dy.buffer));
      if (inputs.kv !== null) recorder.write(kv, new Uint8Array(inputs.kv.buffer));
      for (const slice of [dq, dkv, y, lse, delta]) recorder.clear(slice);
      const pretended = pretend(recorder, description);
      attention(pretended, y, lse, q, kv, kv, sizes, dropout);
      attentionBackward(pretended, dq, dkv, delta, dy, y, lse, q, kv, kv, sizes, dropout);
      for (const slice of [y, lse, dq, dkv]) recorder.read(slice);
    });
    const [yRead, lseRead, dqRead, dkvRead] = bytes.map((read) => new Float32Array(read.buffer));
    return { y: yRead ?? zeros(0), lse: lseRead ?? zeros(0), dq: dqRead ?? zeros(0), dkv: dkvRead ?? zeros(0) };
  } finally {
    for (const slice of all) gpu.pool.release(slice);
  }
}

/** The same recording on a device that seems to have other subgroups. */
const pretend = (recorder: Recorder, description: GpuDescription): Recorder =>
  new Proxy(recorder, {
    get(target, name) {
      if (name === 'description') return description;
      const value: unknown = Reflect.get(target, name, target);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });

function expected({ q, kv, dy }: Inputs, sizes: AttentionSizes, dropout: AttentionDropout | undefined): Result {
  const from = kv ?? q;
  const { y, lse } = reference.attention(q, from, from, sizes, dropout ?? null);
  const { dq, dk, dv } = reference.attentionBackward(dy, q, from, from, sizes, dropout ?? null);
  const dkv = dk.map((value, i) => value + (dv[i] ?? 0));
  if (kv !== null) return { y, lse, dq, dkv };
  const together = dq.map((value, i) => value + (dkv[i] ?? 0));
  return { y, lse, dq: together, dkv: together };
}

function compare(got: Result, wanted: Result, tolerance: number, label: string): void {
  for (const name of ['y', 'lse', 'dq', 'dkv'] as const) {
    const error = relativeError(got[name], wanted[name]);
    if (process.env['SHOW'] !== undefined) console.log(label, name, error);
    assert.ok(error <= tolerance, `${label} ${name}: relative error ${error} > ${tolerance}`);
  }
}

test('the gradients of the reference agree with finite differences (1e-6)', () => {
  const sizes = fused({ B: 1, T: 4, H: 2, G: 1, D: 3 });
  const { q, dy } = inputsOf(sizes, true);
  const dropout = { p: 0.3, seed: 5 };
  const { dq, dk, dv } = reference.attentionBackward(dy, q, q, q, sizes, dropout);
  const objective = (values: Values): number =>
    reference.attention(values, values, values, sizes, dropout).y.reduce((sum, y, i) => sum + y * (dy[i] ?? 0), 0);
  const wanted = gradientOf(objective, q);
  const error = relativeError(
    dq.map((value, i) => value + (dk[i] ?? 0) + (dv[i] ?? 0)),
    wanted,
  );
  assert.ok(error < 1e-6, `relative error ${error}`);
});

for (const subgroups of SUBGROUPS) {
  const what = subgroups === 0 ? 'without subgroups' : `with subgroups of ${subgroups}`;

  test(`attention ${what} agrees with the reference at any shape (2e-6)`, async () => {
    for (const shape of SHAPES)
      for (const isFused of [true, false]) {
        const sizes = isFused ? fused(shape) : separate(shape);
        const inputs = inputsOf(sizes, isFused);
        const label = `${JSON.stringify(shape)} ${isFused ? 'fused' : 'separate'}`;
        const got = await onDevice(inputs, sizes, undefined, subgroups);
        compare(got, expected(inputs, sizes, undefined), 2e-6, label);
      }
  });

  test(`attention ${what} survives scores far from zero (1e-4)`, async () => {
    const sizes = { ...fused({ B: 1, T: 70, H: 1, G: 1, D: 8 }), scale: 60 };
    const inputs = inputsOf(sizes, true);
    compare(
      await onDevice(inputs, sizes, undefined, subgroups),
      expected(inputs, sizes, undefined),
      1e-4, // scores of hundreds: their last bit is 3e-5 of a weight
      'large scores',
    );
  });

  test(`attention ${what} over one token has no gradient of queries and keys, to the last bit`, async () => {
    for (const D of [5, 32, 48])
      for (const dropout of [undefined, { p: 0.5, seed: 3 }]) {
        const shape = { B: 3, T: 1, H: 4, G: 2, D };
        const sizes = separate(shape);
        const { dq, dkv } = await onDevice(inputsOf(sizes, false), sizes, dropout, subgroups);
        const isKey = (_: number, i: number): boolean => i % sizes.kStride >= sizes.kOffset;
        const keys = Array.from(dkv).filter(isKey);
        const values = Array.from(dkv).filter((value, i) => !isKey(value, i));
        assert.ok([...Array.from(dq), ...keys].every((value) => value === 0));
        assert.ok(values.some((value) => value !== 0));
      }
  });

  test(`dropout ${what} agrees with the reference (2e-6)`, async () => {
    for (const shape of [
      { B: 2, T: 35, H: 2, G: 1, D: 32 },
      { B: 1, T: 9, H: 2, G: 2, D: 5 },
      { B: 1, T: 17, H: 1, G: 1, D: 48 },
    ]) {
      const sizes = fused(shape);
      const inputs = inputsOf(sizes, true);
      const dropout = { p: 0.2, seed: 0xdeadbeef };
      const got = await onDevice(inputs, sizes, dropout, subgroups);
      compare(got, expected(inputs, sizes, dropout), 2e-6, JSON.stringify(shape));
    }
  });
}

test('dropout drops the share it is told, differently for each seed and row', () => {
  const T = 400;
  const share = (keep: (row: number, key: number) => boolean): number => {
    let count = 0;
    for (let row = 0; row < T; row++) for (let key = 0; key < T; key++) count += keep(row, key) ? 1 : 0;
    return count / (T * T);
  };
  const [one, two] = [
    { p: 0.1, seed: 1 },
    { p: 0.1, seed: 2 },
  ];
  const isDropped = (dropout: AttentionDropout, row: number, key: number): boolean =>
    reference.kept(dropout, row, key) === 0;
  const near = (got: number, wanted: number): void =>
    assert.ok(Math.abs(got - wanted) < 0.005, `${got}, not about ${wanted}`);
  near(
    share((row, key) => isDropped(one, row, key)),
    0.1,
  );
  // Independent masks are both 0 at p² of all places.
  near(
    share((row, key) => isDropped(one, row, key) && isDropped(two, row, key)),
    0.01,
  );
  near(
    share((row, key) => isDropped(one, row, key) && isDropped(one, row + 1, key)),
    0.01,
  );
  near(
    share((row, key) => isDropped(one, row, key) && isDropped(one, row, key + 1)),
    0.01,
  );
});
