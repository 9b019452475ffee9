// What a person sees: one moving line on a terminal, a line now and then elsewhere, and nothing that could rewrite the screen.
import assert from 'node:assert/strict';
import test from 'node:test';
import fc from '../support/fast-check.ts';
import { lineOf } from '../../node/event-lines.ts';
import { terminal } from '../../node/terminal.ts';
import type { EventOf, MeshEvent } from '../../runtime/events.ts';

const CLEAR = '\r\u001b[2K';
const progress = (step: number): EventOf<'run.progress'> => ({
  kind: 'run.progress',
  run: 'r',
  epoch: 1,
  epochs: 2,
  step,
  steps: 100,
  loss: 0.5,
  samplesPerSecond: 1_234.5,
  peers: 4,
  trainers: 4,
  etaSeconds: 9,
});
const info = (message: string): MeshEvent => ({ kind: 'log', level: 'info', message });

function screen(options: { isTTY?: boolean; columns?: number } = {}): {
  written: string[];
  clock: { now: number };
  show: (event: MeshEvent) => void;
  say: (line: string) => void;
} {
  const written: string[] = [];
  const clock = { now: 100_000 };
  return { written, clock, ...terminal({ ...options, write: (text) => written.push(text) }, () => clock.now) };
}

test('on a terminal progress is one line that moves, and others push it down', () => {
  const { written, show, say } = screen({ isTTY: true, columns: 200 });
  show(progress(50));
  show(progress(51));
  assert.match((written[0] ?? '').slice(CLEAR.length), /^\[#{12}\.{12}\] epoch 1\/2 {2}step 50\/100 {2}loss 0\.5000/);
  assert.ok(written.every((text) => text.startsWith(CLEAR) && !text.includes('\n')));
  show(info('hello'));
  assert.equal(written.at(-1), `${CLEAR}hello\n`);
  say('again');
  assert.equal(written.at(-1), 'again\n', 'nothing is left to clear');
});

test('the moving line is never wider than the terminal', () => {
  fc.assert(
    fc.property(fc.integer({ min: 2, max: 200 }), fc.integer({ min: 0, max: 100 }), (columns, step) => {
      const { written, show } = screen({ isTTY: true, columns });
      show(progress(step));
      assert.ok((written[0] ?? '').slice(CLEAR.length).length < columns);
    }),
  );
});

test('elsewhere progress is a whole line every five seconds, without control characters', () => {
  const { written, clock, show } = screen();
  for (let i = 0; i < 12; i += 1) {
    show(progress(i));
    clock.now += 1_000;
  }
  assert.deepEqual(written.map((text) => /step (\d+)\//.exec(text)?.[1]), ['0', '5', '10']); // prettier-ignore
  show(info('hello'));
  // oxlint-disable-next-line no-control-regex
  assert.ok(written.every((text) => text.endsWith('\n') && !/[\r\u001b]/.test(text)));
});

test('the end of a run shows each class', () => {
  const { written, show } = screen({ isTTY: true });
  const figures = { samplesPerSecond: 1, peers: 1, trainers: 1, plannedMicrobatches: 1, appliedMicrobatches: 1, seconds: 1 }; // prettier-ignore
  show({ kind: 'run.done', run: 'r', accuracy: 0.75, perClassAccuracy: [1, 0.5], model: '/m', ...figures });
  assert.equal(written.length, 3);
  assert.match(written[0] ?? '', /75\.00 % right/);
  assert.match(written[1] ?? '', /class {2}0 {2}100\.0 % {2}#{24}\n/);
  assert.match(written[2] ?? '', /class {2}1 {3}50\.0 % {2}#{12}\n/);
  assert.match(written[0] ?? '', /1 trainer; model: \/m$/m);
  show({ kind: 'run.done', run: 'r', accuracy: 0.75, perClassAccuracy: [], model: '', ...figures });
  assert.match(written[3] ?? '', /1 trainer$/m, 'where none is kept, none is named');
});

test('a language model is told by its loss and its tokens', () => {
  const { written, show } = screen();
  const figures = { samplesPerSecond: 12, tokensPerSecond: 768, peers: 4, trainers: 1, plannedMicrobatches: 1, appliedMicrobatches: 1, seconds: 1 }; // prettier-ignore
  const quality = { accuracy: 0.4, perClassAccuracy: [], heldOutLoss: 1.79123 };
  show({ ...progress(3), tokensPerSecond: 768 });
  show({ kind: 'run.evaluated', run: 'r', epoch: 1, step: 250, samples: 400, perplexity: 5.997, ...quality });
  show({ kind: 'run.done', run: 'r', model: '/m', referenceLoss: 1.7986, ...quality, ...figures });
  show({ kind: 'text.sampled', prompt: 'The ', text: 'people\nof', temperature: 1, seed: 1 });
  assert.match(written[0] ?? '', /loss 0\.5000 {2}768 tokens\/s .* 9 s left/);
  assert.match(written[1] ?? '', /After step 250: held-out loss 1\.7912, perplexity 6\.00, 400 windows/);
  assert.match(written[2] ?? '', /held-out loss 1\.7912 \(PyTorch: 1\.7986\), 768 tokens\/s/);
  assert.match(written[3] ?? '', /The people of/);
});

test('events that are too many for people are left out', () => {
  const { written, show } = screen({ isTTY: true });
  show({ kind: 'stage.stepped', uid: 'front.0.0.0', run: 'r', step: 1, contributions: 1, gradientNorm: 1 });
  assert.deepEqual(written, []);
});

test('what peers wrote cannot move the cursor, begin a line, or turn the direction of text', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), (text) => {
      const line = lineOf({ kind: 'stage.rejected', uid: text, reason: text }) ?? '';
      // oxlint-disable-next-line no-control-regex
      assert.doesNotMatch(line, /[\u0000-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/);
    }),
  );
  assert.match(lineOf(info('a\u001b[2Jb\nc\u202ed')) ?? '', /^a \[2Jb c d$/);
});
