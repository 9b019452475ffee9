// The data sets of the monitor's machine: what is served, in which coding, and that nothing else is.
import assert from 'node:assert/strict';
import { mkdir, utimes, writeFile } from 'node:fs/promises';
import { request, type IncomingHttpHeaders } from 'node:http';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { gunzipSync, gzipSync } from 'node:zlib';
import { findDataFile } from '../../node/data-files.ts';
import { IDX_FILES } from '../../runtime/train/dataset-spec.ts';
import { fetchDataset } from '../../runtime/train/fetch-dataset.ts';
import { idxSet } from '../support/idx.ts';
import { startMonitor, temporaryDirectory } from './helpers.ts';

const bounded = { timeout: 10_000 };
const { images, labels } = IDX_FILES.train;
const PLAIN = `/data/mnist/${images}`;
const PACKED = `/data/mnist/${labels}`;

interface Answer {
  status: number;
  headers: IncomingHttpHeaders;
  body: Buffer;
}

function get(port: number, path: string, headers: Record<string, string> = {}, method = 'GET'): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const sent = request({ host: '127.0.0.1', port, path, method, headers }, (response) => {
      const parts: Buffer[] = [];
      response.on('data', (part: Buffer) => parts.push(part));
      response.on('end', () =>
        resolve({ status: response.statusCode ?? 0, headers: response.headers, body: Buffer.concat(parts) }),
      );
    });
    sent.on('error', reject).end();
  });
}

/** A monitor whose machine has MNIST, small: the images of the training set as they are, the rest gzipped; no other set. */
async function startWithData(t: TestContext) {
  const directory = await temporaryDirectory(t);
  const folder = join(directory, 'mnist');
  await mkdir(folder);
  await writeFile(join(folder, 'secret'), 'secret');
  await writeFile(join(directory, 'secret'), 'secret');
  const set = idxSet(200);
  for (const [file, bytes] of set)
    if (file === images) await writeFile(join(folder, file), bytes);
    else await writeFile(join(folder, `${file}.gz`), gzipSync(bytes));
  const server = await startMonitor(t, {
    stateDir: directory,
    findDataFile: (name, file) =>
      Promise.resolve(name === 'mnist' ? join(folder, file === images ? file : `${file}.gz`) : null),
  });
  return { ...server, set, folder };
}

test('files come as they are, or gzipped to whoever takes that, however they lie there', bounded, async (t) => {
  const { port, set } = await startWithData(t);
  for (const [path, file] of [
    [PLAIN, images],
    [PACKED, labels],
  ] as const) {
    const wanted = Buffer.from(set.get(file) ?? []);
    for (const accepted of [undefined, 'identity', 'br, deflate', 'gzip;q=0, *', 'gzip;q=0']) {
      const plain = await get(port, path, accepted === undefined ? {} : { 'accept-encoding': accepted });
      assert.equal(plain.status, 200);
      assert.equal(plain.headers['content-encoding'], undefined, accepted);
      assert.equal(plain.headers['content-type'], 'application/octet-stream');
      assert.deepEqual(plain.body, wanted);
    }
    for (const accepted of ['gzip, deflate, br', 'br;q=1, GZIP;q=0.5', '*']) {
      const packed = await get(port, path, { 'accept-encoding': accepted });
      assert.equal(packed.headers['content-encoding'], 'gzip', accepted);
      assert.equal(packed.headers['content-length'], String(packed.body.length));
      assert.ok(path === PACKED || packed.body.length < wanted.length);
      assert.deepEqual(gunzipSync(packed.body), wanted);
    }
  }
  const { headers } = await get(port, PLAIN);
  assert.equal(headers['cross-origin-resource-policy'], 'same-origin');
  assert.equal(headers['x-content-type-options'], 'nosniff');
});

test('HEAD says what GET would send', bounded, async (t) => {
  const { port, set } = await startWithData(t);
  const plain = await get(port, PLAIN, {}, 'HEAD');
  assert.deepEqual([plain.status, plain.body.length], [200, 0]);
  assert.equal(plain.headers['content-length'], String(set.get(images)?.length));
  for (const path of [PLAIN, PACKED]) {
    const gzip = { 'accept-encoding': 'gzip' };
    const [head, whole] = [await get(port, path, gzip, 'HEAD'), await get(port, path, gzip)];
    assert.equal(head.body.length, 0);
    for (const name of ['content-length', 'content-encoding', 'etag', 'vary'] as const)
      assert.equal(head.headers[name], whole.headers[name], name);
  }
  assert.equal((await get(port, PLAIN, {}, 'POST')).status, 405);
});

test('what a tab has already is not sent again, until it changes', bounded, async (t) => {
  const { port, folder } = await startWithData(t);
  const first = await get(port, PLAIN);
  const etag = first.headers.etag ?? '';
  assert.match(etag, /^"[^"]+"$/);
  assert.equal(first.headers['cache-control'], 'no-cache');
  assert.equal(first.headers.vary, 'Accept-Encoding');
  const gzip = { 'accept-encoding': 'gzip' };
  const packedTag = (await get(port, PLAIN, gzip)).headers.etag ?? '';
  assert.notEqual(packedTag, etag, 'other bytes, another tag');
  for (const [known, headers] of [
    [etag, {}],
    [`"other", W/${etag}`, {}],
    ['*', {}],
    [packedTag, gzip],
  ] as const) {
    const again = await get(port, PLAIN, { ...headers, 'if-none-match': known });
    assert.deepEqual([again.status, again.body.length], [304, 0], known);
  }
  assert.equal((await get(port, PLAIN, { 'if-none-match': packedTag })).status, 200);
  await writeFile(join(folder, images), 'changed');
  await utimes(join(folder, images), 1, 1);
  const changed = await get(port, PLAIN, { ...gzip, 'if-none-match': packedTag });
  assert.equal(changed.status, 200);
  assert.equal(String(gunzipSync(changed.body)), 'changed');
});

test('nothing else is served, and no path leads out', bounded, async (t) => {
  const { port } = await startWithData(t);
  for (const path of [
    '/data/',
    '/data/mnist',
    '/data/mnist/',
    '/data/mnist/secret',
    `${PLAIN}.gz`,
    `${PLAIN}/`,
    `/data//mnist/${images}`,
    `/data/mnist/../mnist/${images}`,
    `/data/mnist/%2e%2e/secret`,
    `/data/mnist/..%2fsecret`,
    `/data/mnist/..%5csecret`,
    `/data/mnist/${images}%00`,
    `/data/MNIST/${images}`,
    `/data/emnist/${images}`,
    `/data/constructor/${images}`,
    '/data/mnist/constructor',
    '/data/../secret',
  ]) {
    const { status, body } = await get(port, path);
    assert.ok(status === 400 || status === 404, `${path}: ${status}`);
    assert.ok(!String(body).startsWith('secret'), path);
  }
  const absent = await get(port, `/data/fashion-mnist/${images}`);
  assert.equal(absent.status, 404);
  assert.match(String(absent.body), /apt-get install dataset-fashion-mnist/);
  const bare = await startMonitor(t);
  assert.equal((await get(bare.port, PLAIN)).status, 404, 'a monitor that was told of no data serves none');
});

test('data are for this monitor by its own names, and for its own page', bounded, async (t) => {
  const { port } = await startWithData(t);
  assert.equal((await get(port, PLAIN, { host: 'evil.example' })).status, 421);
  assert.equal((await get(port, PLAIN, { origin: 'http://evil.example' })).status, 403);
  assert.equal((await get(port, PLAIN, { origin: `http://127.0.0.1:${port}` })).status, 200);
});

test('a reader that leaves in the middle does no harm', bounded, async (t) => {
  const { port, set } = await startWithData(t);
  for (let i = 0; i < 5; i += 1)
    await new Promise<void>((resolve) => {
      const sent = request({ host: '127.0.0.1', port, path: PLAIN }, (response) => response.destroy());
      sent.on('error', () => resolve()).on('close', () => resolve());
      sent.end();
    });
  assert.equal((await get(port, PLAIN)).body.length, set.get(images)?.length);
});

test('MNIST as this machine has it reaches a client whole, in a fifth of its size', { timeout: 60_000 }, async (t) => {
  const { url, port } = await startMonitor(t, { findDataFile });
  const signal = AbortSignal.timeout(50_000);
  let total: number | null = 0;
  const { train, test: heldOut } = await fetchDataset('mnist', url, fetch, {
    signal,
    onProgress: ({ totalBytes }) => {
      total = totalBytes;
    },
  });
  assert.deepEqual([train.rows, heldOut.rows, total], [60_000, 10_000, 54_950_048]);
  assert.deepEqual([...train.labels.subarray(0, 5)], [5, 0, 4, 1, 9]);
  const { headers } = await get(port, PLAIN, { 'accept-encoding': 'gzip' }, 'HEAD');
  assert.ok(Number(headers['content-length']) < 47_040_016 / 4, String(headers['content-length']));
});
