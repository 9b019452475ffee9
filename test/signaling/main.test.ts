// The monitor as a process: its outputs, its exit codes, and that the mesh survives its death.
import assert from 'node:assert/strict';
import { spawn, type ChildProcess } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { test, type TestContext } from 'node:test';
import type { EventOf } from '../../runtime/events.ts';
import { createMonitor } from '../../signaling/server.ts';
import { host, joinAs, temporaryDirectory, until } from './helpers.ts';

const MAIN = fileURLToPath(new URL('../../signaling/main.ts', import.meta.url));

interface Run {
  child: ChildProcess;
  output(): { stdout: string; stderr: string };
  ended: Promise<number | null>;
}

function start(t: TestContext, args: string[], env: Record<string, string> = {}): Run {
  const child = spawn(process.execPath, [MAIN, ...args], { env: { ...process.env, ...env } });
  const output = { stdout: '', stderr: '' };
  child.stdout.on('data', (data: Buffer) => (output.stdout += String(data)));
  child.stderr.on('data', (data: Buffer) => (output.stderr += String(data)));
  const ended = new Promise<number | null>((resolve) => child.once('close', resolve));
  t.after(() => void child.kill('SIGKILL'));
  return { child, output: () => output, ended };
}

async function ready({ output }: Run): Promise<EventOf<'monitor.ready'>> {
  await until('the monitor is ready', () => output().stdout.includes('"monitor.ready"'), 8_000);
  const line = output()
    .stdout.split('\n')
    .find((text) => text.includes('"monitor.ready"'));
  return JSON.parse(line ?? '') as EventOf<'monitor.ready'>;
}

test('a monitor that was killed and started again has every record back within 5 s', { timeout: 25_000 }, async (t) => {
  const state = await temporaryDirectory(t);
  const first = start(t, ['--json', '--port', '0', '--state', state]);
  const before = await ready(first);
  const hosts = await Promise.all([1, 2, 3].map(() => joinAs(t, before.joinUrl)));
  const watcher = await joinAs(t, before.joinUrl, { role: 'client' });
  await Promise.all(hosts.map((peer, index) => host(peer, `front.0.${index}.0`)));
  let leastSeen = Infinity;
  let names: string[] = [];
  await watcher.monitor.watch('front.', (records) => {
    names = [...records.keys()].sort();
    leastSeen = Math.min(leastSeen, names.length);
  });
  await until('the watcher sees all three', () => names.length === 3);
  leastSeen = names.length;

  first.child.kill('SIGKILL');
  await first.ended;
  await until('the loss is noticed', () => !watcher.monitor.isConnected);
  await new Promise((resolve) => setTimeout(resolve, 1_000));
  const second = start(t, ['--json', '--port', String(before.port), '--state', state]);
  const after = await ready(second);
  const readyAt = performance.now();
  assert.equal(after.joinUrl, before.joinUrl, 'the same token on the same port');

  const newcomer = await joinAs(t, after.joinUrl);
  let found: string[] = [];
  await newcomer.monitor.watch('front.', (records) => (found = [...records.keys()].sort()));
  await until('a newcomer finds every record', () => found.length === 3, 5_000);
  const tookMs = performance.now() - readyAt;
  t.diagnostic(`records back ${tookMs.toFixed(0)} ms after the monitor was ready`);
  assert.deepEqual(found, ['front.0.0.0', 'front.0.1.0', 'front.0.2.0']);
  assert.equal(leastSeen, 3, 'the watcher never lost an entry');
  await until('the watcher is back', () => watcher.monitor.isConnected, 5_000);
  await host(hosts[0] ?? newcomer, 'front.0.7.0');
  await until('and sees what is new', () => names.includes('front.0.7.0'));
});

test(
  'the monitor ends cleanly, and says what is wrong otherwise',
  { timeout: 15_000, concurrency: true },
  async (t) => {
    const state = await temporaryDirectory(t);
    const together = [
      t.test('SIGINT and SIGTERM are its normal end', async (t) => {
        const isBundled = process.execPath.includes('node_modules');
        // Under npm with an older Node of the shell's own, what it tells people to type goes by the launcher.
        for (const [name, npmNode, typed] of [
          ['SIGINT', '', /node node\/serve\.ts --join 'http:\/\/localhost:\d+\/#token=/],
          [
            'SIGTERM',
            '/usr/bin/node',
            isBundled ? /npx skein serve --join 'http/ : /node node\/serve\.ts --join 'http/,
          ],
        ] as const) {
          const run = start(t, ['--json', '--port', '0', '--state', state], { npm_node_execpath: npmNode });
          await ready(run);
          await until('it can be stopped', () => run.output().stderr.includes('Ctrl-C'));
          run.child.kill(name);
          assert.equal(await run.ended, 0, name);
          for (const line of run.output().stdout.trim().split('\n')) assert.ok(JSON.parse(line), line);
          assert.match(run.output().stderr, typed);
        }
      }),
      t.test('a wrong option or value is exit 2', async (t) => {
        const unknown = start(t, ['--prot', '1']);
        assert.equal(await unknown.ended, 2);
        assert.match(unknown.output().stderr, /Did you mean --port/);
        const value = start(t, [], { SKEIN_PORT: 'many' });
        assert.equal(await value.ended, 2);
        assert.match(value.output().stderr, /SKEIN_PORT/);
        assert.match(value.output().stderr, /^fix: /m);
      }),
      t.test('help shows examples', async (t) => {
        const help = start(t, ['--help']);
        assert.equal(await help.ended, 0);
        assert.match(help.output().stdout, /Examples:\n {2}\$ node signaling\/main\.ts/);
      }),
      t.test('a taken port that was asked for is exit 1', async (t) => {
        const other = await createMonitor({ port: 0, stateDir: state });
        t.after(() => other.close());
        const run = start(t, ['--port', String(other.port), '--state', state]);
        assert.equal(await run.ended, 1);
        assert.match(run.output().stderr, /^error: Port \d+ .*taken[^]*^fix: /m);
      }),
    ];
    await Promise.all(together);
  },
);
