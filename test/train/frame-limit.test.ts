// What is too large to be saved is found before it is trained.
import assert from 'node:assert/strict';
import test from 'node:test';
import { parseRunConfig, planStages } from '../../runtime/train/config.ts';
import { expectTravels } from '../../runtime/train/frame-limit.ts';
import { withCode } from '../server/stages.ts';

const SIZES = {
  small: {},
  medium: { n_layer: 24, n_embd: 1024, n_head: 16 },
  large: { n_layer: 36, n_embd: 1280, n_head: 20 },
};

/** GPT-2, of 124 million parameters, 355 (medium) or 774 (large). */
function ask(stages: string[], more: object = {}, of: keyof typeof SIZES = 'small'): string | null {
  const size = SIZES[of];
  const optimizer = { name: 'adamw', lr: 0.001 };
  const config = parseRunConfig({
    model: { family: 'gpt2', ...size },
    data: { text: 'a' },
    stages,
    optimizer,
    ...more,
  });
  return expectTravels(config, planStages(config));
}

test('weights must fit a frame, and so must the optimizer state where there are checkpoints', () => {
  const checkpoints = { folder: 'a' };
  assert.equal(ask(['whole'], { checkpoints }), null);
  assert.match(ask(['whole'], {}, 'medium') ?? '', /stage whole are 4\d{3} MiB, and a frame takes 1536 MiB/);
  assert.throws(() => ask(['whole'], { checkpoints }, 'medium'), withCode('too-large'));
  assert.throws(() => ask(['whole'], { resume: 'a' }, 'medium'), withCode('too-large'));
  assert.throws(() => ask(['whole'], {}, 'large'), withCode('too-large'));
  assert.equal(ask(['whole'], { checkpoints, optimizer: { name: 'sgd', lr: 0.1 } }, 'medium'), null);
});
