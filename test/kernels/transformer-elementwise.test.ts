// Sums, gates, rotary positions, dropout, halves, and the scale and check of gradients, on the real device against loops in double
// precision; every backward against finite differences. Tolerances are relative to the norm of the reference unless they say otherwise.
import assert from 'node:assert/strict';
import test from 'node:test';
import * as elementwise from '../../runtime/gpu/elementwise.ts';
import * as ops from '../../runtime/gpu/ops.ts';
import type { RopeScaling } from '../../runtime/model-spec.ts';
import { ropeFrequencies, ropeTable } from '../../runtime/model/rope.ts';
import { gradientOf, noise, type Values } from '../reference/kernels.ts';
import * as reference from '../reference/transformer.ts';
import { bitsOf, close, COUNTS, dot, gpuWith, run, zeros } from './transformer-support.ts';

const gpu = await gpuWith(() => [
  ...elementwise.addUses,
  ...elementwise.siluGateUses,
  ...elementwise.ropeUses,
  ...elementwise.dropoutUses,
  ...elementwise.halfUses('f16'),
  ...elementwise.halfUses('bf16'),
  ...ops.activationUses('relu'),
  ops.normAndCheckUse,
  ops.adamwUse,
  ops.sgdUse(true),
  ops.sgdUse(false),
]);

test('add, and nothing beyond the count (exact)', async () => {
  for (const count of COUNTS) {
    const [y, x] = [noise(count + 3, 1), noise(count + 3, 2)];
    const [got] = await run(gpu, [y, x], 1, (r, yS, xS) => elementwise.add(r, yS, xS, count));
    assert.deepEqual(
      got,
      y.map((v, i) => (i < count ? v + (x[i] ?? NaN) : v)),
    );
  }
});

test('kernels of fours do all of their work in any number of workgroups (exact)', async () => {
  const count = 1030;
  const [y, x] = [noise(count, 18), noise(count, 19)];
  for (const groups of [1, 2, 3, 100]) {
    const [got] = await run(gpu, [y, x], 1, (r, yS, xS) =>
      r.dispatch('add', {}, [ops.fours(yS), ops.fours(xS)], { count }, groups),
    );
    assert.deepEqual(
      got,
      y.map((v, i) => v + (x[i] ?? NaN)),
    );
  }
});

test('silu-gate agrees with the reference, its backward with finite differences (1e-6, 1e-5)', async () => {
  for (const count of COUNTS) {
    const [gate, up, dy] = [noise(count, 3, 3), noise(count, 4), noise(count, 5)];
    const before = noise(count + 3, 6);
    const got = await run(gpu, [before, before, before, gate, up, dy], 3, (r, y, dgate, dup, g, u, d) => {
      elementwise.siluGate(r, y, g, u, count);
      elementwise.siluGateBackward(r, dgate, dup, d, g, u, count);
    });
    close(got[0]?.slice(0, count), reference.siluGate(gate, up), 1e-6, `y ${count}`);
    // Each element depends on its own alone, so one difference serves all.
    const slopes = (f: (step: number) => Values): Float64Array => {
      const [above, below] = [f(1e-5), f(-1e-5)];
      return Float64Array.from(dy, (d, i) => (d * ((above[i] ?? NaN) - (below[i] ?? NaN))) / 2e-5);
    };
    const moved = (x: Float32Array, step: number): Float64Array => Float64Array.from(x, (v) => v + step);
    const dgate = slopes((step) => reference.siluGate(moved(gate, step), up));
    const dup = slopes((step) => reference.siluGate(gate, moved(up, step)));
    close(got[1]?.slice(0, count), dgate, 1e-5, `dgate ${count}`);
    close(got[2]?.slice(0, count), dup, 1e-5, `dup ${count}`);
    for (const values of got) assert.deepEqual(values.slice(count), before.slice(count));
  }
});

test('silu-gate stays finite at ±100', async () => {
  const ones = zeros(4).fill(1);
  const got = await run(
    gpu,
    [zeros(4), zeros(4), zeros(4), Float32Array.of(-100, -87, 0, 100), ones],
    3,
    (r, y, dg, du, g, u) => {
      elementwise.siluGate(r, y, g, u, 4);
      elementwise.siluGateBackward(r, dg, du, u, g, u, 4);
    },
  );
  for (const [i, wanted] of [
    [0, [0, 0, 0, 100]],
    [1, [0, 0, 0.5, 1]],
    [2, [0, 0, 0, 100]],
  ] as const)
    for (let k = 0; k < 4; k++) assert.ok(Math.abs((got[i]?.[k] ?? NaN) - (wanted[k] ?? NaN)) < 1e-30, `${i} ${k}`);
});

const ROPE_SHAPES = [
  { rows: 1, T: 1, heads: 1, D: 2, stride: 2, offset: 0 },
  { rows: 6, T: 3, heads: 2, D: 6, stride: 20, offset: 5 },
  { rows: 10, T: 5, heads: 3, D: 64, stride: 192, offset: 0 },
  { rows: 4, T: 2, heads: 1, D: 130, stride: 131, offset: 1 },
  { rows: 2, T: 1, heads: 2, D: 8, stride: 16, offset: 0, start: 100_000 },
];

test('rope turns as the complex product does, and its inverse is its gradient (1e-6, 1e-5)', async () => {
  for (const shape of ROPE_SHAPES) {
    const { rows, T, stride, start = 0 } = shape;
    const frequencies = ropeFrequencies({ D: shape.D, theta: 10000, scaling: null });
    const table = ropeTable(start + T, frequencies);
    const [x, dy] = [noise(rows * stride, 7), noise(rows * stride, 8)];
    const [y, dx] = await run(gpu, [x, dy, table], 2, (r, xS, dyS, cosSin) => {
      elementwise.rope(r, xS, cosSin, { ...shape, direction: 1 });
      elementwise.rope(r, dyS, cosSin, { ...shape, direction: -1 });
    });
    close(y, reference.rope(x, frequencies, shape), 1e-6, `y ${JSON.stringify(shape)}`);
    if (rows * stride > 700) continue;
    const gradient = gradientOf((v) => dot(reference.rope(v, frequencies, shape), dy), x);
    close(dx, gradient, 1e-5, `dx ${JSON.stringify(shape)}`);
  }
});

test('frequencies: plain, linear, and the three bands of llama3 (1e-12)', () => {
  const of = (scaling: RopeScaling | null): number[] => [...ropeFrequencies({ D: 8, theta: 500_000, scaling })];
  const plain = [1, 500_000 ** -0.25, 500_000 ** -0.5, 500_000 ** -0.75];
  close(of(null), plain, 1e-12, 'plain');
  const halves = plain.map((f) => f / 2);
  close(of({ rope_type: 'linear', factor: 2 }), halves, 1e-12, 'linear');
  const llama3 = of({
    rope_type: 'llama3',
    factor: 8,
    low_freq_factor: 1,
    high_freq_factor: 4,
    original_max_position_embeddings: 8192,
  });
  // Waves of 6.3, 167, 4443 and 118142 tokens: below 2048 as they are, above 8192 eight times as long, blended between.
  const [a = 0, b = 0, c = 0, d = 0] = plain;
  const smooth = (8192 / ((2 * Math.PI) / c) - 1) / 3;
  close(llama3, [a, b, ((1 - smooth) * c) / 8 + smooth * c, d / 8], 1e-12, 'llama3');
  assert.throws(() => ropeFrequencies({ D: 3, theta: 1e4, scaling: null }), { code: 'usage' });
  const table = ropeTable(2, Float64Array.of(0.5), 2);
  assert.deepEqual(table, Float32Array.of(2, 0, 2 * Math.cos(0.5), 2 * Math.sin(0.5)));
});

test('dropout: the share, the scale, the same bits for the same seed, other bits for another', async () => {
  const count = 40_003;
  const x = zeros(count + 1).fill(3);
  for (const p of [0.1, 0.5, 0.9]) {
    const masks: boolean[][] = [];
    for (const seed of [1, 2, 4_000_000_000, 1]) {
      const [y, same] = await run(gpu, [zeros(count + 1), x, x], 3, (r, yS, inPlace, xS) => {
        elementwise.dropout(r, yS, xS, { count, p, seed });
        elementwise.dropoutInPlace(r, inPlace, { count, p, seed });
      });
      assert.equal(y?.[count], 0);
      assert.equal(same?.[count], 3);
      assert.deepEqual(y?.slice(0, count), same?.slice(0, count));
      const kept = Array.from(y?.slice(0, count) ?? [], (v) => v !== 0);
      for (const v of y?.slice(0, count) ?? []) assert.ok(v === 0 || Math.abs(v - 3 / (1 - p)) < 1e-4);
      masks.push(kept);
      const share = kept.filter((isKept) => !isKept).length / count;
      assert.ok(Math.abs(share - p) < 5 * Math.sqrt((p * (1 - p)) / count), `p ${p}, seed ${seed}: ${share}`);
      // Neighbours are independent: both dropped with p².
      const both = kept.filter((isKept, i) => !isKept && i > 0 && kept[i - 1] === false).length / count;
      assert.ok(Math.abs(both - p * p) < 6 * Math.sqrt((p * p) / count), `neighbours at p ${p}: ${both}`);
    }
    const [first = [], second = [], third = [], again = []] = masks;
    assert.deepEqual(first, again);
    for (const other of [second, third])
      for (const shift of [0, 1, 2, 3, 4, 7]) {
        const both = first.filter((isKept, i) => !isKept && other[i ^ shift] === false).length / count;
        assert.ok(Math.abs(both - p * p) < 6 * Math.sqrt((p * p) / count), `seeds at p ${p}, ${shift}: ${both}`);
      }
  }
});

test('dropout at p 0 keeps all, at p 1 nothing; small counts', async () => {
  for (const count of COUNTS)
    for (const [p, wanted] of [
      [0, 1],
      [1, 0],
    ] as const) {
      const [y] = await run(gpu, [zeros(count), noise(count, 9)], 1, (r, yS, xS) =>
        elementwise.dropout(r, yS, xS, { count, p, seed: 7 }),
      );
      const values = [...(y ?? [])].map((v) => v + 0);
      assert.deepEqual(
        values,
        [...noise(count, 9)].map((v) => v * wanted + 0),
      );
    }
});

test('halves: nearest with ties to even, subnormals, infinities, NaN; back exactly', async () => {
  const special = [0, -0, 1, -1, 65504, 65519.996, 65520, -65520, 1e30, 3.4e38, Infinity, -Infinity, NaN];
  const small = [2 ** -14, 2 ** -14 * (1 - 2 ** -12), 2 ** -24, 2 ** -25, 2 ** -25 * 1.001, 3 * 2 ** -25, 1e-30, -5e-8];
  const ties = [1 + 2 ** -11, 1 + 3 * 2 ** -11, 1 + 2 ** -8, 1 + 3 * 2 ** -8, 1 + 2 ** -8 + 2 ** -20, -1 - 2 ** -9];
  const wide = noise(700, 10).map((v, i) => v * 2 ** ((i % 60) - 30));
  const all = Float32Array.from([...special, ...small, ...ties, ...wide]);
  for (const format of ['f16', 'bf16'] as const) {
    const exponentBits = format === 'f16' ? 5 : 8;
    for (const count of [...COUNTS.filter((some) => some <= all.length), all.length]) {
      const x = all.slice(0, count);
      const words = elementwise.halfBytes(count) / 4;
      const [packed, back] = await run(
        gpu,
        [new Uint32Array(words + 1).fill(7), new Float32Array(count), all],
        2,
        (r, y, b, xS) => {
          elementwise.toHalf(r, y, xS, { count, format });
          elementwise.fromHalf(r, b, y, { count, format });
        },
      );
      const halves = [...new Uint16Array(packed?.buffer ?? new ArrayBuffer(0))];
      const isNan = (bits: number): boolean => (bits & 0x7fff) > (format === 'f16' ? 0x7c00 : 0x7f80);
      x.forEach((value, i) => {
        const bits = halves[i] ?? -1;
        if (Number.isNaN(value)) assert.ok(isNan(bits), `NaN is ${bits}`);
        else assert.equal(bits, reference.halfBits(value, exponentBits), `${format} of ${value}`);
        const wanted = Number.isNaN(value) ? NaN : reference.halfValue(bits, exponentBits);
        const isInfinite = (bits & 0x7fff) === (format === 'f16' ? 0x7c00 : 0x7f80);
        assert.equal(back?.[i], isInfinite ? Math.sign(value) * Infinity : wanted, `${format} ${value} back`);
      });
      if (count % 2 === 1) assert.equal(halves[count], 0);
      assert.equal(bitsOf(packed)[words], 7);
    }
  }
});

test('relu leaves alone what lies beyond the count', async () => {
  for (const count of COUNTS) {
    const before = noise(count + 3, 11);
    const [y] = await run(gpu, [before, noise(count, 12)], 1, (r, yS, xS) => ops.activate(r, 'relu', yS, xS, count));
    assert.deepEqual(y?.slice(count), before.slice(count));
  }
});

test('norm-and-check is both in one pass (1e-6, exact)', async () => {
  for (const count of [...COUNTS, 70_004, 1_100_000]) {
    const x = noise(count, 13);
    for (const poison of [null, NaN, Infinity, -Infinity, 1e15]) {
      const bad = x.slice();
      if (poison !== null) bad[count - 1] = poison;
      const lanes = ops.normLanes(count);
      const [partial, flag] = await run(gpu, [zeros(lanes), new Uint32Array(1), bad], 2, (r, p, f, xS) =>
        ops.normAndCheck(r, { partial: p, flag: f }, xS, count),
      );
      assert.deepEqual(bitsOf(flag), [poison === null || poison === 1e15 ? 0 : 1], `${count} ${poison}`);
      if (poison !== null) continue;
      close([(partial ?? zeros(0)).reduce((sum, v) => sum + v, 0)], [dot(x, x)], 1e-6, `norm ${count}`);
    }
  }
});

test('a gradient scale is the same as scaled gradients (exact)', async () => {
  const count = 68;
  const [w, m, v, dw] = [noise(count, 14), noise(count, 15), noise(count, 16).map((x) => x * x), noise(count, 17)];
  const flag = new Uint32Array(1);
  const step = async (gradients: typeof dw, gradientScale: number): Promise<Float32Array[]> => [
    ...(await run(gpu, [w, m, v, gradients, flag], 4, (r, wS, mS, vS, dwS, f) => {
      const rates = { beta1: 0.9, beta2: 0.99, gain1: 0.1, gain2: 0.01, eps: 1e-8, keep: 0.99, rate: 0.1 };
      const sizes = { count, ...rates, correction: 0.5, gradientScale };
      ops.adamw(r, { w: wS, m: mS, v: vS, dw: dwS }, f, sizes);
    })),
    ...(await run(gpu, [w, m, gradients, flag], 3, (r, wS, mS, dwS, f) => {
      const sizes = { count, lr: 0.1, momentum: 0.9, decay: 0.1, gradientScale };
      ops.sgd(r, { w: wS, m: mS, dw: dwS }, f, sizes);
    })),
  ];
  const eighth = dw.map((x) => x / 8);
  assert.deepEqual(await step(dw, 0.125), await step(eighth, 1));
});

test.after(() => gpu.destroy());
