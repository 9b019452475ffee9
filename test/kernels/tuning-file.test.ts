// The autotuner's file: what was written is read again, whatever else happened to the file.
import assert from 'node:assert/strict';
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { cacheFolder, tuningFile } from '../../node/tuning-file.ts';

test('entries survive the process, side by side, and leave no drafts behind', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'skein-tuning-'));
  t.after(() => rm(folder, { recursive: true }));
  const path = join(folder, 'deeper');
  const store = tuningFile(path, assert.fail);
  assert.equal(await store.read('a'), undefined);
  await Promise.all(['a', 'b', 'c'].map((key, i) => store.write(key, { name: key, gflops: i + 1 })));
  await tuningFile(path, assert.fail).write('b', { name: 'other', gflops: 7 });
  assert.deepEqual(await store.read('a'), { name: 'a', gflops: 1 });
  assert.deepEqual(await store.read('b'), { name: 'other', gflops: 7 });
  assert.deepEqual(await readdir(path), ['tuning.json']);
});

test('a broken file is ignored with a warning and replaced', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'skein-tuning-'));
  t.after(() => rm(folder, { recursive: true }));
  for (const text of ['', '{"version":1,"entr', '[]', '{"version":2,"entries":{}}', '{"version":1,"entries":[]}']) {
    await writeFile(join(folder, 'tuning.json'), text);
    const warnings: string[] = [];
    const store = tuningFile(folder, (warning) => warnings.push(warning));
    assert.equal(await store.read('a'), undefined);
    assert.match(warnings[0] ?? '', /tuning\.json .* ignored/);
    await store.write('a', { name: 'x', gflops: 1 });
    assert.deepEqual(await tuningFile(folder, assert.fail).read('a'), { name: 'x', gflops: 1 });
  }
});

test('the cache folder is told by the environment', () => {
  assert.equal(cacheFolder({ SKEIN_CACHE: '/c' }), '/c');
  assert.equal(cacheFolder({ XDG_CACHE_HOME: '/x' }), join('/x', 'skein'));
  assert.match(cacheFolder({}), /\.cache[/\\]skein$/);
});
