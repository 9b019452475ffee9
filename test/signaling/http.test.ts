// The HTTP side: what is served, to whom, and what happens when the port is taken.
import assert from 'node:assert/strict';
import { mkdir, symlink, writeFile } from 'node:fs/promises';
import { request, type IncomingHttpHeaders } from 'node:http';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import type { MeshEvent } from '../../runtime/events.ts';
import { createMonitor } from '../../signaling/server.ts';
import { startMonitor, temporaryDirectory } from './helpers.ts';

const bounded = { timeout: 5_000 };

interface Answer {
  status: number;
  headers: IncomingHttpHeaders;
  body: string;
}

/** fetch would tidy up the path and set the Host header itself. */
function get(port: number, path: string, headers: Record<string, string> = {}, method = 'GET'): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const sent = request({ host: '127.0.0.1', port, path, method, headers }, (response) => {
      let body = '';
      response.setEncoding('utf8').on('data', (text: string) => (body += text));
      response.on('end', () => resolve({ status: response.statusCode ?? 0, headers: response.headers, body }));
    });
    sent.on('error', reject).end();
  });
}

async function startWithPage(t: TestContext) {
  const directory = await temporaryDirectory(t);
  const webRoot = join(directory, 'web');
  await mkdir(join(webRoot, 'assets'), { recursive: true });
  await writeFile(join(webRoot, 'index.html'), '<h1>Skein</h1>');
  await writeFile(join(webRoot, 'assets', 'app-1a2b.js'), 'export {};');
  await writeFile(join(directory, 'secret.txt'), 'secret');
  await mkdir(join(directory, 'web-other'));
  await writeFile(join(directory, 'web-other', 'secret.txt'), 'secret');
  await symlink(join(directory, 'secret.txt'), join(webRoot, 'link.txt'));
  return startMonitor(t, { webRoot, stateDir: directory });
}

test('the web app is served with a strict policy', bounded, async (t) => {
  const { port } = await startWithPage(t);
  const page = await get(port, '/?x=1');
  assert.equal(page.status, 200);
  assert.equal(page.body, '<h1>Skein</h1>');
  assert.equal(page.headers['content-type'], 'text/html; charset=utf-8');
  const policy = String(page.headers['content-security-policy']);
  for (const part of ["default-src 'self'", "script-src 'self'", "object-src 'none'", "frame-ancestors 'none'"])
    assert.ok(policy.includes(part), part);
  assert.ok(!policy.includes('unsafe'));
  assert.equal(page.headers['referrer-policy'], 'no-referrer');
  assert.equal(page.headers['x-content-type-options'], 'nosniff');
  const script = await get(port, '/assets/app-1a2b.js');
  assert.equal(script.headers['content-type'], 'text/javascript; charset=utf-8');
  assert.match(String(script.headers['cache-control']), /immutable/);
  assert.equal((await get(port, '/', {}, 'HEAD')).body, '');
  assert.equal((await get(port, '/', {}, 'POST')).status, 405);
  assert.deepEqual(JSON.parse((await get(port, '/healthz')).body), { ok: true, peers: 0, records: 0 });
});

test('no path leads out of the web app', bounded, async (t) => {
  const { port } = await startWithPage(t);
  const paths = [
    '/../secret.txt',
    '/%2e%2e/secret.txt',
    '/..%2fsecret.txt',
    '/%2e%2e%2fsecret.txt',
    '/assets/../../secret.txt',
    '/..%5csecret.txt',
    '/../web-other/secret.txt',
    '//etc/passwd',
    '/%00',
    '/%',
    '/link.txt',
    '/assets',
    '/assets/',
    'http://evil.example/../secret.txt',
  ];
  for (const path of paths) {
    const { status, body } = await get(port, path);
    assert.ok(status === 400 || status === 404, `${path}: ${status}`);
    assert.ok(!body.includes('secret') && !body.includes('root:'), path);
  }
});

test('only the names of this monitor are answered', bounded, async (t) => {
  const server = await startMonitor(t, { publicHost: 'mesh.example.org' });
  const statusOf = async (host: string) => (await get(server.port, '/healthz', { host })).status;
  for (const host of [
    'localhost',
    `LOCALHOST:${server.port}`,
    '127.0.0.1',
    '[::1]:50000',
    'mesh.example.org',
    '192.0.2.7',
  ])
    assert.equal(await statusOf(host), 200, host);
  for (const host of ['evil.example', 'localhost.evil.example', '127.0.0.1.evil.example', 'a b', '[evil]'])
    assert.equal(await statusOf(host), 421, host);
});

test('without a built app the page says how to build it', bounded, async (t) => {
  const { port } = await startMonitor(t);
  const page = await get(port, '/');
  assert.equal(page.status, 503);
  assert.match(page.body, /npm run build:web/);
});

test('a taken port is an error with its fix, or the next one where the port may move', bounded, async (t) => {
  const other = createServer().listen(0, '127.0.0.1');
  await new Promise((resolve) => other.once('listening', resolve));
  t.after(() => void other.close());
  const address = other.address();
  assert.ok(typeof address === 'object' && address);
  const { port } = address;
  const stateDir = await temporaryDirectory(t);
  await assert.rejects(createMonitor({ port, stateDir }), {
    code: 'port-in-use',
    message: new RegExp(`${port}`),
    fix: /--port/,
  });
  const events: MeshEvent[] = [];
  const server = await startMonitor(t, { port, stateDir, mayMovePort: true, emit: (event) => events.push(event) });
  assert.ok(server.port > port);
  const [moved, ready] = events;
  assert.ok(moved?.kind === 'port.moved' && moved.wanted === port && moved.port === server.port);
  assert.ok(ready?.kind === 'monitor.ready' && ready.joinUrl === server.joinUrl);
});
