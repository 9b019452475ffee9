// A file that is not there is one thing, one that cannot be looked at is another.
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { after } from 'node:test';
import { ifThere, isFile, sizeOf } from '../../node/files.ts';
import { meshError } from '../model/harness.ts';

const root = mkdtempSync(join(tmpdir(), 'skein-files-'));
after(() => rmSync(root, { recursive: true, force: true }));

test('absent is null, false or 0; what cannot be read is an error', async () => {
  const file = join(root, 'a');
  writeFileSync(file, 'four');
  assert.deepEqual([await isFile(file), await sizeOf(file)], [true, 4]);
  for (const none of [join(root, 'none'), join(file, 'below')]) {
    assert.deepEqual([await isFile(none), await sizeOf(none)], [false, 0]);
    assert.equal(await ifThere(none, () => Promise.reject(Object.assign(new Error(), { code: 'ENOENT' }))), null);
  }
  assert.equal(await isFile(root), false);
  const loop = join(root, 'loop');
  symlinkSync(loop, loop);
  await assert.rejects(isFile(loop), meshError('bad-file'));
  await assert.rejects(sizeOf(loop), meshError('bad-file'));
});
