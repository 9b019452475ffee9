// What the page says in each state, to a person who has to do something about it; and that strangers' words stay words.
import assert from 'node:assert/strict';
import { test, type TestContext } from 'node:test';
import type { MeshEvent } from '../../runtime/events.ts';
import { createIdentity } from '../../runtime/mesh/identity.ts';
import { joinMonitor, parseJoinUrl, type Monitor } from '../../runtime/mesh/monitor-client.ts';
import { parseUid } from '../../runtime/wire/ids.ts';
import { RECORD_TTL_MS } from '../../runtime/wire/records.ts';
import { lendTab, openPage, startBrowser } from '../support/browser.ts';
import { startMesh, TOKEN } from '../support/mesh.ts';

test('links: none, incomplete, wrong token; malformed UID', { timeout: 60_000 }, async (t) => {
  const mesh = await startMesh(t);
  const browser = await startBrowser(t);
  const origin = new URL(mesh.joinUrl).origin;

  const bare = await openPage(browser, `${origin}/`);
  await bare.until('access-notice', null, /needs a join link.*#token=…/);
  await bare.until('gpu', 'data-gpu', /software/);
  assert.ok(await bare.page.getByTestId('contribute').isDisabled());

  const cut = await openPage(browser, `${origin}/#token=short`);
  await cut.until('access-notice', null, /not complete.*8 to 200.*Copy the whole link/);

  const wrong = await openPage(browser, `${origin}/#token=${TOKEN}x`);
  await wrong.until('access-notice', null, /refused this link.*ask for the newest join link/i);
  assert.ok(await wrong.page.getByTestId('contribute').isDisabled());

  const requests: string[] = [];
  const good = await openPage(browser, `${origin}/`);
  good.page.on('request', (request) => requests.push(request.url()));
  // The link pasted into the open page, and the page loaded anew.
  await good.page.goto(mesh.joinUrl);
  await good.until('connection', null, /Connected/);
  await good.page.reload();
  await good.until('connection', null, /Connected/);
  assert.ok(requests.length > 4);
  assert.deepEqual(
    requests.filter((url) => !url.startsWith(origin)),
    [],
    'nothing comes from elsewhere',
  );
  await good.until('next-uid', null, /^front\.0\.0\.0$/);
  assert.match(await good.text('command-train'), /node node\/train\.ts --join 'http/);
  await good.page.locator('details.picker summary').click();
  await good.page.getByTestId('uid-input').fill('front.1');
  await good.until('uid-problem', null, /"front\.1" is not a stage UID.*for example front\.0\.1\.0/);
  assert.ok(await good.page.getByTestId('contribute').isDisabled());
  await good.page.getByTestId('uid-input').fill('tail.2.0.1');
  await good.page.getByTestId('contribute').and(good.page.locator(':enabled')).click();
  await good.until('stage-uid', null, /^tail\.2\.0\.1$/);
  for (const { complaints } of [bare, cut, wrong, good]) assert.deepEqual(complaints, []);
});

test('no WebGPU, and plain http from another machine', { timeout: 60_000 }, async (t) => {
  const mesh = await startMesh(t, '--public-host', 'mesh.test');
  const browser = await startBrowser(t, {
    hasWebGpu: false,
    flags: ['--host-resolver-rules=MAP mesh.test 127.0.0.1'],
  });
  const without = await openPage(browser, `http://localhost:${mesh.port}/#token=${TOKEN}`);
  await without.until('gpu', 'data-gpu', /none/);
  assert.match(await without.text('gpu'), /No GPU can be used here.*(Use a current|hardware acceleration)/s);
  await without.until('connection', null, /Connected/);
  assert.ok(await without.page.getByTestId('contribute').isDisabled());

  const plain = await openPage(browser, `http://mesh.test:${mesh.port}/#token=${TOKEN}`);
  await plain.until('access-notice', null, /not secure.*https/s);
  assert.match(await plain.text('gpu'), /plain http.*https/s);
});

test(
  'an index that is held gives way to the next one; a dead worker is told and replaced',
  { timeout: 60_000 },
  async (t) => {
    const mesh = await startMesh(t);
    const browser = await startBrowser(t);
    const tabs = await Promise.all([1, 2].map(() => lendTab(browser, mesh.joinUrl, 'front.0.0.0')));
    const uids = await Promise.all(tabs.map((tab) => tab.text('stage-uid')));
    assert.deepEqual(uids.sort(), ['front.0.0.0', 'front.0.1.0']);

    const [tab] = tabs;
    assert.ok(tab);
    await tab.page.workers()[0]?.evaluate(() => {
      setTimeout(() => {
        throw new Error('boom');
      });
    });
    await tab.until('lend-error', null, /worker of this tab died: .*boom.*start again/i);
    await tab.until('stages-count', null, /^1$/);
    await tab.click('contribute');
    await tab.until('lend-state', 'data-state', /waiting/);
  },
);

test('names and messages of strangers are shown as text', { timeout: 60_000 }, async (t) => {
  const mesh = await startMesh(t);
  const browser = await startBrowser(t);
  const hostile = await joinAsStranger(t, mesh.joinUrl);
  const image = '<img src=x onerror="document.title=1">';
  const page = await openPage(browser, mesh.joinUrl);
  await page.until('connection', null, /Connected/);
  await announce(hostile, `${image}\u202E`);
  const run = `<script>document.title=2</script>`;
  hostile.publish([
    { kind: 'run.started', run, mode: 'sync', policy: 'all', stages: [image], plannedMicrobatches: 1, plannedSteps: 9 },
    { kind: 'run.failed', run, code: 'x', message: image, fix: '\u202Eevil\u0007' },
    { kind: 'log', level: 'warn', message: `<b>${image}` },
    { kind: 'worker.ready', uid: image, run, rows: 1, labels: [1], neighbours: [image] },
    { kind: 'worker.waiting', uid: image, run, missing: [`${image}\u202E`] },
    // Nothing of these can be shown; nothing may break.
    { kind: 'run.progress', run: 7, loss: 'low' } as unknown as MeshEvent,
    { kind: 'worker.done', uid: 7, perClassAccuracy: [-1] } as unknown as MeshEvent,
    { kind: 'link.up' } as unknown as MeshEvent,
    { kind: 'toString' } as unknown as MeshEvent,
  ]);
  await page.until('log', null, /<b><img src=x/);
  await page.until('run-name', null, /^<script>document\.title=2<\/script>$/);
  await page.until('run-status', null, /<img src=x.* {1,2}evil/);
  await page.until('stages', null, /<img src=x/);
  await page.until('federated-name', null, /^<script>document\.title=2<\/script>$/);
  await page.until('workers', null, /^<img src=x/);
  await page.until('federated-status', null, /Waiting for <img src=x|Its workers are gone/);
  assert.equal(await page.page.locator('img, script:not([src]), main b').count(), 0);
  assert.doesNotMatch(await page.page.locator('body').innerText(), /\u202E/);
  assert.equal(await page.page.title(), 'Skein');
  assert.deepEqual(page.complaints, []);
});

async function joinAsStranger(t: TestContext, joinUrl: string): Promise<Monitor> {
  const monitor = await joinMonitor({
    target: parseJoinUrl(joinUrl),
    identity: await createIdentity(),
    role: 'server',
    emit: () => undefined,
  });
  t.after(() => monitor.close());
  return monitor;
}

function announce(monitor: Monitor, device: string): Promise<void> {
  const { uid } = parseUid('front.0.7.0');
  return monitor.announce(uid, () => ({
    kind: 'stage',
    name: uid,
    peer: monitor.peer,
    addresses: [],
    host: 'node',
    device,
    isSoftware: false,
    samplesPerSecond: 1e300,
    load: 0,
    isPaused: false,
    run: null,
    issuedAt: Date.now(),
    expiresAt: Date.now() + RECORD_TTL_MS,
  }));
}
