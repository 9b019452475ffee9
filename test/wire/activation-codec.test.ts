// Activations in fewer bytes: what comes back lies within the stated bounds, f16 is rounded as the hardware would, and what is not
// finite, or not what it says it is, is refused.
import assert from 'node:assert/strict';
import test from 'node:test';
import fc from '../support/fast-check.ts';
import { f32Of, f32Tensor, i32Tensor, type Tensor, type Tensors } from '../../runtime/tensor.ts';
import { BLOCK, decodeActivation, encodeActivation, type WireFormat } from '../../runtime/wire/activation-codec.ts';
import { noise } from '../reference/kernels.ts';
import { withCode } from '../server/stages.ts';

const FORMATS = ['f32', 'f16', 'int8'] as const;
const encoded = (tensor: Tensor, format: WireFormat): Tensors => new Map(encodeActivation('x', tensor, format));

function throughWire(values: Float32Array<ArrayBuffer>, format: WireFormat): Float32Array {
  const decoded = decodeActivation('x', encoded(f32Tensor([values.length], values), format));
  assert.ok(decoded);
  assert.deepEqual(decoded.shape, [values.length]);
  return f32Of(decoded);
}

const largest = (values: Float32Array): number => values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
/** f32's own rounding of a product, and of what is near its smallest numbers. */
const slack = (m: number): number => m * 2 ** -22 + 2 ** -142;

const finite = fc.float({ noNaN: true, min: -(2 ** 127), max: 2 ** 127 });
const values = fc.oneof(
  fc.array(finite, { maxLength: 200 }),
  // As activations and gradients are: of one scale, whatever that is.
  fc
    .tuple(
      fc.array(fc.float({ min: -1, max: 1, noNaN: true }), { maxLength: 400 }),
      fc.integer({ min: -120, max: 120 }),
    )
    .map(([list, exponent]) => list.map((value) => value * 2 ** exponent)),
);

test('f16: within 2^-11 of each value, or 2^-39 of the largest', () => {
  fc.assert(
    fc.property(values, (list) => {
      const given = Float32Array.from(list);
      const got = throughWire(given, 'f16');
      const m = largest(given);
      for (const [i, value] of given.entries()) {
        const bound = Math.max(Math.abs(value) * 2 ** -11, m * 2 ** -39) * (1 + 2 ** -10) + 2 ** -149;
        assert.ok(Math.abs((got[i] ?? NaN) - value) <= bound, `${value} came as ${got[i]}, largest ${m}`);
      }
    }),
    { numRuns: 500 },
  );
});

test('f16: gradients far below what f16 holds do not underflow', () => {
  const given = Float32Array.from({ length: 1_000 }, (_, i) => (i % 2 ? -1 : 1) * 2 ** -(60 + (i % 12)));
  const got = throughWire(given, 'f16');
  assert.deepEqual(got, given, 'powers of two come through as they are');
});

test('f16: bits are those of the nearest half', (t) => {
  const Half = (globalThis as { Float16Array?: new (from: Float32Array) => { buffer: ArrayBuffer } }).Float16Array;
  if (!Half) {
    t.skip('this Node has no Float16Array to compare with');
    return;
  }
  const given = noise(3_000, 5);
  given.set([1.5 * 2 ** 14, 2 ** -15, 3 * 2 ** -24, -(2 ** -11)]); // the scale is 1: the largest lies in 2^14 … 2^15
  const words = encoded(f32Tensor([given.length], given), 'f16').get('x')?.data;
  assert.ok(words);
  assert.deepEqual(words, new Uint8Array(new Half(given).buffer));
});

test('int8: within 1/254 of the largest of its block', () => {
  fc.assert(
    fc.property(values, (list) => {
      const given = Float32Array.from(list);
      const got = throughWire(given, 'int8');
      for (let start = 0; start < given.length; start += BLOCK) {
        const m = largest(given.subarray(start, start + BLOCK));
        for (let i = start; i < Math.min(start + BLOCK, given.length); i += 1) {
          const error = Math.abs((got[i] ?? NaN) - (given[i] ?? NaN));
          assert.ok(error <= m / 254 + slack(m), `${given[i]} came as ${got[i]}, largest of its block ${m}`);
        }
      }
    }),
    { numRuns: 500 },
  );
});

test('f32 and integers come through as they are, and bytes are as few as promised', () => {
  const given = f32Tensor([2, 64], noise(128, 3));
  assert.equal(decodeActivation('x', encoded(given, 'f32'))?.data, given.data);
  const tokens = i32Tensor([3], Int32Array.of(1, 2, 3));
  assert.equal(decodeActivation('x', new Map([['x', tokens]])), tokens);
  const bytes = (format: WireFormat): number =>
    [...encoded(given, format).values()].reduce((sum, { data }) => sum + data.byteLength, 0);
  assert.deepEqual(FORMATS.map(bytes), [512, 260, 136]);
});

test('NaN and infinity are refused by both that encode', () => {
  for (const format of ['f16', 'int8'] as const)
    for (const bad of [NaN, Infinity, -Infinity])
      for (const at of [0, 63, 64, 99]) {
        const given = noise(100, 1);
        given[at] = bad;
        assert.throws(() => encoded(f32Tensor([100], given), format), withCode('not-finite'));
      }
});

test('what does not fit together is refused', () => {
  const given = f32Tensor([100], noise(100, 2));
  for (const format of ['f16', 'int8'] as const) {
    const whole = encoded(given, format);
    const x = whole.get('x');
    assert.ok(x);
    assert.throws(() => decodeActivation('x', new Map([['x', x]])), withCode('malformed'));
    const scale = f32Tensor([3], Float32Array.of(1, 1, 1));
    assert.throws(() => decodeActivation('x', new Map([['x', x], ['x.scale', scale]])), withCode('malformed')); // prettier-ignore
    const wild = f32Tensor([format === 'f16' ? 1 : 2], new Float32Array(format === 'f16' ? 1 : 2).fill(NaN));
    assert.throws(() => decodeActivation('x', new Map([['x', x], ['x.scale', wild]])), withCode('not-finite')); // prettier-ignore
  }
  const infinite: Tensor = { dtype: 'f16', shape: [1], data: Uint8Array.of(0x00, 0x7c) };
  const one = f32Tensor([1], Float32Array.of(1));
  assert.throws(() => decodeActivation('x', new Map([['x', infinite], ['x.scale', one]])), withCode('not-finite')); // prettier-ignore
});

test('bytes that are not aligned are decoded alike', () => {
  for (const format of ['f16', 'int8'] as const) {
    const given = noise(130, 4);
    const shifted = new Map(
      [...encoded(f32Tensor([130], given), format)].map(([name, tensor]) => {
        const room = new Uint8Array(tensor.data.byteLength + 1);
        room.set(tensor.data, 1);
        return [name, { ...tensor, data: room.subarray(1) }];
      }),
    );
    const decoded = decodeActivation('x', shifted);
    assert.ok(decoded);
    assert.deepEqual(f32Of(decoded), throughWire(given, format));
  }
});
