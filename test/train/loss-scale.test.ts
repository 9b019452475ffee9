// The loss scale: halved where a gradient was not finite, doubled after many that were, as far as either helps.
import assert from 'node:assert/strict';
import test from 'node:test';
import { INITIAL_SCALE, LossScale } from '../../runtime/train/loss-scale.ts';

test('it halves down to 1 and grows after 200 good steps', () => {
  const scale = new LossScale('dynamic');
  assert.equal(scale.value, INITIAL_SCALE);
  for (let i = 0; i < 199; i += 1) scale.good();
  assert.equal(scale.value, 4_096);
  scale.good();
  assert.deepEqual(scale.state, { scale: 8_192, goodSteps: 0 });
  assert.ok(scale.lower());
  assert.equal(scale.value, 4_096);
  while (scale.lower());
  assert.equal(scale.value, 1);
});

test('it goes on from where it was; a fixed one stays', () => {
  const scale = new LossScale('dynamic', { scale: 64, goodSteps: 199 });
  scale.good();
  assert.equal(scale.value, 128);
  const fixed = new LossScale(16, { scale: 64, goodSteps: 199 });
  fixed.good();
  assert.equal(fixed.lower(), false);
  assert.equal(fixed.value, 16);
});
