// The kernels that average layers on the real device against plain loops in double precision: size 1, workgroup ± 1, ragged, and items
// that begin anywhere.
import assert from 'node:assert/strict';
import test from 'node:test';
import * as layers from '../../runtime/gpu/layers.ts';
import * as reference from '../reference/layers.ts';
import { noise, relativeError, type Values } from '../reference/kernels.ts';
import { runOn, testGpu } from './device.ts';

const gpu = await testGpu();
const COUNTS = [1, 63, 64, 65, 255, 257, 4096];
const zeros = (count: number): Float32Array<ArrayBuffer> => new Float32Array(count);
/** `scale`: what the error is relative to, where terms may cancel. */
const close = (got: Values | undefined, wanted: Values, tolerance: number, what: string, scale = wanted): void => {
  const error = relativeError(got ?? [], wanted, scale);
  assert.ok(error <= tolerance, `${what}: relative error ${error} > ${tolerance}`);
};
const scratch = new DataView(new ArrayBuffer(4));
const bitsOf = (value: number): number => {
  scratch.setFloat32(0, value);
  return scratch.getUint32(0);
};

test('layer-distance sums squares of differences and of values, item by item (1e-6)', async () => {
  for (const count of COUNTS) {
    const [a, b] = [noise(count + 7, 1), noise(count + 3, 2)];
    const table = Uint32Array.of(5, 2, count, 0, 0, 0, 1, 0); // the second item is one element
    const [sums] = await runOn(gpu, [zeros(8), a, b, table], 1, (r, [s, x, y, t]) => {
      if (s && x && y && t) layers.layerDistance(r, s, x, y, t, 2);
    });
    const wanted = reference.distance(a.subarray(5, 5 + count), b.subarray(2, 2 + count));
    close([sums?.[0] ?? NaN, sums?.[1] ?? NaN], wanted, 1e-6, `distance of ${count}`);
    close([sums?.[4] ?? NaN], [((a[0] ?? 0) - (b[0] ?? 0)) ** 2], 1e-6, 'one element');
    assert.equal(new Uint32Array(sums?.buffer ?? new ArrayBuffer(0))[2], 0, 'all finite');
  }
});

test('layer-distance with loads of four tells the same where items begin at fours (1e-6)', async () => {
  for (const count of COUNTS) {
    const [a, b] = [noise(count + 8, 1), noise(count + 12, 2)];
    a[8 + count - 1] = Infinity; // of the second item
    a[7] = Number.NaN; // of none
    const table = Uint32Array.of(0, 4, 3, 0, 8, 12, count, 0);
    const [sums] = await runOn(gpu, [zeros(8), a, b, table], 1, (r, [s, x, y, t]) => {
      if (s && x && y && t) layers.layerDistance(r, s, x, y, t, 2, true);
    });
    close([sums?.[0] ?? NaN, sums?.[1] ?? NaN], reference.distance(a.subarray(0, 3), b.subarray(4, 7)), 1e-6, 'three');
    const flags = new Uint32Array(sums?.buffer ?? new ArrayBuffer(0));
    assert.deepEqual([flags[2], flags[6]], [0, 1], `${count}`);
    a[8 + count - 1] = 0;
    const [whole] = await runOn(gpu, [zeros(8), a, b, table], 1, (r, [s, x, y, t]) => {
      if (s && x && y && t) layers.layerDistance(r, s, x, y, t, 2, true);
    });
    const wanted = reference.distance(a.subarray(8, 8 + count), b.subarray(12, 12 + count));
    close([whole?.[4] ?? NaN, whole?.[5] ?? NaN], wanted, 1e-6, `${count}`, [wanted[1], wanted[1]]);
  }
});

test('layer-distance flags the item that holds NaN or infinity, and no other', async () => {
  for (const bad of [Number.NaN, Infinity, -Infinity])
    for (const place of [0, 63, 64, 299]) {
      const a = noise(600, 3);
      a[300 + place] = bad;
      const table = Uint32Array.of(0, 0, 300, 0, 300, 300, 300, 0);
      const [sums] = await runOn(gpu, [zeros(8), a, noise(600, 4), table], 1, (r, [s, x, y, t]) => {
        if (s && x && y && t) layers.layerDistance(r, s, x, y, t, 2);
      });
      const flags = new Uint32Array(sums?.buffer ?? new ArrayBuffer(0));
      assert.deepEqual([flags[2], flags[6]], [0, 1], `${bad} at ${place}`);
    }
});

test('layer-merge is the self-centred mean of one to four parts, and keeps what was trained meanwhile (1e-6)', async () => {
  for (const count of COUNTS)
    for (const parts of [1, 2, 3, 4]) {
      const [live, shown] = [noise(count + 9, 5), noise(count + 9, 6)];
      const xs = Array.from({ length: 4 }, (_, p) => noise(count + 4, 10 + p));
      const c = [0.3, 0.1, 0.05, 0.2].slice(0, parts);
      const keep = 1 - c.reduce((sum, value) => sum + value, 0);
      const table = Uint32Array.of(9, count, bitsOf(keep), 0, 4, 3, 2, 1, ...Array.from({ length: 4 }, (_, p) => bitsOf(c[p] ?? 0))); // prettier-ignore
      const [gotLive, gotShown] = await runOn(gpu, [live, shown, ...xs, table], 2, (r, [l, s, x0, x1, x2, x3, t]) => {
        if (l && s && x0 && x1 && x2 && x3 && t) layers.layerMerge(r, { live: l, shown: s }, [x0, x1, x2, x3], t, 1);
      });
      const wanted = reference.merge(
        live.subarray(9),
        shown.subarray(9),
        xs.slice(0, parts).map((x, p) => x.subarray(4 - p, 4 - p + count)),
        c,
      );
      close(gotLive?.subarray(9), wanted.live, 1e-6, `live, ${count} of ${parts}`);
      close(gotShown?.subarray(9), wanted.shown, 1e-6, `shown, ${count} of ${parts}`);
      assert.deepEqual(gotLive?.subarray(0, 9), live.subarray(0, 9), 'what lies before stays');
    }
});

test('layer-apply puts values in the place of the shown ones and moves the live ones along (1e-6)', async () => {
  for (const count of COUNTS) {
    const [live, shown, s] = [noise(count + 2, 7), noise(count + 2, 8), noise(count + 1, 9)];
    const [gotLive, gotShown] = await runOn(gpu, [live, shown, s, Uint32Array.of(2, 1, count, 0)], 2, (r, [a, b, c, t]) => {
      if (a && b && c && t) layers.layerApply(r, { live: a, shown: b }, c, t, 1);
    }); // prettier-ignore
    assert.deepEqual(gotShown?.subarray(2), s.subarray(1));
    const wanted = Array.from(live.subarray(2), (w, i) => w + (s[i + 1] ?? 0) - (shown[i + 2] ?? 0));
    close(gotLive?.subarray(2), wanted, 1e-6, `live ${count}`);
  }
});

test('trimmed-mean leaves out the extremes of each coordinate, from the mean to the median (1e-6)', async () => {
  for (const count of [1, 63, 64, 65, 200])
    for (let parts = 1; parts <= 16; parts += 1)
      for (let trim = 0; 2 * trim < parts; trim += 1) {
        const stride = count + 3;
        const all = noise(parts * stride, 20 + parts);
        const [y] = await runOn(gpu, [zeros(count), all], 1, (r, [o, x]) => {
          if (o && x) layers.trimmedMean(r, o, x, { count, parts, stride, trim });
        });
        const columns = Array.from({ length: parts }, (_, p) => all.subarray(p * stride, p * stride + count));
        close(y, reference.trimmedMean(columns, trim), 1e-6, `${parts} parts without ${trim}, ${count}`, columns[0]);
      }
});

test('block-quantise and back: whole numbers as the reference has them, and what was lost is kept (half a scale at most)', async () => {
  for (const bits of [8, 4] as const)
    for (const blocks of [1, 2, 63, 65]) {
      const count = blocks * 64;
      const [x, e] = [noise(count, 30), noise(count, 31, 0.01)];
      x.fill(0, 0, 64); // a block of zeros,
      e.fill(0, 0, 64); // of which nothing was lost
      const q = new Uint32Array((count * bits) / 32);
      const wanted = reference.quantise(x, e, bits);
      const [gotQ, scale, lost, y] = await runOn(gpu, [q, zeros(blocks), e, zeros(count), x], 4, (r, [a, b, c, d, s]) => {
        if (!a || !b || !c || !d || !s) return;
        layers.blockQuantise(r, { q: a, scale: b, e: c }, s, blocks, bits);
        layers.blockDequantise(r, d, a, b, blocks, bits);
      }); // prettier-ignore
      close(scale, wanted.scale, 1e-6, `scales at ${bits} bits`);
      const words = new Uint32Array(gotQ?.buffer ?? new ArrayBuffer(0));
      const perWord = 32 / bits;
      let differing = 0;
      wanted.q.forEach((whole, i) => {
        const raw = ((words[Math.floor(i / perWord)] ?? 0) >>> ((i % perWord) * bits)) & (2 ** bits - 1);
        const got = raw >= 2 ** (bits - 1) ? raw - 2 ** bits : raw;
        if (got !== whole) differing += 1; // halves may be rounded either way
        assert.ok(Math.abs(got - whole) <= 1, `${i}: ${got}, wanted ${whole}`);
        const back = got * (scale?.[Math.floor(i / 64)] ?? NaN);
        assert.ok(Math.abs((y?.[i] ?? NaN) - back) <= 1e-6 * Math.max(1, Math.abs(back)));
        const kept = (x[i] ?? 0) + (e[i] ?? 0) - (y?.[i] ?? NaN);
        assert.ok(Math.abs((lost?.[i] ?? NaN) - kept) <= 2e-6, `lost ${i}: ${lost?.[i]}, ${kept}`);
        assert.ok(Math.abs(lost?.[i] ?? NaN) <= (scale?.[Math.floor(i / 64)] ?? 0) * 0.5001 + 1e-7);
      });
      assert.ok(differing <= count / 500, `${differing} of ${count} differ`);
    }
});

test('error feedback: the mean of what arrives over many rounds is the value itself, far below one step', async () => {
  const count = 64;
  const x = noise(count, 40);
  const q = new Uint32Array(count / 8);
  const ROUNDS = 64;
  let e = zeros(count);
  const sum = new Float64Array(count);
  for (let i = 0; i < ROUNDS; i += 1) {
    const [, , lost, y] = await runOn(gpu, [q, zeros(1), e, zeros(count), x], 4, (r, [a, b, c, d, s]) => {
      if (!a || !b || !c || !d || !s) return;
      layers.blockQuantise(r, { q: a, scale: b, e: c }, s, 1, 4);
      layers.blockDequantise(r, d, a, b, 1, 4);
    });
    e = Float32Array.from(lost ?? []);
    y?.forEach((value, j) => (sum[j] = (sum[j] ?? 0) + value));
  }
  close(Array.from(sum, (value) => value / ROUNDS), x, 0.01, 'mean of 64 rounds at 4 bits'); // prettier-ignore
});

test('outer-step: Nesterov momentum on slow weights, and the pair of NoLoCo (1e-6)', async () => {
  const sizes = { rate: 0.7, momentum: 0.9, pull: 0.4 };
  for (const count of COUNTS)
    for (const isPair of [false, true]) {
      const [live, shown, slow, m] = [50, 51, 52, 53].map((seed) => noise(count + 2, seed));
      const [g, c] = [noise(count + 1, 54), noise(count + 1, 55)];
      if (!live || !shown || !slow || !m) continue;
      const got = await runOn(gpu, [live, shown, slow, m, g, c, Uint32Array.of(2, 1, count, 0)], 4, (r, s) => {
        const [a, b, d, e, f, h, t] = s;
        if (!a || !b || !d || !e || !f || !h || !t) return;
        const on = { live: a, shown: b, slow: d, momentum: e };
        layers.outerStep(r, on, f, isPair ? h : null, t, { items: 1, ...sizes });
      });
      const from = (values: Float32Array): Float32Array => values.subarray(2);
      const before = { live: from(live), shown: from(shown), slow: from(slow), m: from(m) };
      const wanted = reference.outerStep(before, g.subarray(1), isPair ? c.subarray(1) : null, sizes);
      [wanted.live, wanted.shown, wanted.slow, wanted.m].forEach((values, i) =>
        close(
          got[i]?.subarray(2),
          values,
          1e-6,
          `output ${i} of ${count}, ${isPair ? 'pair' : 'all'}`,
          slow.subarray(2),
        ),
      );
    }
});
