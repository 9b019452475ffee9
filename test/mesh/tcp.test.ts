// TCP and TLS beyond the suite of all transports: callers that say nothing, ends that close while others connect.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import net from 'node:net';
import { test } from 'node:test';
import { tcpTransport } from '../../node/tcp.ts';
import type { PeerId } from '../../runtime/wire/ids.ts';
import type { Pipe } from '../../runtime/wire/pipe.ts';
import { testCertificate } from '../conformance/pipes.ts';

const options = { host: '127.0.0.1', port: 0, nextFree: false, emit: () => undefined };
const targetOf = (transport: 'tcp' | 'tls', port: number) => ({
  peer: 'x'.repeat(43) as PeerId,
  addresses: [{ transport, host: '127.0.0.1', port }],
});

test('TLS ends open and close, at once and over and over', { timeout: 20_000 }, async () => {
  const tls = await testCertificate();
  for (let i = 0; i < 60; i += 1) {
    const [near, far] = [await tcpTransport({ ...options, tls }), await tcpTransport({ ...options, tls })];
    const { promise, resolve } = Promise.withResolvers<Pipe>();
    far.listen(resolve);
    const pipe = await near.dial(targetOf('tls', far.port), AbortSignal.timeout(5_000));
    assert.equal((await promise).binding, pipe.binding);
    assert.match(pipe.binding, /^[\w-]{43}$/);
    await Promise.all([near.close(), far.close()]);
    await assert.rejects(pipe.send(new Uint8Array(1)), { code: 'link-lost' });
  }
});

test('a caller that never shakes hands does not keep a TLS end from closing', { timeout: 15_000 }, async () => {
  const far = await tcpTransport({ ...options, tls: await testCertificate() });
  const mute = net.connect(far.port, '127.0.0.1').on('error', () => undefined);
  await once(mute, 'connect');
  await far.close();
  mute.destroy();
});

test('an address where nobody answers, and a dial that is given up', { timeout: 15_000 }, async (t) => {
  const near = await tcpTransport(options);
  t.after(() => near.close());
  const gone = await tcpTransport(options);
  await gone.close();
  await assert.rejects(near.dial(targetOf('tcp', gone.port), AbortSignal.timeout(5_000)), {
    code: 'unreachable',
    message: /127\.0\.0\.1:\d+ .*ECONNREFUSED/,
  });
  assert.match(near.unreachable({ ...targetOf('tcp', 1), addresses: [] }) ?? '', /no address/);
  const deaf = net.createServer().listen(0, '127.0.0.1'); // connects, and knows no TLS
  await once(deaf, 'listening');
  t.after(() => void deaf.close());
  const { port } = deaf.address() as net.AddressInfo;
  await assert.rejects(near.dial(targetOf('tls', port), AbortSignal.timeout(200)));
});
