// Joining over real sockets: tokens, challenges, certificates, one identity a socket.
import assert from 'node:assert/strict';
import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { pinnedTls } from '../../node/pinned-tls.ts';
import { createIdentity } from '../../runtime/mesh/identity.ts';
import { joinMonitor, parseJoinUrl } from '../../runtime/mesh/monitor-client.ts';
import { JOIN_WITHIN_MS } from '../../signaling/auth.ts';
import { connectRaw, host, joinAs, joinRaw, startMonitor, temporaryDirectory, until } from './helpers.ts';

const bounded = { timeout: 10_000, concurrency: true };

test('joining', bounded, async (t) => {
  const together = [
    t.test('the right token joins, a wrong one is refused', async (t) => {
      const server = await startMonitor(t);
      const { monitor, events } = await joinAs(t, server.joinUrl);
      assert.ok(monitor.isConnected);
      assert.deepEqual(events, [{ kind: 'monitor.joined', url: server.url, peer: monitor.peer }]);
      const wrong = { ...parseJoinUrl(server.joinUrl), token: 'another-token' };
      await assert.rejects(joinAs(t, '', { target: wrong }), { code: 'unauthorized' });
    }),

    t.test('nobody there: unreachable, with what to do', async (t) => {
      const server = await startMonitor(t);
      const { joinUrl } = server;
      await server.close();
      await assert.rejects(joinAs(t, joinUrl, { deadlineMs: 300 }), {
        code: 'unreachable',
        fix: /signaling\/main\.ts/,
      });
    }),

    t.test('a monitor that starts within the deadline is joined', async (t) => {
      const stateDir = await temporaryDirectory(t);
      const first = await startMonitor(t, { stateDir });
      const { joinUrl, port } = first;
      await first.close();
      const joining = joinAs(t, joinUrl, { deadlineMs: 5_000 });
      await startMonitor(t, { stateDir, port });
      assert.ok((await joining).monitor.isConnected);
    }),

    t.test('joining can be cancelled', async (t) => {
      const controller = new AbortController();
      const joining = joinAs(t, 'http://localhost:9/#token=whatever', { signal: controller.signal });
      controller.abort();
      await assert.rejects(joining, { code: 'cancelled' });
    }),

    t.test('a forged answer to the challenge is refused and the socket closed', async (t) => {
      const server = await startMonitor(t);
      const { token } = parseJoinUrl(server.joinUrl);
      const stranger = await createIdentity();
      for (const forge of [
        async (nonce: string) => stranger.sign('join', nonce), // another key
        async () => 'A'.repeat(86), // noise
      ]) {
        const raw = await connectRaw(t, server.url);
        const reply = await raw.ask('join', {
          peer: raw.identity.peer,
          role: 'server',
          token,
          signature: await forge(raw.nonce),
        });
        assert.equal(reply.error?.code, 'unauthorized');
        await until('the socket is closed', () => raw.socket.disconnected);
      }
      // An answer that was right for another socket's challenge.
      const first = await connectRaw(t, server.url);
      const second = await connectRaw(t, server.url);
      const signature = await second.identity.sign('join', first.nonce);
      const replayed = await second.ask('join', { peer: second.identity.peer, role: 'server', token, signature });
      assert.equal(replayed.error?.code, 'unauthorized');
      // A signature that was made for another purpose.
      const third = await connectRaw(t, server.url);
      const crossed = await third.identity.sign('link', third.nonce);
      const reply = await third.ask('join', { peer: third.identity.peer, role: 'server', token, signature: crossed });
      assert.equal(reply.error?.code, 'unauthorized');
    }),

    t.test('nothing is accepted before the join, and nobody joins twice on one socket', async (t) => {
      const server = await startMonitor(t);
      const early = await connectRaw(t, server.url);
      for (const name of ['discover', 'watch']) {
        const reply = await early.ask(name, { prefix: '' });
        assert.equal(reply.error?.code, 'unauthorized');
      }
      const raw = await joinRaw(t, server);
      const other = await createIdentity();
      const again = await raw.ask('join', {
        peer: other.peer,
        role: 'server',
        token: parseJoinUrl(server.joinUrl).token,
        signature: await other.sign('join', raw.nonce),
      });
      assert.equal(again.error?.code, 'unauthorized');
    }),

    t.test('a socket that does not join in time is closed', async (t) => {
      const server = await startMonitor(t);
      const raw = await connectRaw(t, server.url);
      await until('the socket is closed', () => raw.socket.disconnected, JOIN_WITHIN_MS + 1_500);
    }),

    t.test('a peer that connects again replaces its old socket and keeps its records', async (t) => {
      const server = await startMonitor(t);
      const old = await joinAs(t, server.joinUrl);
      await host(old, 'front.0.0.0');
      const raw = await connectRaw(t, server.url);
      const reply = await raw.ask('join', {
        peer: old.identity.peer,
        role: 'server',
        token: parseJoinUrl(server.joinUrl).token,
        signature: await old.identity.sign('join', raw.nonce),
      });
      assert.ok(reply.ok);
      await until('the old socket is gone', () => !old.monitor.isConnected);
      assert.equal(server.records().length, 1);
    }),

    t.test('the pinned certificate is accepted, another one is refused', async (t) => {
      const server = await startMonitor(t, { tls: true });
      assert.match(server.joinUrl, /^https:.*&cert=[0-9a-f]{64}$/);
      const { monitor } = await joinAs(t, server.joinUrl);
      assert.ok(monitor.isConnected);
      const target = { ...parseJoinUrl(server.joinUrl), certificateSha256: '0'.repeat(64) };
      await assert.rejects(joinAs(t, '', { target }), { code: 'unauthorized', message: /certificate/ });
      const unpinned = { url: target.url, token: target.token };
      await assert.rejects(
        joinMonitor({
          target: unpinned,
          identity: await createIdentity(),
          role: 'server',
          emit: () => undefined,
          deadlineMs: 300,
          transportOptions: pinnedTls(unpinned),
        }),
        { code: 'unreachable' },
      );
    }),

    t.test('token and certificate outlive the monitor, and only their owner reads them', async (t) => {
      const stateDir = join(await temporaryDirectory(t), 'state');
      const first = await startMonitor(t, { stateDir, tls: true });
      const second = await startMonitor(t, { stateDir, tls: true });
      assert.equal(new URL(first.joinUrl).hash, new URL(second.joinUrl).hash);
      for (const name of ['monitor-token', 'monitor-tls.pem']) {
        const { mode } = await stat(join(stateDir, name));
        assert.equal(mode & 0o777, 0o600, name);
      }
      assert.equal((await stat(stateDir)).mode & 0o777, 0o700);
      const kept = (await readFile(join(stateDir, 'monitor-token'), 'utf8')).trim();
      assert.equal(parseJoinUrl(first.joinUrl).token, kept);
    }),
  ];
  await Promise.all(together);
});

test('a weak token is refused', async (t: TestContext) => {
  await assert.rejects(startMonitor(t, { token: 'short' }), { code: 'usage' });
});
