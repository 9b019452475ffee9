// Every kernel of kernels/ on the real device against plain loops in double precision: size 1, workgroup ± 1, ragged shapes; every backward
// against finite differences. Tolerances are relative to the norm of the reference unless they say otherwise.
import assert from 'node:assert/strict';
import test from 'node:test';
import * as ops from '../../runtime/gpu/ops.ts';
import { embed } from '../../runtime/gpu/embedding.ts';
import { foldGrid } from '../../runtime/gpu/gpu.ts';
import * as reference from '../reference/kernels.ts';
import { noise, relativeError } from '../reference/kernels.ts';
import { runOn, testGpu } from './device.ts';
import { checkKernels } from './null-backend.ts';

const gpu = await testGpu();

const COUNTS = [1, 63, 64, 65, 1000];
const zeros = (count: number): Float32Array<ArrayBuffer> => new Float32Array(count);

const close = (
  got: reference.Values | undefined,
  wanted: reference.Values,
  tolerance: number,
  what: string,
  scale = wanted,
): void => {
  const error = relativeError(got ?? [], wanted, scale);
  assert.ok(error <= tolerance, `${what}: relative error ${error} > ${tolerance}`);
};

test('every kernel compiles at every specialisation on the null backend', async () => {
  assert.deepEqual(await checkKernels(), []);
});

test('a broken kernel is named with line and column', async () => {
  const failures = await checkKernels(() => '\n  broken');
  assert.match(failures[0] ?? '', /^kernels\/[a-z0-9-]+\.wgsl:2:3 /);
});

test('bias-backward sums columns onto what is there, by any number of invocations (1e-6)', async () => {
  for (const [M, N] of [
    [1, 1],
    [3, 63],
    [65, 64],
    [7, 65],
    [200, 10],
  ] as const) {
    const [db, dy] = [noise(N, 5), noise(M * N, 6)];
    for (const parts of [undefined, 8, 32]) {
      const [got] = await runOn(gpu, [db, dy], 1, (r, [o, d]) => o && d && ops.biasBackward(r, o, d, { M, N }, parts));
      close(got, reference.biasBackward(db, dy, M, N), 1e-6, `bias-backward ${M}×${N} in ${parts} parts`);
    }
  }
});

test('activations agree with the reference, their backward with finite differences (1e-6, 1e-5)', async () => {
  for (const name of ['relu', 'gelu', 'gelu_new'] as const) {
    const f = reference.activations[name];
    for (const count of COUNTS) {
      const [x, dy] = [noise(count, 7, 2), noise(count, 8)];
      const [y] = await runOn(
        gpu,
        [zeros(count), x],
        1,
        (r, [yS, xS]) => yS && xS && ops.activate(r, name, yS, xS, count),
      );
      close(y, Array.from(x, f), 1e-6, `${name} ${count}`, x); // in the tail 1 + erf cancels, here as in PyTorch
      const [dx] = await runOn(
        gpu,
        [zeros(count), dy, x],
        1,
        (r, [dxS, dyS, xS]) => dxS && dyS && xS && ops.activateBackward(r, name, dxS, dyS, xS, count),
      );
      const slopes = Array.from(x, (v) => (f(v + 1e-5) - f(v - 1e-5)) / 2e-5);
      close(
        dx,
        slopes.map((slope, i) => slope * (dy[i] ?? 0)),
        1e-5,
        `${name}-backward ${count}`,
        dy,
      );
    }
  }
});

test('gelu is float-accurate from -12 to 12 and finite at any size (absolute 1e-6 of max(1, |x|))', async () => {
  const x = Float32Array.from({ length: 24001 }, (_, i) => i / 1000 - 12);
  for (const name of ['gelu', 'gelu_new'] as const) {
    const [y] = await runOn(
      gpu,
      [zeros(x.length), x],
      1,
      (r, [yS, xS]) => yS && xS && ops.activate(r, name, yS, xS, x.length),
    );
    const worst = x.reduce(
      (most, v, i) =>
        Math.max(most, Math.abs((y?.[i] ?? NaN) - reference.activations[name](v)) / Math.max(1, Math.abs(v))),
      0,
    );
    assert.ok(worst < 1e-6, `${name}: ${worst}`);
    const huge = Float32Array.from([-1e38, -1e20, -100, 0, 100, 1e20, 1e38]);
    const dy = huge.map(() => 1);
    const [values] = await runOn(
      gpu,
      [zeros(7), huge],
      1,
      (r, [yS, xS]) => yS && xS && ops.activate(r, name, yS, xS, 7),
    );
    assert.deepEqual(
      [...(values ?? [])].map((v) => v + 0),
      [...huge].map((v) => Math.max(v, 0)),
    );
    const [slopes] = await runOn(
      gpu,
      [zeros(7), dy, huge],
      1,
      (r, [o, d, xS]) => o && d && xS && ops.activateBackward(r, name, o, d, xS, 7),
    );
    assert.deepEqual(
      [...(slopes ?? [])].map((v) => v + 0),
      [0, 0, 0, 0.5, 1, 1, 1],
    );
  }
});

test('softmax-cross-entropy: loss, hits and gradient (1e-6, exact, 1e-5)', async () => {
  for (const [M, V] of [
    [1, 1],
    [1, 10],
    [63, 3],
    [64, 10],
    [65, 7],
    [3, 1000],
  ] as const) {
    const logits = noise(M * V, 9, 3);
    if (V > 2) logits[1] = logits[2] = 50; // two equal maxima: the first wins
    const targets = Int32Array.from({ length: M }, (_, m) =>
      m === 0 ? Math.min(1, V - 1) : m % 5 === 1 ? -100 : (m * 7) % V,
    );
    const scale = 1 / M;
    const [dlogits, loss, correct] = await runOn(
      gpu,
      [zeros(M * V), zeros(M), zeros(M), logits, targets],
      3,
      (r, [d, l, c, lg, t]) => {
        if (d && l && c && lg && t) ops.crossEntropy(r, { dlogits: d, loss: l, correct: c }, lg, t, { M, V, scale });
      },
    );
    close(loss, reference.crossEntropy(logits, targets, M, V), 1e-6, `loss ${M}×${V}`);
    assert.deepEqual(
      [...new Uint32Array(correct?.buffer ?? new ArrayBuffer(0))],
      reference.correctRows(logits, targets, M, V),
    );
    const total = (v: Float64Array): number =>
      scale * reference.crossEntropy(v, targets, M, V).reduce((sum, row) => sum + row, 0);
    if (M * V <= 1000) close(dlogits, reference.gradientOf(total, logits), 1e-5, `dlogits ${M}×${V}`);
  }
});

test('softmax-cross-entropy is stable at logits of ±1e4', async () => {
  const logits = Float32Array.from([1e4, -1e4, 0, -1e4, -1e4, -1e4]);
  const [dlogits, loss] = await runOn(
    gpu,
    [zeros(6), zeros(2), zeros(2), logits, Int32Array.of(0, 2)],
    3,
    (r, [d, l, c, lg, t]) => {
      if (d && l && c && lg && t)
        ops.crossEntropy(r, { dlogits: d, loss: l, correct: c }, lg, t, { M: 2, V: 3, scale: 1 });
    },
  );
  assert.equal(loss?.[0], 0);
  assert.ok(Math.abs((loss?.[1] ?? 0) - Math.log(3)) < 1e-6);
  assert.ok(dlogits?.every(Number.isFinite));
});

test('weighted-sum sets and adds in the given order (1e-6)', async () => {
  for (const count of [...COUNTS, 70_001]) {
    const [y, packed, c] = [noise(count, 10), noise(count * 3, 11), Float32Array.of(0.5, -0.25, 2)];
    for (const isAdding of [false, true]) {
      const [got] = await runOn(
        gpu,
        [y, packed, c],
        1,
        (r, [o, p, cS]) => o && p && cS && ops.weightedSum(r, isAdding, o, p, cS, { count, parts: 3, stride: count }),
      );
      const wanted = Array.from(y, (v, i) =>
        [0, 1, 2].reduce((sum, p) => sum + (c[p] ?? 0) * (packed[p * count + i] ?? 0), isAdding ? v : 0),
      );
      close(got, wanted, 1e-6, `weighted-sum ${count}`);
    }
  }
});

test('finite-check is exact', async () => {
  for (const count of [...COUNTS, 70_001]) {
    const x = noise(count, 12);
    for (const poison of [null, NaN, Infinity, -Infinity, 3e38]) {
      const bad = x.slice();
      if (poison !== null) bad[count - 1] = poison;
      const [flag] = await runOn(
        gpu,
        [new Uint32Array(1), bad],
        1,
        (r, [f, xS]) => f && xS && ops.finiteCheck(r, f, xS, count),
      );
      assert.equal(
        new Uint32Array(flag?.buffer ?? new ArrayBuffer(0))[0],
        poison === null || poison === 3e38 ? 0 : 1,
        `${poison}`,
      );
    }
  }
});

test('optimizers do nothing where the flag is set', async () => {
  const [w, m, v, dw, flag] = [noise(68, 13), noise(68, 14), noise(68, 15), noise(68, 16), Uint32Array.of(1)];
  const afterSgd = await runOn(gpu, [w, m, dw, flag], 3, (r, [wS, mS, dwS, f]) => {
    if (wS && mS && dwS && f)
      ops.sgd(r, { w: wS, m: mS, dw: dwS }, f, { count: 68, lr: 0.1, momentum: 0.9, decay: 0.1, gradientScale: 1 });
  });
  assert.deepEqual(afterSgd, [w, m, dw]);
  const afterAdam = await runOn(gpu, [w, m, v, dw, flag], 4, (r, [wS, mS, vS, dwS, f]) => {
    const sizes = {
      count: 68,
      beta1: 0.9,
      beta2: 0.9,
      gain1: 0.1,
      gain2: 0.1,
      eps: 1e-8,
      keep: 1,
      rate: 1,
      correction: 1,
      gradientScale: 1,
    };
    if (wS && mS && vS && dwS && f) ops.adamw(r, { w: wS, m: mS, v: vS, dw: dwS }, f, sizes);
  });
  assert.deepEqual(afterAdam, [w, m, v, dw]);
});

test('a grid beyond the limit folds into two dimensions', async () => {
  assert.deepEqual(foldGrid(1, 65535), [1, 1]);
  assert.deepEqual(foldGrid(65535, 65535), [65535, 1]);
  assert.deepEqual(foldGrid(65536, 65535), [65535, 2]);
  const rows = 65535 + 100; // one row of workgroups and a bit
  const ids = new Int32Array(rows).fill(1);
  ids[rows - 1] = 2;
  ids[0] = 0;
  const [y] = await runOn(
    gpu,
    [zeros(rows), ids, Float32Array.of(6, -2, 10)],
    1,
    (r, [yS, idsS, w]) => yS && idsS && w && embed(r, yS, idsS, w, { rows, C: 1, first: 0, count: 3 }),
  );
  assert.equal(y?.[0], 6);
  assert.equal(y?.[rows - 1], 10);
  assert.equal(y?.[rows - 2], -2);
});

test.after(() => gpu.destroy());
