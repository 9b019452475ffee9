// A worker's configuration and its share of the data: defaults, each key that is wrong by its name, and rows that nobody has twice.
import assert from 'node:assert/strict';
import test from 'node:test';
import fc from '../support/fast-check.ts';
import { MeshError } from '../../runtime/errors.ts';
import { neighboursOf, parseWorkerConfig, uidOf, workerConfigSchema } from '../../runtime/federated/config.ts';
import { labelledShare, textShare } from '../../runtime/federated/data.ts';
import type { RunData } from '../../runtime/train/client.ts';
import type { Dataset } from '../../runtime/train/data.ts';
import { f32Tensor, i32Tensor } from '../../runtime/tensor.ts';

const base = { worker: 0, workers: 3 };
const refused = (value: object, words: RegExp): void =>
  assert.throws(
    () => parseWorkerConfig({ ...base, ...value }),
    (error) =>
      error instanceof MeshError && error.code === 'usage' && words.test(error.message) && error.fix.length > 9,
    JSON.stringify(value),
  );

test('two numbers are enough: MPLS in a ring, on MNIST, every half second', () => {
  const config = parseWorkerConfig(base);
  assert.deepEqual(
    [config.run, config.topology, config.data, config.batch, config.epochs, config.seed, config.patienceMs],
    ['federated', 'ring', 'mnist', 32, 5, 1, 30_000],
  );
  const { planner, intervalMs, defence, share, format } = config.average;
  assert.deepEqual([planner, intervalMs, defence, share, format], [undefined, 500, { kind: 'clip', factor: 2 }, 0.04, 'f32']); // prettier-ignore
  assert.deepEqual(parseWorkerConfig(structuredClone(config)), config, 'what it is parsed to parses to the same');
});

test('each key that is wrong is named', () => {
  refused({ worker: 3 }, /worker: 3 of 3 workers/);
  refused({ worker: -1 }, /worker: /);
  refused({ workers: 0 }, /workers: /);
  refused({ wrkers: 3 }, /"wrkers"/);
  refused({ run: 'a b' }, /run: /);
  refused({ stage: 'Worker' }, /stage: /);
  refused({ topology: 'star' }, /topology: /);
  refused({ topology: { edges: [[0, 7]] } }, /edge 0–7/);
  refused({ model: { family: 'mlp', sizes: [3] } }, /model\.sizes/);
  refused({ data: 'nothing' }, /data: /);
  refused({ partition: { kind: 'dirichlet', alpha: 0 } }, /partition\.alpha/);
  refused({ batch: 0 }, /batch: /);
  refused({ epochs: 1.5 }, /epochs: /);
  refused({ optimizer: { name: 'sgd', lr: 0 } }, /optimizer\.lr/);
  refused({ schedule: { kind: 'square' } }, /schedule/);
  refused({ clip: 0 }, /clip: /);
  refused({ average: { planner: 'best' } }, /average\.planner/);
  refused({ average: { planner: { name: 'epidemic', peers: 0 } } }, /average\.planner/);
  refused({ average: { outer: 'diloko' } }, /average\.outer/);
  refused({ average: { outer: { kind: 'diloco', fragments: 2 } } }, /average\.outer/);
  refused({ average: { planner: 'mpls', outer: 'diloco' } }, /average\.outer: .*leave out planner, or outer/);
  refused({ average: { defence: 'magic' } }, /average\.defence/);
  refused({ average: { defence: { kind: 'clip', factor: 0.5 } } }, /average\.defence\.factor/);
  refused({ average: { format: 'f64' } }, /average\.format/);
  refused({ average: { unitBytes: 32 } }, /average\.unitBytes/);
  refused({ average: { share: 0 } }, /average\.share/);
  refused({ average: { interval: 3 } }, /average: .*"interval"/);
  refused({ data: { text: 'sotu' } }, /data|model/);
  assert.throws(() => parseWorkerConfig(null), { code: 'usage' });
  assert.throws(() => parseWorkerConfig([1]), { code: 'usage' });
});

test('a name alone stands for a method with its defaults', () => {
  const of = (average: object): ReturnType<typeof parseWorkerConfig>['average'] => parseWorkerConfig({ ...base, average }).average; // prettier-ignore
  assert.deepEqual(of({ outer: 'diloco' }).outer, { kind: 'diloco', steps: 50, rate: 0.7, momentum: 0.5 });
  assert.deepEqual(of({ outer: 'noloco' }).outer, { kind: 'noloco', steps: 50, rate: 0.7, momentum: 0.5, pull: 1 });
  assert.deepEqual(of({ defence: 'trimmed' }).defence, { kind: 'trimmed', trim: 1 });
  assert.deepEqual(of({ planner: 'mpls' }).planner, 'mpls');
});

test('workers are replicas of one stage, and neighbours by their UIDs', () => {
  const config = parseWorkerConfig({ ...base, worker: 1, workers: 5, stage: 'fed', version: 2, subversion: 7 });
  assert.equal(uidOf(config, 4), 'fed.2.4.7');
  assert.deepEqual(neighboursOf(config), ['fed.2.0.7', 'fed.2.2.7']);
  assert.ok(workerConfigSchema.safeParse(config).success);
});

const dataset = (labels: number[], classes = 3): Dataset => ({
  ...{ name: 'some', rows: labels.length, classes, inputShape: [2] },
  images: new Uint8Array(labels.length * 2),
  labels: Uint8Array.from(labels),
} as unknown as Dataset); // prettier-ignore

test('labelled rows: nobody’s twice, shares that sum to one, and every epoch each own row once', () => {
  fc.assert(
    fc.property(
      fc.array(fc.integer({ min: 0, max: 2 }), { minLength: 40, maxLength: 80 }),
      fc.integer({ min: 1, max: 5 }),
      fc.constantFrom({ kind: 'iid' }, { kind: 'dirichlet', alpha: 0.3 }),
      (labels, workers, partition) => {
        const all = Array.from({ length: workers }, (_, worker) => {
          const config = parseWorkerConfig({ worker, workers, partition, seed: 3 });
          return labelledShare({ train: dataset(labels), test: dataset([0]) }, config);
        });
        const orders = all.map(({ run }) => [...run.train.order(0)]);
        assert.equal(new Set(orders.flat()).size, labels.length);
        assert.equal(orders.flat().length, labels.length);
        for (const [i, { run, labels: shares, rowsOfAll }] of all.entries()) {
          assert.equal(run.train.rows, orders[i]?.length);
          assert.ok(Math.abs(shares.reduce((sum, share) => sum + share, 0) - 1) < 1e-9);
          assert.equal(rowsOfAll, labels.length);
          assert.deepEqual([...run.train.order(1)].sort(), [...(orders[i] ?? [])].sort());
        }
      },
    ),
    { numRuns: 40 },
  );
  const config = parseWorkerConfig({ worker: 0, workers: 9 });
  assert.throws(() => labelledShare({ train: dataset([0, 1]), test: dataset([0]) }, config), { code: 'usage', message: /2 rows for 9 workers/ }); // prettier-ignore
});

test('windows of text: each so many-th of an epoch, equally many, and none for too many workers', () => {
  const rows = 23;
  const order = (epoch: number): Uint32Array => Uint32Array.from({ length: rows }, (_, i) => (i * 7 + epoch) % rows);
  const part = { rows, order, batch: () => ({ x: f32Tensor([1], new Float32Array(1)), y: i32Tensor([1], new Int32Array(1)) }) }; // prettier-ignore
  const whole = { kind: 'tokens', classes: 5, targetsPerRow: 4, train: part, test: part } as unknown as RunData;
  for (const workers of [1, 2, 5, 23]) {
    const shares = Array.from({ length: workers }, (_, worker) => textShare(whole, parseWorkerConfig({ worker, workers }))); // prettier-ignore
    for (const epoch of [0, 1]) {
      const orders = shares.map(({ run }) => [...run.train.order(epoch)]);
      assert.equal(new Set(orders.flat()).size, orders.flat().length);
      for (const [i, { run }] of shares.entries()) assert.equal(orders[i]?.length, run.train.rows);
    }
    assert.ok(shares.every(({ labels, rowsOfAll }) => labels.length === 0 && rowsOfAll === rows));
  }
  assert.throws(() => textShare(whole, parseWorkerConfig({ worker: 0, workers: 24 })), { code: 'usage', message: /23 windows for 24 workers/ }); // prettier-ignore
});
