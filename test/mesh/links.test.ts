// Links over real transports and a real monitor: which one is chosen and why, what happens when it dies, who dials whom.
import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import type { TransportKind } from '../../runtime/events.ts';
import { LocalHub } from '../../runtime/mesh/local.ts';
import { aborted, settlements, until } from '../conformance/channels.ts';
import { hasWebRtc, testMonitor } from '../conformance/pipes.ts';
import { probe, testPeer } from './helpers.ts';

const server = await testMonitor();
after(() => server.close());
const noWebRtc = await hasWebRtc();
const bounded = { timeout: 30_000 };
const needsWebRtc = { ...bounded, ...(noWebRtc === null ? {} : { skip: noWebRtc }) };
const ALL: TransportKind[] = ['local', 'tcp', 'webrtc', 'relay'];

test('one way after the other: the best is taken, said why, and replaced when it dies', needsWebRtc, async (t) => {
  const hub = new LocalHub();
  const [a, b] = [
    await testPeer(t, { kinds: ALL, hub, server, options: { compareMs: 5_000 } }),
    await testPeer(t, { kinds: ALL, hub, server }),
  ];
  await probe(a, b);
  const [up] = a.of('link.up');
  assert.equal(up?.transport, 'local');
  assert.match(up?.reason ?? '', /^local \d+\.\d\d ms, \d+ MB\/s$/);
  assert.ok(up && up.rttMs > 0 && up.bytesPerSecond > 0);

  a.block('local');
  await probe(a, b);
  const [first] = a.of('link.moved');
  assert.ok(first?.to === 'tcp' || first?.to === 'webrtc', first?.to);
  assert.equal(first.from, 'local');
  assert.match(first.reason, /quicker than (webrtc|tcp) .*local: blocked by the test/);

  a.block('tcp');
  if (first.to === 'webrtc') a.block('webrtc');
  await probe(a, b);
  a.mend('webrtc');
  a.block('webrtc');
  await probe(a, b);
  const moved = a.of('link.moved').at(-1);
  assert.equal(moved?.to, 'relay');
  assert.match(moved.reason, /tcp: blocked by the test; webrtc: blocked by the test/);
  assert.equal(a.links.current(b.target.peer)?.transport, 'relay');

  a.mend('tcp');
  a.block('relay');
  await probe(a, b);
  assert.equal(a.of('link.moved').at(-1)?.to, 'tcp');
  assert.ok(a.of('link.down').every(({ reason }) => /cut by the test|quicker/.test(reason)));
});

test('a link that dies under a request: that one is told, the next goes another way', needsWebRtc, async (t) => {
  const kinds: TransportKind[] = ['tcp', 'webrtc', 'relay'];
  const [a, b] = [
    await testPeer(t, { kinds, server, options: { compareMs: 0 } }),
    await testPeer(t, { kinds, server }),
  ];
  b.handlers['stage.close'] = async (_body, _tensors, { signal }) => {
    await aborted(signal);
    return { body: {} };
  };
  await probe(a, b);
  const used = a.of('link.up')[0]?.transport ?? 'relay';
  const body = { uid: 'front.0.0.0', run: 'r' } as never;
  const pending = settlements([a.links.request(b.target, 'stage.close', body, { deadlineMs: 20_000 })]);
  await until('it is under way', () => b.links.traffic().bytesIn > 0);
  a.block(used);
  assert.deepEqual(await Promise.all(pending), ['link-lost']);
  await probe(a, b);
  const [moved] = a.of('link.moved');
  assert.equal(moved?.from, used);
  assert.match(moved.reason, new RegExp(`${used}: blocked by the test`));
});

test('where WebRTC cannot connect the relay carries the link', bounded, async (t) => {
  const a = await testPeer(t, {
    kinds: noWebRtc === null ? ['webrtc', 'relay'] : ['relay'],
    server,
    options: { dialMs: 700 },
  });
  const b = await testPeer(t, { kinds: ['relay'], server }); // answers no offer, as behind a firewall
  await probe(a, b);
  const [up] = a.of('link.up');
  assert.equal(up?.transport, 'relay');
  if (noWebRtc === null) assert.match(up.reason, /webrtc: /);
});

test('when the monitor goes, TCP links go on and new ones are dialled', bounded, async (t) => {
  const own = await testMonitor();
  const kinds: TransportKind[] = ['tcp', 'relay'];
  const [a, b] = [await testPeer(t, { kinds, server: own }), await testPeer(t, { kinds, server: own })];
  await probe(a, b);
  await own.close();
  await until('both know', () => [a, b].every((peer) => peer.of('monitor.lost').length === 1));
  await probe(a, b);
  assert.equal(a.of('link.up').length, 1);
  a.links.current(b.target.peer)?.close('cut');
  await probe(a, b);
  assert.deepEqual(
    a.of('link.up').map(({ transport }) => transport),
    ['tcp', 'tcp'],
  );
  assert.match(a.of('link.up')[1]?.reason ?? '', /^tcp /);
  a.block('tcp');
  await assert.rejects(probe(a, b, 3_000), { code: 'unreachable', message: /relay: the monitor is not connected/ });
});

test('many requests at once share one dial; both ends may dial at once', bounded, async (t) => {
  const [a, b] = [await testPeer(t, { kinds: ['tcp'] }), await testPeer(t, { kinds: ['tcp'] })];
  await Promise.all(Array.from({ length: 20 }, () => probe(a, b)));
  assert.equal(a.dials.length, 1);
  assert.equal(b.dials.length, 0);
  await probe(b, a); // over the same link, the other way
  assert.equal(b.dials.length, 0);
  const [c, d] = [await testPeer(t, { kinds: ['tcp'] }), await testPeer(t, { kinds: ['tcp'] })];
  await Promise.all(Array.from({ length: 10 }, () => [probe(c, d), probe(d, c)]).flat());
  assert.ok(c.dials.length + d.dials.length <= 2);
  c.links.current(d.target.peer)?.close('cut');
  await Promise.all([probe(c, d), probe(d, c)]);
});

test('a dial that is given up harms nobody else who waits for it', bounded, async (t) => {
  const [a, b] = [await testPeer(t, { kinds: ['tcp'] }), await testPeer(t, { kinds: ['tcp'] })];
  const stop = new AbortController();
  const given = settlements([a.links.to(b.target, stop.signal).then(() => 'open')]);
  const kept = probe(a, b);
  stop.abort();
  assert.deepEqual(await Promise.all(given), ['cancelled']);
  await kept;
  await assert.rejects(a.links.to(a.target), { code: 'internal' });
});

test('a peer with another token gets no link, and a closed one gives none', bounded, async (t) => {
  const [a, b] = [
    await testPeer(t, { kinds: ['tcp'] }),
    await testPeer(t, { kinds: ['tcp'], token: 'of another mesh' }),
  ];
  await assert.rejects(probe(a, b, 3_000), { code: 'unreachable', message: /does not know the token|refused/ });
  await until('the other end says so too', () => b.of('frame.rejected').length > 0);
  const c = await testPeer(t, { kinds: ['tcp'] });
  await probe(a, c);
  const pending = settlements([probe(a, c)]);
  await c.close();
  assert.match((await Promise.all(pending))[0] ?? '', /^(answered|link-lost)$/);
  await assert.rejects(probe(a, c, 3_000), { code: 'unreachable' });
  await a.close();
  await assert.rejects(probe(a, c, 3_000), { code: 'unreachable' });
});

test('a suspicion that is wrong costs one ping; a right one ends the link at once', bounded, async (t) => {
  const [a, b] = [await testPeer(t, { kinds: ['tcp'] }), await testPeer(t, { kinds: ['tcp'] })];
  await probe(a, b);
  await a.links.suspect(b.target.peer, 'its record went');
  assert.ok(a.links.current(b.target.peer));
  await b.close();
  await a.links.suspect(b.target.peer, 'its record went');
  assert.equal(a.links.current(b.target.peer), undefined);
});
