// Two tabs and no GPU server: front in one, back in the other.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { lendTab, startBrowser } from '../support/browser.ts';
import { SMALL_RUN, startMesh } from '../support/mesh.ts';

test('two tabs train together', { timeout: 60_000 }, async (t) => {
  const mesh = await startMesh(t);
  const browser = await startBrowser(t);
  const front = await lendTab(browser, mesh.joinUrl, 'front.0.0.0');
  const back = await lendTab(browser, mesh.joinUrl, 'back.0.0.0');
  await front.until('peers-count', null, /^2$/);

  const client = await mesh.train({ ...SMALL_RUN, run: 'two-tabs' });
  const done = await client.event('run.done', undefined, 50_000);

  assert.equal(done.appliedMicrobatches, done.plannedMicrobatches);
  assert.ok(done.accuracy > 0.6, `accuracy ${done.accuracy}`);
  for (const tab of [front, back]) {
    await tab.until('own-samples', null, /^3,840$/);
    assert.deepEqual(tab.complaints, []);
  }
  // Only the last stage knows the targets; the loss comes back through the other one.
  assert.ok((await back.figure('own-loss')) < 2);
});

test(
  'the only replica of a stage pauses in the middle and goes on with what it held',
  { timeout: 60_000 },
  async (t) => {
    const mesh = await startMesh(t);
    const browser = await startBrowser(t);
    const back = mesh.serve(['back.0.0.0']);
    await back.event('stage.ready');
    const tab = await lendTab(browser, mesh.joinUrl, 'front.0.0.0');
    const client = await mesh.train({ ...SMALL_RUN, run: 'pause' });
    await client.event('step.applied', ({ step }) => step >= 10);

    await tab.click('pause');
    await tab.until('lend-state', 'data-state', /paused/);
    await client.event('run.waiting', ({ missing }) => missing.includes('front'));
    // It keeps its place in the directory, which says that it takes no work.
    await tab.page.locator('td', { hasText: /^\s*paused\s*$/ }).waitFor({ timeout: 10_000 });
    assert.equal(await tab.figure('stages-count'), 2);
    await tab.until('run-status', null, /Waiting for a replica of front/);

    await tab.click('pause');
    const done = await client.event('run.done', undefined, 40_000);
    assert.equal(done.appliedMicrobatches, done.plannedMicrobatches);
    assert.ok(done.accuracy > 0.6, `accuracy ${done.accuracy}`);

    await tab.click('leave');
    await tab.until('lend-state', 'data-state', /idle/);
    await tab.until('notice', null, /front\.0\.0\.0 is withdrawn/);
    assert.equal(tab.page.workers().length, 0);
    assert.deepEqual(tab.complaints, []);
  },
);
