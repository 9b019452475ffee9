// Norms and embeddings on the real device against loops in double precision; every
// backward against finite differences of those. Tolerances are relative to the norm of the reference unless they say otherwise.
import assert from 'node:assert/strict';
import test from 'node:test';
import * as embedding from '../../runtime/gpu/embedding.ts';
import * as norms from '../../runtime/gpu/norms.ts';
import { gradientOf, noise, type Values } from '../reference/kernels.ts';
import * as reference from '../reference/transformer.ts';
import { close, dot, gpuWith, run, zeros } from './transformer-support.ts';

const gpu = await gpuWith(({ description }) => [
  ...[4, 5].flatMap((C) => [
    ...norms.layernormUses(description, C, true),
    ...norms.layernormUses(description, C, false),
    ...norms.rmsnormUses(description, C),
  ]),
  // The lanes of real GPUs, whatever this one is.
  ...norms.layernormUses({ isSoftware: false }, 4, true),
  ...embedding.embeddingUses,
]);

const NORM_SHAPES = [
  [1, 1],
  [3, 2],
  [2, 31],
  [17, 33],
  [5, 64],
  [70, 8],
  [130, 5],
  [2, 768],
] as const;

test('layernorm and its stats, with and without bias, agree with the reference (1e-6)', async () => {
  for (const [M, C] of NORM_SHAPES) {
    const [x, w, b] = [noise(M * C, 1).map((v) => v + 3), noise(C, 2), noise(C, 3)];
    for (const bias of [b, null]) {
      const [y, stats] = await run(gpu, [zeros(M * C), zeros(M * 2), x, w, b], 2, (r, yS, s, xS, wS, bS) =>
        norms.layernorm(r, yS, s, xS, wS, bias === null ? null : bS, { M, C, eps: 1e-5 }),
      );
      const [wantedY, wantedStats] = reference.layernorm(x, w, bias, M, C, 1e-5);
      // One channel is its own mean: nothing is left but the rounding of x - mean, which is 0.
      close(y, wantedY ?? [], C === 1 ? 1e-3 : 2e-6, `layernorm ${M}×${C}`);
      if (C > 2) close(stats, wantedStats ?? [], 1e-6, `stats ${M}×${C}`);
    }
  }
});

test('layernorm keeps its places where the mean is a thousand times the deviation (1e-4)', async () => {
  const [M, C] = [4, 256];
  const x = noise(M * C, 4).map((v) => v + 1000);
  const [w, b] = [zeros(C).fill(1), zeros(C)];
  const [y] = await run(gpu, [zeros(M * C), zeros(M * 2), x, w, b], 1, (r, yS, s, xS, wS, bS) =>
    norms.layernorm(r, yS, s, xS, wS, bS, { M, C, eps: 1e-5 }),
  );
  close(y, reference.layernorm(x, w, b, M, C, 1e-5)[0] ?? [], 1e-4, 'layernorm');
});

/** dx, dw and db by finite differences, each with what was there before. */
const differences = (
  f: (x: Values, w: Values, b: Values) => number,
  x: Values,
  w: Values,
  b: Values,
): Float64Array[] => [
  gradientOf((v) => f(v, w, b), x),
  gradientOf((v) => f(x, v, b), w),
  gradientOf((v) => f(x, w, v), b),
];

const plus = (a: Values, b: Values): Float64Array => Float64Array.from(a, (v, i) => v + (b[i] ?? NaN));

test('layernorm-backward agrees with finite differences, set and added (1e-5)', async () => {
  for (const [M, C] of NORM_SHAPES.filter(([m, c]) => m * c < 1500 && c > 1)) {
    const [x, w, b, dy] = [noise(M * C, 5), noise(C, 6), noise(C, 7), noise(M * C, 8)];
    const [dx0, dw0, db0] = [noise(M * C, 9), noise(C, 10), noise(C, 11)];
    const eps = 1e-3; // two channels alone have a steep slope
    const stats = Float32Array.from(reference.layernorm(x, w, b, M, C, eps)[1] ?? []);
    const [dx, dw, db] = differences((...v) => dot(reference.layernorm(...v, M, C, eps)[0] ?? [], dy), x, w, b);
    const scratch = zeros(norms.normScratchBytes({ M, C }) / 4);
    for (const isAdding of [false, true])
      for (const hasBias of [false, true]) {
        const got = await run(
          gpu,
          [dx0, dw0, db0, dy, x, stats, w, scratch],
          3,
          (r, dxS, dwS, dbS, dyS, xS, s, wS, rest) => {
            const parameters = { dw: dwS, db: hasBias ? dbS : null };
            norms.layernormBackward(r, dxS, parameters, dyS, xS, s, wS, { M, C }, isAdding, rest);
          },
        );
        const label = `${M}×${C}`;
        close(got[0], isAdding ? plus(dx0, dx ?? []) : (dx ?? []), 1e-5, `dx ${label}`);
        close(got[1], plus(dw0, dw ?? []), 1e-5, `dw ${label}`);
        close(got[2], hasBias ? plus(db0, db ?? []) : db0, 1e-5, `db ${label}`);
      }
  }
});

test('layernorm on the lanes of real GPUs (1e-6, 1e-5)', async () => {
  const [M, C] = [3, 260];
  const [x, w, b, dy] = [noise(M * C, 12), noise(C, 13), noise(C, 14), noise(M * C, 15)];
  const device = { isSoftware: false };
  const [forward, backward] = norms.layernormUses(device, C, true);
  assert.deepEqual(
    [forward?.overrides, backward?.overrides],
    [
      { BIAS: true, LANES: 64 },
      { ADD: false, LANES: 64 },
    ],
  );
  const [y, , dx] = await run(
    gpu,
    [zeros(M * C), zeros(M * 2), zeros(M * C), x, w, b, dy],
    3,
    (r, yS, s, dxS, xS, wS, bS, dyS) => {
      const sizes = { M, C, eps: 1e-5 };
      r.dispatch('layernorm-vec4', { BIAS: true, LANES: 64 }, [yS, s, xS, wS, bS], sizes, M);
      r.dispatch('layernorm-backward-vec4', { ADD: false, LANES: 64 }, [dxS, dyS, xS, s, wS], { M, C }, M);
    },
  );
  const f = (v: Values): Float64Array => reference.layernorm(v, w, b, M, C, 1e-5)[0] ?? new Float64Array(0);
  close(y, f(x), 2e-6, 'y');
  close(
    dx,
    gradientOf((v) => dot(f(v), dy), x),
    1e-5,
    'dx',
  );
});

test('rmsnorm agrees with the reference, its backward with finite differences (1e-6, 1e-5)', async () => {
  for (const [M, C] of NORM_SHAPES.filter(([m, c]) => m * c < 1500)) {
    const [x, w, dy] = [noise(M * C, 16), noise(C, 17), noise(M * C, 18)];
    const [dx0, dw0] = [noise(M * C, 19), noise(C, 20)];
    const [eps, label] = [1e-5, `${M}×${C}`];
    const scratch = zeros(norms.normScratchBytes({ M, C }) / 4);
    const f = (xs: Values, ws: Values): Float64Array[] => reference.rmsnorm(xs, ws, M, C, eps);
    const [wantedY, wantedStats] = f(x, w);
    const [dx, dw] = differences((xs, ws) => dot(f(xs, ws)[0] ?? [], dy), x, w, []);
    for (const isAdding of [false, true]) {
      const got = await run(
        gpu,
        [zeros(M * C), zeros(M), dx0, dw0, dy, x, w, scratch],
        4,
        (r, yS, s, dxS, dwS, dyS, xS, wS, rest) => {
          norms.rmsnorm(r, yS, s, xS, wS, { M, C, eps });
          norms.rmsnormBackward(r, dxS, dwS, dyS, xS, s, wS, { M, C }, isAdding, rest);
        },
      );
      close(got[0], wantedY ?? [], 2e-6, `y ${label}`);
      close(got[1], wantedStats ?? [], 1e-6, `stats ${label}`);
      // One channel has next to no gradient: what is left is rounding.
      const dxWanted = isAdding ? plus(dx0, dx ?? []) : (dx ?? []);
      close(got[2], dxWanted, 1e-5, `dx ${label}`, C === 1 ? dy : dxWanted);
      close(got[3], plus(dw0, dw ?? []), 1e-5, `dw ${label}`);
    }
  }
});

test('embed reads windows of the table, adds where asked, and leaves other rows alone (exact)', async () => {
  for (const [rows, V, C] of [
    [1, 1, 1],
    [7, 5, 3],
    [65, 70, 64],
    [20, 1000, 65],
  ] as const) {
    const ids = Int32Array.from({ length: rows }, (_, i) => (i * 37) % V);
    const w = noise(V * C, 21);
    const split = Math.ceil(V / 2);
    const [low, high] = [w.slice(0, split * C), w.slice(split * C)];
    const run2 = (accumulate: boolean): Promise<Float32Array[]> =>
      run(gpu, [noise(rows * C, 22), ids, low, high.length === 0 ? low : high], 1, (r, y, i, a, b) => {
        embedding.embed(r, y, i, a, { rows, C, first: 0, count: split, accumulate });
        embedding.embed(r, y, i, b, { rows, C, first: split, count: V - split, accumulate });
      });
    const wanted = Float32Array.from(reference.embed(ids, w, C));
    assert.deepEqual((await run2(false))[0], wanted);
    assert.deepEqual((await run2(true))[0], Float32Array.from(plus(noise(rows * C, 22), wanted)));
    const negative = await run(gpu, [noise(rows * C, 23), ids.map(() => -1), w], 1, (r, y, i, table) =>
      embedding.embed(r, y, i, table, { rows, C, first: 0, count: V }),
    );
    assert.deepEqual(negative[0], noise(rows * C, 23));
  }
});

test('embeddings with positions, and the gradients of both tables (1e-6, 1e-5)', async () => {
  for (const [B, T, V, C] of [
    [1, 1, 1, 1],
    [2, 3, 4, 5],
    [3, 7, 300, 3],
    [4, 16, 9, 12],
  ] as const) {
    const rows = B * T;
    const ids = Int32Array.from({ length: rows }, (_, i) => (i * i * 31) % V);
    const [w, positions, dy] = [noise(V * C, 24), noise(T * C, 25), noise(rows * C, 26)];
    const [dw0, dp0] = [noise(V * C, 27), noise(T * C, 28)];
    const first = Math.floor(V / 3);
    const plan = embedding.embedPlan(ids);
    const got = await run(
      gpu,
      [zeros(rows * C), dw0, dp0, ids, plan, w, positions, dy],
      3,
      (r, y, dw, dp, i, order, table, p, d) => {
        embedding.embed(r, y, i, table, { rows, C, first: 0, count: V });
        embedding.embedPositions(r, y, p, { rows, T, C });
        embedding.embedBackward(r, dw, order, d, { rows, C, first: 0, count: V });
        embedding.positionsBackward(r, dp, d, { rows, T, C });
      },
    );
    const f = (v: Values, p: Values): number => dot(reference.embed(ids, v, C, p, T), dy);
    close(got[0], reference.embed(ids, w, C, positions, T), 1e-6, 'y');
    const dw = gradientOf((v) => f(v, positions), w);
    close(got[1], plus(dw0, dw), 1e-5, `dw ${V}×${C}`);
    close(
      got[2],
      plus(
        dp0,
        gradientOf((v) => f(w, v), positions),
      ),
      1e-5,
      `dp ${T}×${C}`,
    );
    const window = dw0.slice(first * C);
    const [part] = await run(gpu, [window, plan, dy], 1, (r, dwS, order, d) =>
      embedding.embedBackward(r, dwS, order, d, { rows, C, first, count: V - first }),
    );
    close(part, plus(window, dw.slice(first * C)), 1e-5, `dw from ${first}`);
  }
});

test('a plan lists rows by id, rows of one id in their order', () => {
  assert.deepEqual([...embedding.embedPlan(Int32Array.of(5, 0, 5, -1, 0))], [-1, 3, 0, 1, 0, 4, 5, 0, 5, 2]);
});

test('positions of a later token are those from `start` (exact)', async () => {
  const [y] = await run(gpu, [zeros(6), noise(15, 29)], 1, (r, yS, w) =>
    embedding.embedPositions(r, yS, w, { rows: 2, T: 2, C: 3, start: 3 }),
  );
  assert.deepEqual(y, noise(15, 29).slice(9));
});

test.after(() => gpu.destroy());
