// A data set over HTTP, from a server on this machine: whole, and what is said of each way in which it may not come.
import assert from 'node:assert/strict';
import { createServer, type RequestListener } from 'node:http';
import { test, type TestContext } from 'node:test';
import { gzipSync } from 'node:zlib';
import { IDX_FILES, NAMED_DATASETS } from '../../runtime/train/dataset-spec.ts';
import { fetchDataset, type FetchDatasetOptions } from '../../runtime/train/fetch-dataset.ts';
import { idxBytes, idxSet } from '../support/idx.ts';

const bounded = { timeout: 10_000 };

async function serve(t: TestContext, listener: RequestListener): Promise<string> {
  const server = createServer(listener).listen(0, '127.0.0.1');
  await new Promise((resolve) => server.once('listening', resolve));
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  const address = server.address();
  assert.ok(typeof address === 'object' && address);
  return `http://127.0.0.1:${address.port}`;
}

/** Serves these files as mnist; `also` may answer one of them otherwise, and says so. */
function files(set: ReadonlyMap<string, Uint8Array>, also: (...given: Parameters<RequestListener>) => boolean | void) {
  const listener: RequestListener = (request, response) => {
    const file = set.get((request.url ?? '').replace(/^\/data\/mnist\//, ''));
    if (also(request, response)) return;
    if (!file) response.writeHead(404).end('no');
    else response.writeHead(200, { 'content-encoding': 'gzip' }).end(gzipSync(file));
  };
  return listener;
}

const isTrainImages = (url: string | undefined): boolean => url?.endsWith(IDX_FILES.train.images) ?? false;

const load = (url: string, options: Partial<FetchDatasetOptions> = {}) =>
  fetchDataset('mnist', url, fetch, { signal: AbortSignal.timeout(8_000), ...options });

test('the four files become a data set, and progress ends at their size', bounded, async (t) => {
  const set = idxSet(300);
  const asked: (string | undefined)[] = [];
  const url = await serve(
    t,
    files(set, ({ url }) => void asked.push(url)),
  );
  const seen: { doneBytes: number; totalBytes: number | null }[] = [];
  // The token in the fragment of a join link goes nowhere.
  const { train, test: heldOut } = await load(`${url}/#token=secret`, { onProgress: (now) => seen.push(now) });
  assert.deepEqual([train.rows, heldOut.rows, train.inputShape, train.classes], [300, 150, [784], 10]);
  assert.equal(train.name, 'mnist (train)');
  assert.equal(train.normalisation, NAMED_DATASETS.mnist.normalisation);
  assert.deepEqual(train.images, set.get(IDX_FILES.train.images)?.subarray(16));
  assert.deepEqual(heldOut.labels, set.get(IDX_FILES.test.labels)?.subarray(8));
  const total = [...set.values()].reduce((sum, { length }) => sum + length, 0);
  assert.deepEqual(seen.at(-1), { doneBytes: total, totalBytes: total });
  for (const [i, { doneBytes, totalBytes }] of seen.entries()) {
    assert.ok(doneBytes >= (seen[i - 1]?.doneBytes ?? 0));
    assert.ok(totalBytes === null || totalBytes === total);
  }
  assert.deepEqual(asked.toSorted(), [...set.keys()].map((file) => `/data/mnist/${file}`).sort());
});

test('a header may come byte by byte', bounded, async (t) => {
  const set = idxSet(20);
  const url = await serve(
    t,
    files(set, ({ url }, response) => {
      if (!isTrainImages(url)) return false;
      const bytes = set.get(IDX_FILES.train.images) ?? new Uint8Array();
      void (async () => {
        for (let i = 0; i < 20; i += 1) {
          response.write(bytes.subarray(i, i + 1));
          await new Promise((resolve) => setTimeout(resolve, 2));
        }
        response.end(bytes.subarray(20));
      })();
      return true;
    }),
  );
  assert.equal((await load(url)).train.rows, 20);
});

test('what the monitor lacks is an error that says what to install there', bounded, async (t) => {
  const url = await serve(
    t,
    files(idxSet(20), () => false),
  );
  await assert.rejects(fetchDataset('fashion-mnist', url, fetch, { signal: AbortSignal.timeout(8_000) }), {
    code: 'unreachable',
    message: /\/data\/fashion-mnist\/\S+ is not there/,
    fix: /apt-get install dataset-fashion-mnist/,
  });
});

test('a server that fails, breaks off, falls silent or is not there is unreachable', bounded, async (t) => {
  const answers: Record<string, RequestListener> = {
    'HTTP 503': (_, response) => void response.writeHead(503).end(),
    '': (_, response) => {
      response.writeHead(200, { 'content-length': 47_040_016 });
      response.write(idxBytes([60_000, 28, 28], new Uint8Array()), () => response.destroy());
    },
    'nothing came for 0.2 s': (_, response) => {
      response.writeHead(200);
      response.write(new Uint8Array(1));
    },
  };
  for (const [words, answer] of Object.entries(answers)) {
    const listener = files(idxSet(20), (request, response) => {
      if (isTrainImages(request.url)) answer(request, response);
      return isTrainImages(request.url);
    });
    const url = await serve(t, listener);
    const message = new RegExp(`train-images-idx3-ubyte did not come: .*${words}`);
    await assert.rejects(load(url, { stallMs: 200 }), { code: 'unreachable', message, fix: /monitor/ });
  }
  await assert.rejects(load('http://127.0.0.1:1'), { code: 'unreachable', fix: /monitor/ });
});

test('what comes is checked: other pages, files cut short, pairs that do not fit', bounded, async (t) => {
  const whole = idxSet(20);
  for (const [bytes, words] of [
    [new TextEncoder().encode('<!doctype html>'), /no IDX file/],
    [whole.get(IDX_FILES.train.images)?.subarray(0, 5_000), /declares \(20, 28, 28\)/],
    [idxSet(10).get(IDX_FILES.train.images), /images \(10, 28, 28\) and labels \(20\)/],
  ] as const) {
    const set = new Map(whole).set(IDX_FILES.train.images, new Uint8Array(bytes ?? []));
    const url = await serve(
      t,
      files(set, () => false),
    );
    await assert.rejects(load(url), { code: 'bad-file', message: words });
  }
});

test('more than the limit is refused as soon as a header declares it', bounded, async (t) => {
  const huge = idxBytes([2 ** 31, 2 ** 31], new Uint8Array());
  const url = await serve(
    t,
    files(idxSet(20), ({ url }, response) => {
      if (isTrainImages(url)) response.writeHead(200).write(huge); // and never ends
      return isTrainImages(url);
    }),
  );
  await assert.rejects(load(url), { code: 'too-large', message: /67108864 is the limit/ });
  const good = await serve(
    t,
    files(idxSet(20), () => false),
  );
  await assert.rejects(load(good, { maxBytes: 20_000 }), { code: 'too-large' });
});

test('it ends with its signal, and leaves no request behind', bounded, async (t) => {
  const stop = new AbortController();
  let open = 0;
  const url = await serve(t, (_, response) => {
    open += 1;
    response.once('close', () => (open -= 1));
    if (open === 4) stop.abort(new Error('the tab leaves'));
  });
  await assert.rejects(load(url, { signal: stop.signal }), /the tab leaves/);
  for (let i = 0; i < 200 && open > 0; i += 1) await new Promise((resolve) => setTimeout(resolve, 10));
  assert.equal(open, 0);
  await assert.rejects(load(url, { signal: AbortSignal.abort(new Error('too late')) }), /too late/);
});
