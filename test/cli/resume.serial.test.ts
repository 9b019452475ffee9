// A run that is killed goes on from its last checkpoint, by the command line and over real processes; a damaged checkpoint is refused.
import assert from 'node:assert/strict';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'node:test';
import { SMALL_RUN, startMesh } from '../support/mesh.ts';
import { startNode, type Running } from '../support/processes.ts';

test('kill -9, then --resume without a configuration; the same in async mode', { timeout: 170_000 }, async (t) => {
  const mesh = await startMesh(t);
  await mesh.serveReady(['front.0.0.0', 'back.0.0.0']);
  const resume = (path: string, ...more: string[]): Running => {
    const out = ['--out', join(mesh.directory, 'resumed.safetensors')];
    const running = startNode('node/train.ts', [
      '--join',
      mesh.joinUrl,
      '--port',
      '0',
      ...out,
      '--resume',
      path,
      ...more,
    ]);
    t.after(() => running.kill());
    return running;
  };
  const folder = join(mesh.directory, 'checkpoints');
  const optimizer = { name: 'adamw', lr: 0.001 };
  const first = await mesh.train({
    ...SMALL_RUN,
    maxSteps: 400,
    optimizer,
    checkpoints: { folder, every: 20, keep: 2 },
  });
  const { step } = await first.event('checkpoint.saved', (event) => event.step >= 60);
  await first.kill('SIGKILL');

  const second = resume(folder);
  assert.deepEqual(await second.exit, { code: 0, signal: null }, second.stderr());
  const { resumedAt = -1 } = await second.event('run.started');
  assert.ok(resumedAt >= step && resumedAt % 20 === 0, `${resumedAt} after ${step}`);
  const done = await second.event('run.done');
  assert.deepEqual([done.appliedMicrobatches, done.plannedMicrobatches], [2 * (400 - resumedAt), 2 * (400 - resumedAt)]); // prettier-ignore
  assert.equal(second.all('step.applied')[0]?.step, resumedAt);
  assert.ok(done.accuracy > 0.8, `${done.accuracy}`);
  const kept = (await readdir(folder)).filter((name) => name.startsWith('step-')).sort();
  assert.deepEqual(kept.map((name) => name.slice(0, 11)), ['step-000380', 'step-000400']); // prettier-ignore

  // The last one is damaged: it is not used, and the one before it is named.
  const file = join(folder, kept[1] ?? '', 'model.safetensors');
  const bytes = await readFile(file);
  bytes[bytes.length - 1] = (bytes.at(-1) ?? 0) ^ 1;
  await writeFile(file, bytes);
  const third = resume(folder);
  assert.equal((await third.exit).code, 2);
  assert.match(third.stderr(), /error: .*step-000400-\w+\/model\.safetensors is not as it was written/);
  assert.match(third.stderr(), /fix: Go on from the one before it: --resume .*step-000380/);
  const fourth = resume(join(folder, kept[0] ?? ''));
  assert.deepEqual(await fourth.exit, { code: 0, signal: null }, fourth.stderr());
  assert.equal((await fourth.event('run.done')).appliedMicrobatches, 40);

  const other = join(mesh.directory, 'async');
  const small = { ...SMALL_RUN, mode: 'async', batch: 512, microbatch: 128, epochs: 2, maxSteps: undefined };
  const fifth = await mesh.train({ ...small, epochs: 1, checkpoints: { folder: other, every: 1 } });
  assert.deepEqual(await fifth.exit, { code: 0, signal: null }, fifth.stderr());
  assert.deepEqual(fifth.all('checkpoint.saved').map((event) => event.step), [118]); // prettier-ignore
  const sixth = resume(other, '--epochs', '2');
  assert.deepEqual(await sixth.exit, { code: 0, signal: null }, sixth.stderr());
  assert.equal((await sixth.event('run.started')).resumedAt, 118);
  assert.equal((await sixth.event('run.done')).appliedMicrobatches, Math.ceil(60_000 / 128));
});
