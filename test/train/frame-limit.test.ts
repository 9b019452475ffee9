// What is too large to be saved is found before it is trained.
import assert from 'node:assert/strict';
import test from 'node:test';
import { parseRunConfig, planStages } from '../../runtime/train/config.ts';
import { expectTravels } from '../../runtime/train/frame-limit.ts';
import { withCode } from '../server/stages.ts';

/** GPT-2, of 124 million parameters, or with `medium` of 355 million. */
function ask(stages: string[], more: object = {}, medium = false): string | null {
  const size = medium ? { n_layer: 24, n_embd: 1024, n_head: 16 } : {};
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
  assert.equal(ask(['front', 'back'], { checkpoints }), null);
  assert.match(ask(['whole']) ?? '', /stage whole are 1425 MiB, and a frame takes 1024 MiB/);
  assert.throws(() => ask(['whole'], { checkpoints }), withCode('too-large'));
  assert.throws(() => ask(['whole'], { resume: 'a' }), withCode('too-large'));
  assert.throws(() => ask(['whole'], {}, true), withCode('too-large'));
  assert.equal(ask(['whole'], { checkpoints, optimizer: { name: 'sgd', lr: 0.1 } }), null);
});
