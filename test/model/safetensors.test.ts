// The codec of files and frames: what goes in comes out, and no bytes whatever do worse than a `malformed`.
import assert from 'node:assert/strict';
import test from 'node:test';
import fc from '../support/fast-check.ts';
import { decode, encode } from '../../runtime/safetensors.ts';
import { DTYPE_BYTES, elements, type DType, type Tensor } from '../../runtime/tensor.ts';
import { meshError } from './harness.ts';

const dtypes = Object.keys(DTYPE_BYTES) as DType[];
const tensor = fc
  .record({ dtype: fc.constantFrom(...dtypes), shape: fc.array(fc.integer({ min: 0, max: 4 }), { maxLength: 4 }) })
  .chain(({ dtype, shape }) => {
    const length = elements(shape) * DTYPE_BYTES[dtype];
    return fc
      .uint8Array({ minLength: length, maxLength: length })
      .map((data): Tensor => ({ dtype, shape, data: new Uint8Array(data) }));
  });
const name = fc.string({ maxLength: 12 }).filter((text) => text !== '__metadata__');
const tensors = fc.array(fc.tuple(name, tensor), { maxLength: 5 }).map((entries) => new Map(entries));
const metadata = fc.dictionary(fc.string({ maxLength: 6 }), fc.string({ maxLength: 6 }), { maxKeys: 3 });

test('round trip', () => {
  fc.assert(
    fc.property(tensors, metadata, (written, notes) => {
      const { tensors: read, metadata: found } = decode(encode(written, notes));
      assert.deepEqual(
        new Map([...read].map(([key, value]) => [key, { ...value, data: [...value.data] }])),
        new Map([...written].map(([key, value]) => [key, { ...value, data: [...value.data] }])),
      );
      assert.deepEqual({ ...found }, { ...notes });
    }),
    { numRuns: 300 },
  );
});

test('mutated bytes decode or throw malformed', () => {
  const edit = fc.record({ at: fc.nat(), value: fc.integer({ min: 0, max: 255 }) });
  fc.assert(
    fc.property(
      tensors,
      fc.array(edit, { minLength: 1, maxLength: 6 }),
      fc.nat(),
      fc.boolean(),
      (written, edits, cut, isCutting) => {
        const whole = encode(written);
        const bytes = isCutting ? whole.slice(0, cut % (whole.byteLength + 1)) : whole;
        for (const { at, value } of edits) if (bytes.byteLength > 0) bytes[at % bytes.byteLength] = value;
        try {
          decode(bytes);
        } catch (cause) {
          assert.ok(meshError('malformed')(cause), String(cause));
        }
      },
    ),
    { numRuns: 2000 },
  );
});

test('any bytes decode or throw malformed', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
      try {
        decode(new Uint8Array(bytes));
      } catch (cause) {
        assert.ok(meshError('malformed')(cause), String(cause));
      }
    }),
    { numRuns: 500 },
  );
});
