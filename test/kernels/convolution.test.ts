// The kernels of convolutions and pooling on the real device against loops in double precision: single pixels, ragged sizes, padding,
// strides, both layouts; every backward against finite differences. Tolerances are relative to the norm of the reference.
import assert from 'node:assert/strict';
import test from 'node:test';
import * as convolution from '../../runtime/gpu/convolution.ts';
import type { Images, Pooling, Unfolding } from '../../runtime/gpu/convolution.ts';
import { use } from '../../runtime/gpu/ops.ts';
import { windowsIn } from '../../runtime/model-spec.ts';
import * as reference from '../reference/convolution.ts';
import { gradientOf, matmulNt, noise } from '../reference/kernels.ts';
import { close, dot, gpuWith, run, zeros } from './transformer-support.ts';

const KINDS: readonly Pooling[] = ['max', 'average'];
const gpu = await gpuWith(() => [
  ...convolution.unfoldUses,
  ...convolution.spreadUses,
  ...convolution.weightsUses,
  ...(['pool', 'pool-backward', 'pool-backward-apart'] as const).flatMap((kernel) =>
    [false, true].map((MAX) => use(kernel, { MAX })),
  ),
]);

interface Case {
  B: number;
  over: Unfolding;
}

type Given = [B: number, C: number, height: number, width: number, N: number, size: number, stride: number, padding: number]; // prettier-ignore

function caseOf([B, C, height, width, N, size, stride, padding]: Given, from: Images['layout'], to = from): Case {
  const along = (length: number): number => windowsIn(length, size, stride, padding);
  const y: Images = { C: N, height: along(height), width: along(width), layout: to };
  return { B, over: { x: { C, height, width, layout: from }, size, stride, padding, y, across: 1 } };
}

const CONVOLUTIONS: readonly Given[] = [
  [1, 1, 1, 1, 1, 1, 1, 0],
  [1, 1, 1, 1, 3, 3, 1, 1],
  [2, 1, 5, 4, 2, 3, 1, 0],
  [3, 2, 5, 7, 8, 3, 2, 1],
  [1, 3, 6, 5, 9, 2, 3, 0],
  [2, 3, 4, 4, 7, 5, 1, 4],
  [1, 5, 3, 8, 4, 3, 1, 2],
  [5, 1, 9, 9, 6, 5, 1, 2],
];
const LAYOUTS = ['chw', 'hwc'] as const;
const convolutions = CONVOLUTIONS.flatMap((given) => LAYOUTS.map((layout) => caseOf(given, layout, 'hwc')));
/** With every number of neighbours that can share a row. */
const unfoldings = convolutions.flatMap(({ B, over }) =>
  Array.from({ length: over.y.width }, (_, i) => i + 1)
    .filter((across) => over.y.width % across === 0)
    .map((across): Case => ({ B, over: { ...over, across } })),
);
const words = ({ B, over: { x, y, ...rest } }: Case): string => JSON.stringify({ B, x, y, ...rest });

test('unfold: every tap of every row, by channels and one by one, any samples of the batch (exact)', async () => {
  for (const one of unfoldings) {
    const { B, over } = one;
    const [M, K] = [convolution.rowsOf(over), convolution.widthsOf(over)];
    const x = noise(B * convolution.imageSize(over.x), 1);
    const wanted = Float32Array.from(reference.unfold(x, over, B));
    for (const [first, count] of [
      [0, B],
      [B - 1, 1],
    ] as const)
      for (const isByChannel of [true, false]) {
        const before = noise(count * M * K + 3, 2);
        const [cols] = await run(gpu, [before, x], 1, (r, colsS, xS) =>
          convolution.unfold(r, colsS, xS, over, { first, count }, isByChannel),
        );
        assert.deepEqual(
          cols?.slice(0, count * M * K),
          wanted.slice(first * M * K, (first + count) * M * K),
          words(one),
        );
        assert.deepEqual(cols?.slice(count * M * K), before.slice(count * M * K));
      }
  }
});

test('unfold-backward agrees with finite differences, and writes only its samples (1e-6)', async () => {
  for (const one of unfoldings) {
    const { B, over } = one;
    const each = convolution.imageSize(over.x);
    const [M, K] = [convolution.rowsOf(over), convolution.widthsOf(over)];
    const dcols = noise(B * M * K, 3);
    const wanted = gradientOf((x) => dot(reference.unfold(x, over, B), dcols), noise(B * each, 4));
    for (const [first, count] of [
      [0, B],
      [B - 1, 1],
    ] as const) {
      const before = noise(B * each, 5);
      const part = dcols.slice(first * M * K, (first + count) * M * K);
      const [dx] = await run(gpu, [before, part], 1, (r, dxS, dcolsS) =>
        convolution.unfoldBackward(r, dxS, dcolsS, over, { first, count }),
      );
      close(dx?.slice(first * each), wanted.slice(first * each), 1e-6, words(one), wanted);
      assert.deepEqual(dx?.slice(0, first * each), before.slice(0, first * each));
    }
  }
});

test('spread-weights: a product with rows that neighbours share is the convolution; backward by finite differences (1e-6)', async () => {
  for (const one of unfoldings) {
    const { B, over } = one;
    const [N, K] = [over.y.C, convolution.widthsOf(over)];
    const columns = over.across * N;
    const [w, b, x] = [
      noise(N * convolution.tapsOf(over), 15),
      noise(N, 16),
      noise(B * convolution.imageSize(over.x), 17),
    ];
    const dwide = noise(columns * K, 18);
    const got = await run(
      gpu,
      [zeros(columns * K), zeros(columns), w, w, b, dwide],
      3,
      (r, wide, wideBias, dw, wS, bS, d) => {
        convolution.spreadWeights(r, { w: wide, b: wideBias }, { w: wS, b: bS }, over);
        convolution.spreadWeightsBackward(r, dw, d, over);
      },
    );
    const [wide = zeros(0), wideBias = zeros(0), dw] = got;
    assert.deepEqual(wide, Float32Array.from(reference.spreadWeights(w, over)), words(one));
    const cols = reference.unfold(x, over, B);
    const z = matmulNt(cols, wide, wideBias, B * convolution.rowsOf(over), columns, K);
    close(z, reference.convolution(x, w, b, over, B), 1e-6, words(one));
    const gradient = gradientOf((v) => dot(reference.spreadWeights(v, over), dwide), w);
    close(
      dw,
      gradient.map((value, i) => value + (w[i] ?? NaN)),
      1e-6,
      `dw ${words(one)}`,
    );
  }
});

test('neighbours: as many as fill a product, none where it is full, always a divisor of the line', () => {
  const of = (N: number, width: number, size: number, stride = 1): number => {
    const { over } = caseOf([1, 3, size, (width - 1) * stride + size, N, size, stride, 0], 'hwc');
    assert.equal(over.y.width, width);
    return convolution.neighboursOf(over);
  };
  assert.deepEqual([of(6, 28, 5), of(16, 10, 5), of(64, 32, 3), of(1, 1, 3), of(6, 29, 3)], [4, 2, 1, 1, 1]);
  for (let width = 1; width <= 64; width++) assert.equal(width % of(3, width, 3, 2), 0);
});

test('convolution-backward-weights adds the gradients, in any number of parts (1e-5)', async () => {
  for (const one of convolutions) {
    const { B, over } = one;
    const [M, N, K] = [B * convolution.windowsOf(over), over.y.C, convolution.tapsOf(over)];
    const [x, dz] = [noise(B * convolution.imageSize(over.x), 6), noise(M * N, 7)];
    const [w, b] = [noise(N * K, 8), noise(N, 9)];
    const added = (gradient: Float64Array, before: Float32Array): Float64Array =>
      gradient.map((value, i) => value + (before[i] ?? NaN));
    const dw = added(
      gradientOf((v) => dot(reference.convolution(x, v, b, over, B), dz), w),
      w,
    );
    const db = added(
      gradientOf((v) => dot(reference.convolution(x, w, v, over, B), dz), b),
      b,
    );
    const devices = [true, false].map((isSoftware) => convolution.weightParts({ isSoftware }, M, N, K));
    for (const { span, parts } of [...devices, { span: 5, parts: Math.ceil(M / 5) }, { span: 1, parts: M }]) {
      const scratch = [zeros(parts * N * K), zeros(parts * N)];
      const got = await run(gpu, [w, b, dz, x, ...scratch], 2, (r, dwS, dbS, dzS, xS, dwParts, dbParts) => {
        const split = { span, parts, dw: dwParts, db: dbParts };
        convolution.convolutionBackwardWeights(r, { dw: dwS, db: dbS }, dzS, xS, over, B, split);
      });
      close(got[0], dw, 1e-5, `dw ${words(one)} in ${parts}`);
      close(got[1], db, 1e-5, `db ${words(one)} in ${parts}`);
    }
  }
});

test('parts: every window once, enough of them for a device, and never much scratch memory', () => {
  for (const isSoftware of [true, false])
    for (const M of [1, 15, 16, 17, 3200, 25_088, 1_000_000])
      for (const [N, K] of [
        [1, 1],
        [6, 25],
        [16, 150],
        [512, 4608],
      ] as const) {
        const { span, parts } = convolution.weightParts({ isSoftware }, M, N, K);
        assert.ok(span * parts >= M && span * (parts - 1) < M, `${parts} parts of ${span} for ${M}`);
        assert.ok(parts * N * K * 4 <= Math.max(N * K * 4, 16 * 2 ** 20), `${parts} of ${N} × ${K}`);
      }
});

const POOLS: readonly Given[] = [
  [1, 1, 1, 1, 1, 1, 1, 0],
  [2, 3, 4, 5, 3, 1, 1, 0],
  [2, 3, 4, 6, 3, 2, 2, 0],
  [1, 2, 5, 7, 2, 2, 2, 0],
  [3, 1, 7, 6, 1, 3, 2, 0],
  [1, 5, 5, 5, 5, 3, 1, 0],
  [2, 2, 8, 9, 2, 2, 3, 0],
  [1, 4, 6, 4, 4, 4, 5, 0],
  [5, 6, 8, 8, 6, 2, 2, 0],
];
const pools = POOLS.flatMap((given) => LAYOUTS.flatMap((from) => LAYOUTS.map((to) => caseOf(given, from, to))));

test('pool agrees with the reference, its backward with finite differences, from any layout to any (1e-6, 1e-5)', async () => {
  for (const kind of KINDS)
    for (const one of pools) {
      const { B, over } = one;
      const [inputs, outputs] = [B * convolution.imageSize(over.x), B * convolution.imageSize(over.y)];
      const [x, dy] = [noise(inputs, 10), noise(outputs, 11)];
      const before = noise(inputs + 3, 12);
      const [y, dx] = await run(gpu, [noise(outputs + 3, 13), before, dy, x], 2, (r, yS, dxS, dyS, xS) => {
        convolution.pool(r, kind, yS, xS, over, B);
        convolution.poolBackward(r, kind, dxS, dyS, xS, over, B);
      });
      const what = `${kind} ${words(one)}`;
      close(y?.slice(0, outputs), reference.pool(x, kind, over, B), 1e-6, `y ${what}`);
      assert.deepEqual(y?.slice(outputs), noise(outputs + 3, 13).slice(outputs));
      const wanted = gradientOf((v) => dot(reference.pool(v, kind, over, B), dy), x);
      close(dx?.slice(0, inputs), wanted, 1e-5, `dx ${what}`);
      assert.deepEqual(dx?.slice(inputs), before.slice(inputs));
    }
});

test('of equal values the first is the largest, row by row, as in PyTorch', async () => {
  const apart = caseOf([1, 1, 4, 4, 1, 2, 2, 0], 'chw');
  const x = Float32Array.of(0, 0, 1, 2, 0, 0, 2, 2, -3, -4, 5, 5, -3, -3, 5, 6);
  const [dx] = await run(gpu, [zeros(16), Float32Array.of(1, 2, 3, 4), x], 1, (r, dxS, dyS, xS) =>
    convolution.poolBackward(r, 'max', dxS, dyS, xS, apart.over, 1),
  );
  assert.deepEqual([...(dx ?? [])], [1, 0, 0, 2, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 4]);
  const overlapping = caseOf([1, 1, 3, 3, 1, 2, 1, 0], 'chw');
  const [sums] = await run(gpu, [zeros(9), Float32Array.of(1, 2, 3, 4), zeros(9)], 1, (r, dxS, dyS, xS) =>
    convolution.poolBackward(r, 'max', dxS, dyS, xS, overlapping.over, 1),
  );
  assert.deepEqual([...(sums ?? [])], [1, 2, 0, 3, 4, 0, 0, 0, 0]);
});

test('a NaN is the largest of its window and no mean hides it; what lies outside windows disturbs nothing', async () => {
  const { over } = caseOf([1, 1, 3, 5, 1, 2, 2, 0], 'chw');
  for (const nan of [NaN, new Float32Array(Uint32Array.of(0xffc00001).buffer)[0] ?? NaN])
    for (const at of [0, 1, 5, 6]) {
      const x = noise(15, 14);
      x[at] = nan;
      x[4] = NaN; // beyond the last whole window
      x[12] = Infinity;
      for (const kind of KINDS) {
        const [y] = await run(gpu, [zeros(2), x], 1, (r, yS, xS) => convolution.pool(r, kind, yS, xS, over, 1));
        assert.ok(Number.isNaN(y?.[0]) && Number.isFinite(y?.[1]), `${kind}, NaN at ${at}: ${y?.join(' ')}`);
      }
    }
});

test('an infinite value beside the padding leaves the padding 0', async () => {
  const { over } = caseOf([1, 1, 2, 2, 1, 3, 1, 1], 'chw');
  const x = Float32Array.of(Infinity, 1, 1, 1);
  const [cols] = await run(gpu, [zeros(36), x], 1, (r, colsS, xS) =>
    convolution.unfold(r, colsS, xS, over, { first: 0, count: 1 }),
  );
  assert.deepEqual([...(cols ?? [])], [...reference.unfold(x, over, 1)]);
});

test.after(() => gpu.destroy());
