// A run's configuration: its defaults, its checks, which layers each stage gets, and the line that an error names.
import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import fc from '../support/fast-check.ts';
import { readRunConfig } from '../../node/run-config.ts';
import { MeshError } from '../../runtime/errors.ts';
import { parseRunConfig, planStages, stageNames } from '../../runtime/train/config.ts';

const hasCode = (code: string, words: RegExp) => (error: unknown) =>
  error instanceof MeshError && error.code === code && words.test(error.message) && error.fix.length > 0;

test('an empty document is MNIST over front and back', () => {
  for (const empty of [{}, null, undefined])
    assert.deepEqual(parseRunConfig(empty), {
      version: 0,
      subversion: 0,
      model: { family: 'mlp', sizes: [784, 64, 10], activation: 'relu' },
      stages: [
        { name: 'front', layers: undefined },
        { name: 'back', layers: undefined },
      ],
      policy: 'all',
      mode: 'sync',
      data: 'mnist',
      batch: 128,
      microbatch: 32,
      epochs: 8,
      optimizer: { name: 'sgd', lr: 0.02, momentum: 0.9, weightDecay: 0 },
      seed: 1,
      inflight: 2,
      averageEvery: 20,
      deadlineMs: 20_000,
      patienceMs: 600_000,
    });
});

test("an optimizer's own defaults are PyTorch's", () => {
  const optimizer = (given: object): unknown => parseRunConfig({ optimizer: given }).optimizer;
  assert.deepEqual(optimizer({ name: 'sgd', lr: 0.5 }), { name: 'sgd', lr: 0.5, momentum: 0, weightDecay: 0 });
  assert.deepEqual(optimizer({ name: 'adamw', lr: 1 }), {
    name: 'adamw',
    lr: 1,
    beta1: 0.9,
    beta2: 0.999,
    eps: 1e-8,
    weightDecay: 0.01,
  });
});

const sizes = fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 2, maxLength: 12 });

test('the stages cover all layers, in order, without gap or overlap', () => {
  fc.assert(
    fc.property(
      sizes,
      fc.nat(),
      fc.array(fc.option(fc.constant(1)), { minLength: 12, maxLength: 12 }),
      (of, any, given) => {
        const layers = of.length - 1;
        const count = (any % layers) + 1;
        const model = { family: 'mlp', sizes: of };
        const stages = Array.from({ length: count }, (_, i) => ({
          name: `s${i}`,
          ...(given[i] && i < count - 1 ? { layers: 1 } : {}), // the last one is left open, so that every split is possible
        }));
        const plans = planStages(parseRunConfig({ model, stages }));
        assert.deepEqual(plans.map(({ name }) => name), stages.map(({ name }) => name)); // prettier-ignore
        let at = 0;
        for (const { from, to } of plans) {
          assert.equal(from, at);
          assert.ok(to > from);
          at = to;
        }
        assert.equal(at, layers);
        const open = plans.filter((_, i) => stages[i]?.layers === undefined).map(({ from, to }) => to - from);
        assert.ok(Math.max(...open) - Math.min(...open) <= 1, 'shared out evenly');
        assert.deepEqual(open, [...open].sort((a, b) => b - a), 'the first get the odd ones'); // prettier-ignore
      },
    ),
  );
});

test('what cannot be is refused', () => {
  const refuse = (value: object, code: string, words: RegExp): void =>
    assert.throws(() => parseRunConfig(value), hasCode(code, words));
  refuse({ stages: ['a', 'b', 'c'] }, 'stage-shapes', /2 layers .* 3 stages/);
  refuse({ stages: [{ name: 'a', layers: 1 }, { name: 'b', layers: 2 }] }, 'stage-shapes', /3 layers given/); // prettier-ignore
  refuse({ stages: ['a', 'a'] }, 'usage', /twice/);
  refuse({ stages: [] }, 'usage', /stages/);
  refuse({ batch: 8, microbatch: 9 }, 'usage', /microbatch 9 is larger than batch 8/);
  refuse({ optimiser: {} }, 'usage', /optimiser/);
  refuse({ model: { family: 'mlp', sizes: [1] } }, 'usage', /model\.sizes/);
  refuse({ optimizer: { name: 'sgd', lr: -1 } }, 'usage', /optimizer\.lr/);
  refuse({ mode: 'sync', average: { planner: 'appg' } }, 'usage', /average: in sync mode .* use mode: async/);
  refuse({ mode: 'async', average: { planner: 'best' } }, 'usage', /average\.planner/);
  refuse(
    { mode: 'async', average: { planner: 'mpls', outer: 'diloco' } },
    'usage',
    /average\.outer: .* leave out planner/,
  );
  refuse([1], 'usage', /the document/);
});

test('stages have their customary names', () => {
  assert.deepEqual([1, 2, 3, 4, 5].map(stageNames), [
    ['whole'],
    ['front', 'back'],
    ['head', 'body', 'tail'],
    ['head', 'body1', 'body2', 'tail'],
    ['head', 'body1', 'body2', 'body3', 'tail'],
  ]);
});

test('an error names the line of its key, wherever that is; options win over the file', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'skein-config-'));
  t.after(() => rm(folder, { recursive: true, force: true }));
  const file = join(folder, 'run.yaml');
  const keys = ['seed: 1', 'epochs: 2', 'batch: 64', 'microbatch: 16', '# a comment', '', 'mode: sync'];
  await fc.assert(
    fc.asyncProperty(fc.shuffledSubarray(keys), fc.nat(), async (lines, any) => {
      const at = any % (lines.length + 1);
      await writeFile(file, lines.toSpliced(at, 0, 'optimizer: { name: sgd, lr: 0.1, beta: 3 }').join('\n'));
      assert.throws(
        () => readRunConfig(file),
        hasCode('usage', new RegExp(`run\\.yaml:${at + 1}: optimizer\\.beta: `)),
      );
    }),
    { numRuns: 30 },
  );
  await writeFile(file, 'mode: sync\nepochs: 4\n');
  const config = readRunConfig(file, { mode: 'async', epochs: undefined });
  assert.deepEqual([config.mode, config.epochs], ['async', 4]);
  await writeFile(file, '');
  assert.equal(readRunConfig(file).epochs, 8, 'an empty file is a run of defaults');
});
