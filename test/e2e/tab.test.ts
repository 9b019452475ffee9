// A browser tab and a Node process share a model: the tab hosts the front, the process the back, WebRTC between them.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { lendTab, startBrowser } from '../support/browser.ts';
import { SMALL_RUN, startMesh } from '../support/mesh.ts';

test('a tab hosts front, a process hosts back, over WebRTC', { timeout: 60_000 }, async (t) => {
  const mesh = await startMesh(t);
  const browser = await startBrowser(t);
  const back = mesh.serve(['back.0.0.0']);
  const tab = await lendTab(browser, mesh.joinUrl, 'front.0.0.0');
  assert.equal(await tab.text('stage-uid'), 'front.0.0.0');
  await back.event('stage.ready');

  const client = await mesh.train({ ...SMALL_RUN, run: 'tab-and-process' });
  await client.event('run.started');
  await tab.until('lend-state', 'data-state', /working/);
  await tab.until('own-samples', null, /[1-9]/);
  const early = await tab.figure('own-samples');
  await tab.until('own-throughput', null, /[1-9]/);
  const done = await client.event('run.done', undefined, 50_000);

  assert.equal(done.appliedMicrobatches, done.plannedMicrobatches);
  assert.ok(done.accuracy > 0.6, `accuracy ${done.accuracy}`);
  const losses = client.all('step.applied').map(({ loss }) => loss);
  const mean = (values: number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;
  assert.ok(mean(losses.slice(-10)) < 0.7 * mean(losses.slice(0, 10)), `losses ${losses.join(' ')}`);
  // What the tab reaches, and by what it is reached, is WebRTC: a page has no other direct way.
  const links = client.all('link.up').filter(({ transport }) => transport === 'webrtc');
  assert.equal(links.length, 1, JSON.stringify(client.all('link.up')));
  assert.match(await tab.text('own-links'), /^2 webrtc$/);

  await tab.until('own-samples', null, /^3,840$/);
  assert.ok(early < 3_840, `the figures moved: ${early}`);
  assert.ok((await tab.figure('own-loss')) < 2);
  await tab.until('run', 'data-status', /done/);
  assert.equal(await tab.page.getByTestId('class-bars').locator('li').count(), 10);
  assert.deepEqual(tab.complaints, []);
});
