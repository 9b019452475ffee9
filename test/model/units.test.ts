// Units: whatever the shapes, every element is in exactly one unit, rows stay whole, and all replicas cut alike.
import assert from 'node:assert/strict';
import test from 'node:test';
import fc from '../support/fast-check.ts';
import { modelSpecSchema } from '../../runtime/model-spec.ts';
import { layerCount, stageInfo } from '../../runtime/model/spec.ts';
import { defaultUnitBytes, unitsDigest, unitsOf } from '../../runtime/model/units.ts';
import type { ParameterInfo } from '../../runtime/compute.ts';

const size = fc.integer({ min: 1, max: 40 });
const parameters: fc.Arbitrary<ParameterInfo[]> = fc
  .array(
    fc.record({
      layer: fc.integer({ min: 0, max: 4 }),
      part: fc.constantFrom('weight', 'bias', 'scale'),
      shape: fc.array(size, { minLength: 1, maxLength: 3 }),
    }),
    { minLength: 1, maxLength: 12 },
  )
  .map((all) => {
    const named = all.map(({ layer, part, shape }) => ({ name: `layers.${layer}.${part}`, shape }));
    return [...new Map(named.map((one) => [one.name, one])).values()];
  });
const elements = (shape: readonly number[]): number => shape.reduce((product, n) => product * n, 1);
const unitBytes = fc.integer({ min: 64, max: 20_000 });

test('every element is in one unit, in whole rows, and no unit is larger than asked unless it is one row', () => {
  fc.assert(
    fc.property(parameters, unitBytes, (all, bytes) => {
      const units = unitsOf(all, bytes);
      const seen = new Map<string, number>();
      const shapes = new Map(all.map(({ name, shape }) => [name, shape]));
      for (const { ranges, count } of units) {
        assert.equal(count, ranges.reduce((sum, range) => sum + range.count, 0)); // prettier-ignore
        const rows = new Set<number>();
        for (const { name, start, count: length } of ranges) {
          const width = elements((shapes.get(name) ?? []).slice(1));
          assert.equal(start, seen.get(name) ?? 0);
          assert.ok(length > 0 && length % width === 0, 'whole rows');
          rows.add(length / width);
          seen.set(name, start + length);
        }
        assert.equal(rows.size, 1, 'what is cut together is cut alike');
        assert.ok(count * 4 <= bytes || rows.has(1));
      }
      for (const { name, shape } of all) assert.equal(seen.get(name), elements(shape));
      assert.equal(new Set(units.map(({ ranges }) => ranges.map(({ name, start }) => `${name}@${start}`).join())).size, units.length); // prettier-ignore
    }),
  );
});

test('equal parameters and sizes make equal units; any other a different digest', () => {
  fc.assert(
    fc.property(parameters, unitBytes, unitBytes, (all, bytes, other) => {
      const digest = unitsDigest(unitsOf(all, bytes));
      assert.match(digest, /^[0-9a-f]{8}$/);
      assert.equal(unitsDigest(unitsOf(structuredClone(all), bytes)), digest);
      const same = JSON.stringify(unitsOf(all, other)) === JSON.stringify(unitsOf(all, bytes));
      assert.equal(unitsDigest(unitsOf(all, other)) === digest, same);
    }),
  );
});

test('weight and bias of a layer travel together, and a model has 16 units or more', () => {
  const model = modelSpecSchema.parse({ family: 'mlp', sizes: [784, 512, 10] });
  const { parameters: all, parameterBytes } = stageInfo(model, 0, layerCount(model));
  const units = unitsOf(all, defaultUnitBytes(parameterBytes));
  assert.ok(units.length >= 16 && units.length <= 20, `${units.length} units`);
  for (const { ranges } of units) assert.equal(ranges.length, 2, ranges.map(({ name }) => name).join());
  assert.equal(units.at(-1)?.name, 'layers.1');
  assert.equal(units[0]?.name, 'layers.0#0');
});

test('the default is a 16th of the model, within 4 KiB and 1 MiB', () => {
  assert.deepEqual([0, 4096 * 16, 4096 * 17, 2 ** 30].map(defaultUnitBytes), [4096, 4096, 4352, 2 ** 20]); // prettier-ignore
});

test('more units than can be counted are refused, with what to do', () => {
  const all = [{ name: 'wte.weight', shape: [70_000, 16] }];
  assert.throws(() => unitsOf(all, 64), { code: 'usage', message: /more than 65536/, fix: /average\.unitBytes/ });
  assert.equal(unitsOf(all, 128).length, 35_000);
});
