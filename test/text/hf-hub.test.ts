// Models from a server with the layout of the Hugging Face Hub: what comes is whole and checked, what broke off is gone on with, what is
// here is not got again.
import assert from 'node:assert/strict';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, beforeEach, describe, it } from 'node:test';
import { readHfFolder } from '../../node/hf-folder.ts';
import { hubFolder, type HubOptions } from '../../node/hf-hub.ts';
import { writeHfFolder } from '../../node/hf-write.ts';
import { f32Of, f32Tensor } from '../../runtime/tensor.ts';
import { charTokenizer } from '../../runtime/text/char.ts';
import { startHub, type HubServer } from './hub-server.ts';

const weight = f32Tensor(
  [50_000],
  Float32Array.from({ length: 50_000 }, (_, i) => i),
);
const tensors = new Map([
  ['a', weight],
  ['b', f32Tensor([1], Float32Array.of(2))],
]);
const config = { model_type: 'gpt2', architectures: ['GPT2LMHeadModel'] };

let scratch = '';
let cacheDir = '';
let hub: HubServer;
const contents: Record<'whole' | 'shards', Record<string, Uint8Array>> = { whole: {}, shards: {} };
before(async () => {
  scratch = await mkdtemp(join(tmpdir(), 'skein-hub-'));
  for (const kind of ['whole', 'shards'] as const) {
    const folder = join(scratch, kind);
    const limit = kind === 'shards' ? { maxShardBytes: 1000 } : {};
    await writeHfFolder(folder, { config, tensors, tokenizer: charTokenizer('abc'), ...limit });
    for (const name of await readdir(folder)) contents[kind][name] = await readFile(join(folder, name));
  }
});
after(() => rm(scratch, { recursive: true, force: true }));
beforeEach(async () => {
  cacheDir = await mkdtemp(join(scratch, 'cache-'));
  hub = await startHub(contents.whole);
});
afterEach(() => hub.close());

const get = (over: Partial<HubOptions> = {}): Promise<string> =>
  hubFolder({ repo: 'some/model', endpoint: hub.endpoint, cacheDir, pauseMs: 1, ...over });
const gets = (): string[] => hub.log.filter((line) => line.startsWith('GET'));
const assertWhole = async (folder: string): Promise<void> => {
  const read = await readHfFolder(folder);
  assert.deepEqual(f32Of(await read.tensor('a')), f32Of(weight));
  assert.equal((await read.tokenizer())?.vocabularySize, 3);
  const left = (await readdir(folder)).filter((name) => name.endsWith('.part'));
  assert.deepEqual(left, []);
};

describe('a model from the hub', () => {
  it('comes whole, with progress, and is not got again', async () => {
    const seen: Record<string, number> = {};
    const folder = await get({
      onProgress: ({ file, doneBytes, totalBytes }) => {
        assert.ok(totalBytes !== null && doneBytes <= totalBytes && doneBytes >= (seen[file] ?? 0));
        seen[file] = doneBytes;
      },
    });
    await assertWhole(folder);
    const sizes = Object.entries(contents.whole).map(([name, bytes]) => [name, bytes.byteLength] as const);
    assert.deepEqual(seen, Object.fromEntries(sizes.sort()), 'progress ends at the size');
    const before = gets().length;
    assert.equal(await get(), folder);
    assert.equal(gets().length, before);
  });

  it('comes in shards', async () => {
    hub.files.clear();
    for (const [name, bytes] of Object.entries(contents.shards)) hub.files.set(name, bytes);
    await assertWhole(await get());
    hub.files.delete('model-00002-of-00002.safetensors');
    await assert.rejects(get(), { code: 'bad-file', message: /model-00002-of-00002/ });
  });

  it('brings the two files of older tokenizers', async () => {
    hub.files.delete('tokenizer.json');
    const vocab = { '!': 0, a: 1, b: 2, ab: 3, '<|endoftext|>': 4 };
    hub.files.set('vocab.json', new TextEncoder().encode(JSON.stringify(vocab)));
    hub.files.set('merges.txt', new TextEncoder().encode('#version: 0.2\na b\n'));
    const tokenizer = await (await readHfFolder(await get())).tokenizer();
    assert.deepEqual([...(tokenizer?.encode('ab!<|endoftext|>') ?? [])], [3, 0, 4]);
  });

  it('is gone on with after the connection broke', async () => {
    hub.behaviour = { stallAfter: 30_000, stalls: 3 };
    // Cut only once the bytes have come: what is under way when a connection breaks may be lost.
    const cuts = [30_000, 60_000, 90_000];
    const onProgress: HubOptions['onProgress'] = ({ doneBytes }) => {
      if (doneBytes !== cuts[0]) return;
      cuts.shift();
      hub.cut();
    };
    await assertWhole(await get({ onProgress }));
    const ranges = gets().filter((line) => line.includes('model.safetensors'));
    const starts = ['', ' bytes=30000-', ' bytes=60000-', ' bytes=90000-'];
    assert.deepEqual(
      ranges,
      starts.map((start) => `GET model.safetensors${start}`),
    );
  });

  it('is gone on with by the next start', async () => {
    hub.behaviour = { breakAfter: 0, breaks: 1e9 };
    await assert.rejects(get(), { code: 'unreachable', message: /model\.safetensors/ });
    hub.behaviour = { stallAfter: 60_000 };
    const stop = new AbortController();
    const onProgress: HubOptions['onProgress'] = ({ file, doneBytes }) => {
      if (file === 'model.safetensors' && doneBytes >= 60_000) stop.abort();
    };
    await assert.rejects(get({ signal: stop.signal, onProgress }), { name: 'AbortError' });
    hub.behaviour = {};
    hub.log.length = 0;
    await assertWhole(await get());
    assert.deepEqual(gets()[0], 'GET model.safetensors bytes=60000-');
  });

  it('begins anew where the server knows no ranges', async () => {
    hub.behaviour = { breakAfter: 30_000, breaks: 1, ignoresRanges: true };
    await assertWhole(await get());
    hub.behaviour = { breakAfter: 30_000, breaks: 1e9, ignoresRanges: true };
    const other = await mkdtemp(join(scratch, 'cache-'));
    await assert.rejects(get({ cacheDir: other }), { code: 'unreachable', message: /of 200\d+ bytes|terminated/ });
  });

  it('counts a connection without bytes as lost', async () => {
    hub.behaviour = { stallAfter: 0 };
    await assert.rejects(get({ stallMs: 30 }), { code: 'unreachable', message: /nothing came for 0\.03 s/ });
  });

  it('is got anew where it changed, and what was half here of another version is not used', async () => {
    const folder = await get();
    hub.behaviour = { stallAfter: 50_000 };
    const changed = contents.whole['model.safetensors']?.with(-1, 9) ?? new Uint8Array();
    hub.files.set('model.safetensors', changed.with(-2, 9));
    const stop = new AbortController();
    const onProgress: HubOptions['onProgress'] = ({ doneBytes }) => doneBytes >= 50_000 && stop.abort();
    await assert.rejects(get({ signal: stop.signal, onProgress }), { name: 'AbortError' });
    hub.behaviour = {};
    hub.files.set('model.safetensors', changed);
    assert.equal(await get(), folder);
    assert.deepEqual(new Uint8Array(await readFile(join(folder, 'model.safetensors'))), new Uint8Array(changed));
  });

  it('is served from the cache without a network', async () => {
    for (const kind of ['whole', 'shards'] as const) {
      hub.files.clear();
      for (const [name, bytes] of Object.entries(contents[kind])) hub.files.set(name, bytes);
      await get({ revision: kind });
    }
    const { endpoint } = hub;
    await hub.close();
    for (const revision of ['whole', 'shards']) await assertWhole(await get({ endpoint, revision }));
    await assert.rejects(get({ endpoint, revision: 'other' }), { code: 'unreachable', message: /ECONNREFUSED/ });
  });

  it('is not asked about when it is a fixed commit and here', async () => {
    hub.files.clear();
    for (const [name, bytes] of Object.entries(contents.shards)) hub.files.set(name, bytes);
    const revision = '0123456789'.repeat(4);
    const folder = await get({ revision });
    hub.tokens.clear();
    assert.equal(await get({ revision }), folder);
    assert.equal(hub.tokens.size, 0);
    await rm(join(folder, 'config.json'));
    await assertWhole(await get({ revision }));
  });

  it('is refused where its bytes are not those of its hash', async () => {
    hub.behaviour = { falseHash: '0'.repeat(64) };
    await assert.rejects(get(), { code: 'bad-file', message: /hash is/ });
    hub.behaviour = {};
    await assertWhole(await get());
  });

  it('needs a token where the server says so, and gives it to no other server', async () => {
    hub.behaviour = { needsToken: 'secret' };
    await assert.rejects(get(), { code: 'unauthorized', message: /config\.json \(HTTP 401\)/ });
    await get({ token: 'secret' });
    const store = await startHub(contents.whole);
    try {
      hub.behaviour = { store: store.endpoint };
      await get({ token: 'secret', cacheDir: await mkdtemp(join(scratch, 'cache-')) });
      assert.equal(store.tokens.get('/blobs/model.safetensors'), undefined);
      assert.ok(store.tokens.has('/blobs/model.safetensors'));
    } finally {
      await store.close();
    }
  });

  it('is refused by the name of what is not there', async () => {
    await assert.rejects(get({ repo: 'other/model' }), { code: 'bad-file', message: /other\/model.*config\.json/ });
    hub.files.delete('model.safetensors');
    await assert.rejects(get(), { code: 'bad-file', message: /neither model\.safetensors/ });
    for (const over of [{ repo: '../x' }, { repo: 'a/b/c' }, { repo: '' }, { revision: '../..' }, { revision: '' }])
      await assert.rejects(get(over), { code: 'usage' });
    hub.behaviour = { status: 503 };
    await assert.rejects(get({ revision: 'other' }), { code: 'unreachable', message: /503/ });
  });

  it('forgets a record that makes no sense', async () => {
    const folder = await get();
    await writeFile(join(folder, '.downloaded.json'), '{"config.json":');
    await assertWhole(await get());
  });
});
