// Two Node processes and a browser tab are the workers of one federated run: each trains on rows of its own, and layers go both ways.
import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import type { EventOf } from '../../runtime/events.ts';
import { createIdentity } from '../../runtime/mesh/identity.ts';
import { joinMonitor, parseJoinUrl, type PublishedEvent } from '../../runtime/mesh/monitor-client.ts';
import { parseUid } from '../../runtime/wire/ids.ts';
import { RECORD_TTL_MS } from '../../runtime/wire/records.ts';
import { openPage, startBrowser } from '../support/browser.ts';
import { until } from '../signaling/helpers.ts';
import { startMesh, type TestMesh } from '../support/mesh.ts';
import type { Running } from '../support/processes.ts';

const CONFIG = {
  run: 'mixed',
  workers: 3,
  topology: 'ring',
  data: 'mnist',
  model: { family: 'mlp', sizes: [784, 64, 10], activation: 'relu' },
  partition: { kind: 'dirichlet', alpha: 0.5 },
  batch: 32,
  maxSteps: 300,
  optimizer: { name: 'sgd', lr: 0.1, momentum: 0, weightDecay: 0 },
  // Three peers share the cores of one machine: averaging may take more of their time than it does where each has its own.
  average: { intervalMs: 250, share: 0.5 },
  evalEvery: 150,
  evalRows: 1_000,
  patienceMs: 40_000,
};

async function startWorker(mesh: TestMesh, worker: number, more: object = {}): Promise<Running> {
  const file = join(mesh.directory, `worker-${worker}.json`);
  await writeFile(file, JSON.stringify({ ...CONFIG, ...more, worker }));
  return mesh.serve([], '--worker', '--config', file);
}

/** All that the mesh publishes, as a dashboard gets it. */
async function listen(t: TestContext, mesh: TestMesh): Promise<readonly PublishedEvent[]> {
  const target = parseJoinUrl(mesh.joinUrl);
  const identity = await createIdentity();
  const monitor = await joinMonitor({ target, identity, role: 'observer', emit: () => undefined });
  t.after(() => monitor.close());
  const heard: PublishedEvent[] = [];
  await monitor.observe((events) => heard.push(...events));
  return heard;
}

const fromWhom = (merges: readonly EventOf<'layers.merged'>[]): Set<string> =>
  new Set(merges.flatMap(({ peers }) => peers));

test('a tab and two processes train on their own shares', { timeout: 90_000 }, async (t) => {
  const mesh = await startMesh(t);
  const heard = await listen(t, mesh);
  const nodes = [await startWorker(mesh, 0), await startWorker(mesh, 1)];
  const browser = await startBrowser(t);
  const tab = await openPage(browser, mesh.joinUrl.replace('/#', '/?worker=2&run=mixed#'));
  await Promise.all(
    nodes.map((node) => node.event('worker.waiting', ({ missing }) => missing.includes('worker.0.2.0'))),
  );

  // A worker's replicas are no stages to lend: a newcomer helps elsewhere.
  await tab.until('workers-count', null, /^2$/);
  assert.equal(await tab.text('next-uid'), 'front.0.0.0');
  assert.match(await tab.text('train-worker'), /your own share: mixed, worker 2 of 3/);
  await tab.page.getByTestId('train-worker').and(tab.page.locator(':enabled')).click();
  await tab.until('worker-state', null, /Loading mnist: \d+\.\d MiB/);
  await tab.until('worker-uid', null, /^worker\.0\.2\.0$/, 30_000);
  await tab.until('worker-state', 'data-state', /training/);
  const done = await Promise.all(nodes.map((node) => node.event('worker.done', undefined, 60_000)));
  await tab.until('worker-state', 'data-state', /done/, 20_000);
  await tab.until('notice', null, /worker\.0\.2\.0 is done: \d+\.\d % right after 300 steps and \d+ merges/);

  const ofTab = (): PublishedEvent | undefined =>
    heard.find((event) => event.kind === 'worker.done' && event.uid === 'worker.0.2.0');
  await until('what the tab reached is published', () => ofTab() !== undefined, 10_000);
  const own = ofTab();
  assert.ok(own?.kind === 'worker.done');
  for (const { uid, accuracy, steps } of [...done, own]) {
    assert.equal(steps, 300, uid);
    assert.ok(accuracy > 0.75, `${uid}: ${accuracy}`);
    assert.ok(Math.abs(accuracy - own.accuracy) < 0.06, `${uid}: ${accuracy}, the tab: ${own.accuracy}`);
  }
  for (const node of nodes) assert.ok(fromWhom(node.all('layers.merged')).has('worker.0.2.0'));
  const merged = heard.filter((event) => event.kind === 'layers.merged').filter(({ uid }) => uid === 'worker.0.2.0');
  assert.deepEqual([...fromWhom(merged)].sort(), ['worker.0.0.0', 'worker.0.1.0']);

  await tab.page.locator('[data-testid=workers] tr[data-condition=done]').nth(2).waitFor();
  assert.equal(await tab.text('worker-steps'), '300 / 300');
  assert.equal(await tab.page.getByTestId('worker-class-bars').getByRole('meter').count(), 10);
  assert.ok(Number(await tab.page.getByTestId('accuracy-chart').getAttribute('data-points')) >= 6);
  const first = tab.page.getByTestId('choose-worker').first();
  await first.click();
  assert.equal(await first.getAttribute('aria-pressed'), 'true');
  await tab.page.locator('figcaption', { hasText: 'by class, worker.0.0.0' }).waitFor();
  await tab.click('worker-dismiss');
  await tab.until('lend-state', 'data-state', /idle/);
  await until('its worker is gone', () => tab.page.workers().length === 0, 5_000);
  assert.deepEqual(tab.complaints, []);
});

test(
  'a worker in a tab pauses, goes on, and leaves; what a tab cannot load is refused',
  { timeout: 90_000 },
  async (t) => {
    const mesh = await startMesh(t);
    const endless = { run: 'pausing', workers: 2, maxSteps: 100_000 };
    await announceForeign(t, mesh);
    const node = await startWorker(mesh, 0, endless);
    const browser = await startBrowser(t);
    const tab = await openPage(browser, mesh.joinUrl.replace('/#', '/?run=far#'));
    await tab.until('worker-problem', null, /cannot read the data.*Take the place with a process/);
    assert.ok(await tab.page.getByTestId('train-worker').isDisabled());
    await node.event('worker.waiting');
    await tab.page.locator('summary', { hasText: 'Takes the place' }).click();
    await tab.page.getByTestId('worker-run').selectOption('pausing');
    await tab.until('next-worker', null, /^worker\.0\.1\.0$/);

    await tab.click('train-worker');
    await tab.until('worker-state', null, /Loading/);
    await tab.click('worker-leave');
    await tab.until('notice', null, /Nothing was begun/);
    await tab.click('train-worker');
    await tab.until('worker-steps', null, /^[1-9].* \/ 100,000$/, 40_000);

    const row = tab.page.locator('[data-testid=workers] tr[data-uid="worker.0.1.0"]');
    await tab.click('worker-pause');
    await tab.until('worker-state', 'data-state', /paused/);
    await row.and(tab.page.locator('[data-condition=paused]')).waitFor();
    const stood = await tab.text('worker-steps');
    await new Promise((resolve) => setTimeout(resolve, 1_200));
    assert.equal(await tab.text('worker-steps'), stood);
    await tab.click('worker-pause');
    await tab.until('worker-state', 'data-state', /training/);
    await tab.page
      .getByTestId('worker-steps')
      .and(tab.page.locator(`:not(:text-is("${stood}"))`))
      .waitFor();

    await tab.click('worker-pause');
    await tab.until('worker-state', 'data-state', /paused/);
    await tab.click('worker-leave');
    await tab.until('notice', null, /worker\.0\.1\.0 is withdrawn/);
    await row.and(tab.page.locator('[data-condition=gone]')).waitFor();
    await tab.until('next-worker', null, /^worker\.0\.1\.0$/);
    await until('its worker is gone', () => tab.page.workers().length === 0, 5_000);
    assert.deepEqual(tab.complaints, []);
  },
);

/** A run whose data are in a folder of each worker. */
async function announceForeign(t: TestContext, mesh: TestMesh): Promise<void> {
  const target = parseJoinUrl(mesh.joinUrl);
  const monitor = await joinMonitor({
    target,
    identity: await createIdentity(),
    role: 'worker',
    emit: () => undefined,
  });
  t.after(() => monitor.close());
  const config = {
    ...CONFIG,
    run: 'far',
    stage: 'far',
    worker: 0,
    version: 0,
    subversion: 0,
    data: { cifar10: '/data' },
  };
  const { uid } = parseUid('far.0.0.0');
  await monitor.announce(uid, () => ({
    ...{ kind: 'stage', name: uid, peer: monitor.peer, addresses: [], host: 'node', device: '', isSoftware: false },
    ...{ samplesPerSecond: 0, load: 0, isPaused: false, run: null, issuedAt: Date.now() },
    ...{ expiresAt: Date.now() + RECORD_TTL_MS, federation: JSON.stringify(config) },
  }));
}
