// A tab is closed, or crashes, in the middle of a run: its work goes to the other replica, and nothing is lost or counted twice.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Page } from 'playwright';
import { lendTab, startBrowser } from '../support/browser.ts';
import { SMALL_RUN, startMesh } from '../support/mesh.ts';

const ENDS: Record<string, (page: Page) => Promise<unknown>> = {
  closed: (page) => page.close(),
  // No goodbye of any kind: the process behind the tab is gone.
  crashed: async (page) => {
    const session = await page.context().newCDPSession(page);
    session.send('Page.crash').catch(() => undefined); // nobody is left to answer
  },
};

for (const [how, end] of Object.entries(ENDS))
  test(`a tab that is ${how} hands its work to the other replica`, { timeout: 60_000 }, async (t) => {
    const mesh = await startMesh(t);
    const browser = await startBrowser(t);
    const nodes = [mesh.serve(['front.0.0.0']), mesh.serve(['back.0.0.0'])];
    for (const node of nodes) await node.event('stage.ready');
    const tab = await lendTab(browser, mesh.joinUrl, 'front.0.1.0');

    const client = await mesh.train({ ...SMALL_RUN, run: `${how}-tab` });
    await client.event('trainer.started', ({ path }) => path.includes('front.0.1.0'));
    await client.event('step.applied', ({ step }) => step >= 10);
    const closedAt = client.events.length;
    await end(tab.page);

    const done = await client.event('run.done', undefined, 50_000);
    assert.equal(done.appliedMicrobatches, done.plannedMicrobatches);
    assert.equal(done.trainers, 2);
    assert.ok(done.accuracy > 0.6, `accuracy ${done.accuracy}`);
    const after = client.events.slice(closedAt);
    assert.ok(
      after.some((event) => event.kind === 'trainer.stopped'),
      'the pipeline over the tab ended',
    );
    // Every planned microbatch counts once in each stage, whichever replica did it.
    for (const { step, stages } of client.all('step.applied'))
      assert.deepEqual(stages, { front: [0, 1], back: [0, 1] }, `step ${step}`);
  });
