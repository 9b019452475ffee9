// The federated example, shortened: workers with skewed data know more together than alone, and the last event says so for each of them.
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import test from 'node:test';
import { startNode } from '../support/processes.ts';

test('two epochs: together every worker beats what it reaches alone', { timeout: 170_000 }, async (t) => {
  const folder = await mkdtemp(path.join(tmpdir(), 'skein-example-'));
  t.after(() => rm(folder, { recursive: true, force: true }));
  const args = ['--exit', '--epochs', '2', '--port', '0', '--state', path.join(folder, 'state')];
  const example = startNode('node/example-federated.ts', args);
  t.after(() => example.kill());
  const { code } = await example.exit;
  assert.equal(code, 0, example.stderr().slice(-2_000));
  const done = example.events.at(-1);
  assert.ok(done?.kind === 'run.done', `the last event is ${done?.kind}`);
  assert.deepEqual(done.workers?.map(({ id }) => id), ['worker.0.0.0', 'worker.0.1.0', 'worker.0.2.0']); // prettier-ignore
  assert.equal(done.alone?.length, 3);
  done.workers?.forEach(({ accuracy, perClassAccuracy }, i) => {
    assert.equal(perClassAccuracy.length, 10);
    const alone = done.alone?.[i];
    assert.ok(alone && accuracy > alone.accuracy, `worker ${i}: ${accuracy} together, ${alone?.accuracy} alone`);
    assert.ok(Math.min(...perClassAccuracy) > Math.min(...alone.perClassAccuracy), `worst class of worker ${i}`);
  });
  assert.ok(done.accuracy >= 0.85, `mean accuracy ${done.accuracy}`);
  const alone = done.alone.reduce((sum, { accuracy }) => sum + accuracy / 3, 0);
  assert.ok(done.accuracy > alone + 0.01, `${done.accuracy} together, ${alone} alone`);
});
