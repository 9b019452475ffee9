// The compute worker: transfers, errors with their codes, and death. One that dies rejects every pending call exactly once.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import test from 'node:test';
import { platform } from '../../node/platform.ts';
import { MeshError } from '../../runtime/errors.ts';
import { computeClient } from '../../runtime/compute-client.ts';
import { buffersOf } from '../../runtime/transfer.ts';
import { meshError, random, specOf, targets } from './harness.ts';

test('a worker trains, transfers its buffers, and keeps the codes of errors', async () => {
  const worker = await platform.startCompute();
  const { compute } = worker;
  const { isSoftware, maxBufferSize } = await compute.describe();
  assert.equal(typeof isSoftware, 'boolean');
  assert.ok(maxBufferSize > 0);
  const { stage } = await compute.open(specOf([9, 12, 5]));
  const x = random([2, 9], 1);
  const { loss, correct, dx } = await compute.loss(stage, x, targets(0, 1), {
    scale: 0.5,
    train: true,
    accumulate: true,
  });
  assert.ok(loss > 0.5 && loss < 4 && correct <= 2 && dx === null);
  assert.equal(x.data.byteLength, 0, 'the bytes were transferred');
  const weights = await compute.read(stage, 'weights');
  assert.equal(weights.get('layers.0.weight')?.data.byteLength, 9 * 12 * 4);
  await compute.write(stage, 'weights', weights);
  await assert.rejects(compute.backward(stage, 'nothing', random([2, 5], 1), { accumulate: true }), meshError('stale'));
  await assert.rejects(compute.step(99), meshError('no-stage'));
  await worker.end();
  assert.equal(await worker.died, 'it was ended');
});

test('a worker that dies rejects every pending call, and every later one', async () => {
  const worker = await platform.startCompute();
  const { stage } = await worker.compute.open(specOf([9, 12, 5]));
  const calls = Array.from({ length: 20 }, (_, i) =>
    worker.compute.forward(stage, `${i}`, random([2, 9], i), { keep: true }),
  );
  let settled = 0;
  for (const call of calls)
    call.then(
      () => (settled += 1),
      () => (settled += 1),
    );
  const outcomes = Promise.allSettled(calls);
  await worker.end();
  const results = await outcomes;
  assert.ok(results.some(({ status }) => status === 'rejected'));
  for (const result of results) assert.ok(result.status === 'fulfilled' || meshError('gpu-lost')(result.reason));
  assert.equal(settled, 20);
  await assert.rejects(worker.compute.step(stage), meshError('gpu-lost'));
});

test('a process that exits with work in flight exits cleanly, with its own code', async () => {
  const script = `
    import { platform } from '${new URL('../../node/platform.ts', import.meta.url).href}';
    const { compute } = await platform.startCompute();
    const { stage } = await compute.open(${JSON.stringify(specOf([9, 300, 5]))});
    for (let i = 0; i < 50; i++) compute.forward(stage, 'k', { dtype: 'f32', shape: [1, 9], data: new Uint8Array(36) }, { keep: false }).catch(() => {});
    setTimeout(() => process.exit(7), 5);`;
  const child = spawn(process.execPath, ['--input-type=module', '--eval', script], { stdio: 'ignore' });
  const [code] = (await once(child, 'exit')) as [number | null];
  assert.equal(code, 7);
});

const isLinux = process.platform === 'linux';
test(
  'without a driver: no-gpu, and what to install',
  { skip: isLinux ? false : 'drivers can be hidden only on Linux' },
  async () => {
    const script = `
    import { platform } from '${new URL('../../node/platform.ts', import.meta.url).href}';
    const { compute } = await platform.startCompute();
    await compute.describe().catch(({ code, fix }) => console.log(code, fix));
    process.exit(0);`;
    const env = {
      ...process.env,
      VK_DRIVER_FILES: '/nonexistent.json',
      VK_ICD_FILENAMES: '/nonexistent.json',
      SKEIN_DAWN: 'backend=vulkan',
    };
    const child = spawn(process.execPath, ['--input-type=module', '--eval', script], {
      stdio: ['ignore', 'pipe', 'ignore'],
      env,
    });
    let output = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => (output += text));
    await once(child, 'exit');
    assert.match(output, /^no-gpu [^]*apt-get install/);
  },
);

test('a call that never answers settles once with the death', async () => {
  let die: (reason: string) => void = () => {};
  const died = new Promise<string>((resolve) => (die = resolve));
  const answers: ((reply: { ok: true; value: unknown }) => void)[] = [];
  const compute = computeClient({ request: () => new Promise((resolve) => answers.push(resolve)) }, died);
  const calls = [compute.step(1), compute.describe(), compute.close(1)];
  const rejections: unknown[] = [];
  for (const call of calls)
    call.then(
      () => assert.fail('nobody answered'),
      (cause: unknown) => rejections.push(cause),
    );
  die('the test says so');
  await Promise.allSettled(calls);
  for (const answer of answers) answer({ ok: true, value: 'too late' });
  await Promise.resolve();
  assert.equal(rejections.length, 3);
  for (const cause of rejections)
    assert.ok(cause instanceof MeshError && cause.code === 'gpu-lost' && /the test says so/.test(cause.message));
  await assert.rejects(compute.step(1), meshError('gpu-lost'));
});

test('buffers are listed once each, wherever they hide', () => {
  const shared = new ArrayBuffer(16);
  const other = new ArrayBuffer(8);
  const found = buffersOf([
    { a: new Uint8Array(shared, 0, 4) },
    new Map([['b', { data: new Uint8Array(shared, 8) }]]),
    [[new Uint8Array(other)]],
    null,
    'x',
    3,
  ]);
  assert.deepEqual(new Set(found), new Set([shared, other]));
  assert.equal(found.length, 2);
});
