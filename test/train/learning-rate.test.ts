// The learning rate of every step: its corners, its shapes, and PyTorch's way to count.
import assert from 'node:assert/strict';
import test from 'node:test';
import fc from '../support/fast-check.ts';
import { lrAt, rateOf, scheduleSpecSchema } from '../../runtime/train/learning-rate.ts';

const rate = (spec: object, lr = 1e-3, steps = 1_500) => rateOf(scheduleSpecSchema.parse(spec), lr, steps);
const near = (got: number, wanted: number): void =>
  assert.ok(Math.abs(got - wanted) <= 1e-12 + 1e-9 * Math.abs(wanted), `${got}, expected ${wanted}`);

test('the warm-up rises in equal parts and its last step has the whole rate', () => {
  const warm = rate({ warmup: 50 });
  near(lrAt(warm, 0), 1e-3 / 50);
  near(lrAt(warm, 24), 0.5e-3);
  near(lrAt(warm, 49), 1e-3);
  near(lrAt(warm, 50), 1e-3);
  near(lrAt(warm, 1_499), 1e-3);
  near(lrAt(rate({}), 0), 1e-3);
});

test('the cosine is that of the reference run', () => {
  const cosine = rate({ warmup: 50, kind: 'cosine', final: 0.1 });
  for (const step of [50, 51, 400, 775, 1_499]) {
    const progress = (step - 50) / (1_500 - 50);
    near(lrAt(cosine, step), 1e-4 + 0.45e-3 * (1 + Math.cos(Math.PI * progress)));
  }
  near(lrAt(cosine, 1_500), 1e-4);
  near(lrAt(cosine, 9_999), 1e-4);
});

test('linear ends at final, 0 if absent', () => {
  const linear = rate({ kind: 'linear' }, 1, 10);
  assert.deepEqual([0, 5, 9, 10, 11].map((step) => lrAt(linear, step)), [1, 0.5, 1 - 0.9, 0, 0]); // prettier-ignore
  near(lrAt(rate({ kind: 'linear', final: 0.5 }, 1, 10), 5), 0.75);
});

test('any schedule stays between 0 and lr, and never rises after its warm-up', () => {
  fc.assert(
    fc.property(
      fc.constantFrom('constant', 'linear', 'cosine'),
      fc.nat(30),
      fc.integer({ min: 1, max: 60 }),
      fc.double({ min: 0, max: 1, noNaN: true }),
      (kind, warmup, steps, final) => {
        const of = rate({ kind, warmup, ...(kind === 'constant' ? {} : { final }) }, 2, steps);
        let last = Infinity;
        for (let step = 0; step < steps + 5; step += 1) {
          const lr = lrAt(of, step);
          assert.ok(lr >= 0 && lr <= 2, `${lr}`);
          if (step >= warmup) assert.ok(lr <= last + 1e-12);
          last = step >= warmup ? lr : Infinity;
        }
      },
    ),
  );
});

test('what a constant rate cannot have is refused', () => {
  const [issue] = scheduleSpecSchema.safeParse({ final: 0.1 }).error?.issues ?? [];
  assert.deepEqual(issue?.path, ['final']);
  assert.equal(scheduleSpecSchema.safeParse({ kind: 'cosine', final: 2 }).success, false);
  assert.equal(scheduleSpecSchema.safeParse({ warm: 1 }).success, false);
});
