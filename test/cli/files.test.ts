// A file that is not there is one thing, one that cannot be looked at is another.
import assert from 'node:assert/strict';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { after } from 'node:test';
import { giveUp, ifThere, isFile, sizeOf, writeWhole } from '../../node/files.ts';
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

test('a file is written whole or not at all, in a folder that is made for it', async () => {
  const file = join(root, 'new', 'model');
  assert.equal(await writeWhole(file, 'one'), file);
  await writeWhole(file, 'two');
  assert.deepEqual([readFileSync(file, 'utf8'), readdirSync(join(root, 'new'))], ['two', ['model']]);
  const taken = join(root, 'taken');
  mkdirSync(join(taken, 'below'), { recursive: true });
  await assert.rejects(writeWhole(taken, 'three'), meshError('bad-file'));
  assert.ok(existsSync(join(taken, 'below')) && !existsSync(`${taken}.part`));
  mkdirSync(join(root, 'b.part', 'of somebody else'), { recursive: true });
  await assert.rejects(writeWhole(join(root, 'b'), 'four'), meshError('bad-file'));
  assert.ok(existsSync(join(root, 'b.part', 'of somebody else')), 'what it has not made stays');
});

test('a write that failed says why, and also what stands in the way of clearing up', async () => {
  const full = new Error('no space left');
  const failing = (code: string) => () => Promise.reject(Object.assign(new Error(`busy (${code})`), { code }));
  const why = async (clear: () => Promise<void>): Promise<string> =>
    giveUp('model', full, clear).catch((error: Error) => error.message);
  assert.equal(await why(() => Promise.resolve()), 'model cannot be written: no space left.');
  assert.equal(await why(failing('ENOENT')), 'model cannot be written: no space left.');
  assert.match(await why(failing('EBUSY')), /no space left; and what was written cannot be removed: busy \(EBUSY\)/);
});
