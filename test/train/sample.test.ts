// Drawing tokens, and where a run stops for a moment.
import assert from 'node:assert/strict';
import test from 'node:test';
import fc from '../support/fast-check.ts';
import { milestones } from '../../runtime/train/milestones.ts';
import { drawFrom, sampleTokens } from '../../runtime/train/sample.ts';

test('a draw follows the softmax at its temperature', () => {
  const logits = Float32Array.from([0, Math.log(3), -Infinity]);
  assert.deepEqual([0, 0.24, 0.26, 0.999].map((u) => drawFrom(logits, 1, u)), [0, 0, 1, 1]); // prettier-ignore
  // At half the temperature the odds are squared: 1 to 9.
  assert.deepEqual([0.09, 0.11].map((u) => drawFrom(logits, 0.5, u)), [0, 1]); // prettier-ignore
  assert.equal(drawFrom(logits, 0, 0), 1);
  assert.equal(drawFrom(Float32Array.of(1e30, -1e30), 1e-3, 0.9), 0);
});

test('the context slides, the seed decides, the end of the text ends it', async () => {
  const seen: number[][] = [];
  const flat = (ids: Int32Array): Promise<Float32Array> => {
    seen.push([...ids]);
    return Promise.resolve(new Float32Array(10));
  };
  const options = { tokens: 6, temperature: 1, seed: 3, contextLength: 3 };
  const first = await sampleTokens(flat, [1, 2], options);
  assert.equal(first.length, 6);
  assert.deepEqual(seen[0], [1, 2]);
  assert.deepEqual(seen.at(-1), first.slice(2, 5));
  assert.deepEqual(await sampleTokens(flat, [1, 2], options), first);
  assert.notDeepEqual(await sampleTokens(flat, [1, 2], { ...options, seed: 4 }), first);
  assert.deepEqual(await sampleTokens(flat, [1, 2], { ...options, endOfText: first[2] ?? 0 }), first.slice(0, first.indexOf(first[2] ?? 0))); // prettier-ignore
  await assert.rejects(sampleTokens(flat, [], options), { code: 'usage' });
});

test('milestones: by epoch or by steps, in async by epoch only, the end always', () => {
  const base = { start: 0, steps: 10, stepsPerEpoch: 4, mode: 'sync' as const, evalEvery: null, checkpointEvery: null };
  const shown = (more: object): string =>
    milestones({ ...base, ...more })
      .map(({ step, evaluates, keepsCheckpoint }) => `${step}${evaluates ? 'e' : ''}${keepsCheckpoint ? 'c' : ''}`)
      .join(' ');
  assert.equal(shown({}), '4e 8e 10e');
  assert.equal(shown({ evalEvery: 3 }), '3e 6e 9e 10e');
  assert.equal(shown({ checkpointEvery: 3 }), '3c 4e 6c 8e 9c 10ec');
  assert.equal(shown({ evalEvery: 5, checkpointEvery: 5, start: 5 }), '10ec');
  assert.equal(shown({ evalEvery: 1, checkpointEvery: 1, mode: 'async' }), '4ec 8ec 10ec');
  assert.equal(shown({ start: 10 }), '10e');
});

test('milestones rise to the last step from the first', () => {
  fc.assert(
    fc.property(fc.nat(40), fc.integer({ min: 1, max: 40 }), fc.integer({ min: 1, max: 9 }), fc.integer({ min: 1, max: 9 }), (start, more, stepsPerEpoch, every) => {
      const found = milestones({ start, steps: start + more, stepsPerEpoch, mode: 'sync', evalEvery: every, checkpointEvery: null });
      assert.equal(found.at(-1)?.step, start + more);
      assert.ok(found.every(({ step }, i) => step > (found[i - 1]?.step ?? start)));
    }),
  ); // prettier-ignore
});
