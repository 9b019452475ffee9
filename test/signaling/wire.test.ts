// The directory, introductions and events over real sockets, with honest peers and with others.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createIdentity, signRecord } from '../../runtime/mesh/identity.ts';
import { parseJoinUrl, type MonitorMessage, type PublishedEvent } from '../../runtime/mesh/monitor-client.ts';
import { MAX_RELAY_BYTES } from '../../runtime/wire/monitor-messages.ts';
import { RECORD_TTL_MS } from '../../runtime/wire/records.ts';
import { connectRaw, host, joinAs, joinRaw, stageRecordOf, startMonitor, until } from './helpers.ts';

const bounded = { timeout: 10_000 };

test('discovery by prefix, and a watch that follows joins, changes and departures', bounded, async (t) => {
  const server = await startMonitor(t);
  const ann = await joinAs(t, server.joinUrl);
  const bob = await joinAs(t, server.joinUrl);
  const seen: string[][] = [];
  const loads: number[] = [];
  await host(ann, 'front.0.0.0');
  const stop = await bob.monitor.watch('front.', (records) => {
    seen.push([...records.keys()]);
    for (const record of records.values()) if (record.kind === 'stage') loads.push(record.load);
  });
  assert.deepEqual(seen, [['front.0.0.0']]);
  await host(ann, 'front.0.1.0');
  await host(ann, 'back.0.0.0');
  await until('the watcher sees the second', () => seen.length === 2);
  assert.deepEqual(
    (await bob.monitor.discover('front.')).map(({ name }) => name as string),
    ['front.0.0.0', 'front.0.1.0'],
  );
  assert.equal((await bob.monitor.discover('')).length, 3);
  await host(ann, 'front.0.1.0', { load: 7 });
  await until('the watcher sees the load', () => loads.includes(7));
  await ann.monitor.withdraw('front.0.1.0');
  await until('the watcher sees the withdrawal', () => seen.at(-1)?.length === 1);
  await ann.monitor.close();
  await until('the watcher sees the departure', () => seen.at(-1)?.length === 0);
  stop();
  assert.deepEqual(server.records(), []);
  const kinds = bob.events.map((event) => event.kind);
  assert.equal(kinds.filter((kind) => kind === 'record.added').length, 2);
  assert.equal(kinds.filter((kind) => kind === 'record.removed').length, 2);
});

test('a peer whose connection breaks takes its records with it', bounded, async (t) => {
  const server = await startMonitor(t);
  const raw = await joinRaw(t, server);
  const watcher = await joinAs(t, server.joinUrl);
  const { peer } = raw.identity;
  await raw.ask('announce', {
    records: [await signRecord(raw.identity, stageRecordOf(peer, 'front.0.0.0', Date.now()))],
  });
  let size = -1;
  await watcher.monitor.watch('', (records) => (size = records.size));
  assert.equal(size, 1);
  raw.socket.io.engine.close();
  await until('the record is gone', () => size === 0);
  const removed = watcher.events.find((event) => event.kind === 'record.removed');
  assert.match(removed?.reason ?? '', /connection/);
});

test('a duplicate UID is refused, with the next free one', bounded, async (t) => {
  const server = await startMonitor(t);
  const ann = await joinAs(t, server.joinUrl);
  const bob = await joinAs(t, server.joinUrl);
  await host(ann, 'front.0.0.0');
  await assert.rejects(host(bob, 'front.0.0.0'), { code: 'busy', fix: /front\.0\.1\.0/ });
  await host(bob, 'front.0.1.0');
  assert.equal(server.records().length, 2);
});

test('forged, expired and replayed records are refused', bounded, async (t) => {
  const server = await startMonitor(t);
  const raw = await joinRaw(t, server);
  const mallory = await createIdentity();
  const { peer } = raw.identity;
  const refusal = async (signed: object) => (await raw.ask('announce', { records: [signed] })).refused?.[0]?.error.code;
  const nowMs = Date.now();
  const good = await signRecord(raw.identity, stageRecordOf(peer, 'front.0.0.0', nowMs));
  const other = await signRecord(raw.identity, stageRecordOf(peer, 'front.0.5.0', nowMs));
  assert.equal(await refusal({ ...good, signature: other.signature }), 'forged-record');
  assert.equal(await refusal(await signRecord(mallory, stageRecordOf(peer, 'front.0.0.0', nowMs))), 'forged-record');
  const foreign = await signRecord(mallory, stageRecordOf(mallory.peer, 'front.0.0.0', nowMs));
  assert.equal(await refusal(foreign), 'forged-record', 'a record of another peer, though well signed');
  assert.equal(await refusal({ ...good, payload: '{"kind":"stage"}' }), 'forged-record');
  assert.equal(await refusal({ ...good, payload: '[[[' }), 'forged-record');
  const expired = await signRecord(raw.identity, stageRecordOf(peer, 'front.0.0.0', nowMs - 2 * RECORD_TTL_MS));
  assert.equal(await refusal(expired), 'expired-record');
  const eternal = stageRecordOf(peer, 'front.0.0.0', nowMs, { expiresAt: nowMs + 3_600_000 });
  assert.equal(await refusal(await signRecord(raw.identity, eternal)), 'expired-record');
  assert.equal(server.records().length, 0);
  assert.equal(await refusal(good), undefined);
  assert.equal(await refusal(good), 'expired-record', 'a replay');
  assert.equal(server.records().length, 1);
});

test(
  'a record that is not renewed expires; one that is renewed lives, whatever the clock of its peer says',
  bounded,
  async (t) => {
    let skewMs = 0;
    const server = await startMonitor(t, { now: () => Date.now() + skewMs });
    const raw = await joinRaw(t, server);
    const watcher = await joinAs(t, server.joinUrl, { now: () => Date.now() - 3_600_000 });
    const { peer } = raw.identity;
    await raw.ask('announce', {
      records: [await signRecord(raw.identity, stageRecordOf(peer, 'front.0.0.0', Date.now()))],
    });
    await host(watcher, 'back.0.0.0');
    let names: string[] = [];
    await watcher.monitor.watch('', (records) => (names = [...records.keys()]));
    assert.deepEqual(names, ['front.0.0.0', 'back.0.0.0']);
    skewMs = RECORD_TTL_MS - 2_000; // both have two seconds left; only one of them is renewed in time
    await new Promise((resolve) => setTimeout(resolve, 500));
    assert.equal(server.records().length, 2);
    await host(watcher, 'back.0.0.0').catch(() => undefined);
    await until('the stale record is gone', () => names.length < 2, 3_500);
    assert.ok(!names.includes('front.0.0.0'));
  },
);

test('signals and bytes go from one peer to another; an absent one is reported', bounded, async (t) => {
  const server = await startMonitor(t);
  const ann = await joinAs(t, server.joinUrl);
  const bob = await joinAs(t, server.joinUrl);
  const got: MonitorMessage[] = [];
  const answers: MonitorMessage[] = [];
  bob.monitor.onMessage((message) => got.push(message));
  ann.monitor.onMessage((message) => answers.push(message));
  const big = crypto.getRandomValues(new Uint8Array(65_536));
  const bytes = new Uint8Array(MAX_RELAY_BYTES).fill(7);
  bytes.set(big.subarray(0, 1_000));
  ann.monitor.signal(bob.monitor.peer, 's1', '{"type":"offer"}');
  ann.monitor.relay(bob.monitor.peer, 's2', bytes);
  ann.monitor.relay(bob.monitor.peer, 's2', new Uint8Array(0));
  await until('three messages', () => got.length === 3);
  const from = ann.monitor.peer;
  assert.deepEqual(got, [
    { kind: 'signal', from, session: 's1', data: '{"type":"offer"}' },
    { kind: 'relay', from, session: 's2', bytes },
    { kind: 'relay', from, session: 's2', bytes: new Uint8Array(0) },
  ]);
  const nobody = (await createIdentity()).peer;
  ann.monitor.signal(nobody, 's3', 'x');
  ann.monitor.relay(nobody, 's4', new Uint8Array(1));
  await until('two answers', () => answers.length === 2);
  assert.deepEqual(answers, [
    { kind: 'absent', peer: nobody, session: 's3' },
    { kind: 'absent', peer: nobody, session: 's4' },
  ]);
  await server.close();
  await until('the loss is told', () => answers.some((message) => message.kind === 'lost'));
  ann.monitor.relay(bob.monitor.peer, 's5', new Uint8Array(1));
  await until('the absence is told', () =>
    answers.some((message) => message.kind === 'absent' && message.session === 's5'),
  );
});

test('observers get the newest events and then each one', bounded, async (t) => {
  const server = await startMonitor(t);
  const ann = await joinAs(t, server.joinUrl);
  const bob = await joinAs(t, server.joinUrl, { role: 'observer' });
  ann.monitor.publish([{ kind: 'log', level: 'info', message: 'before' }]);
  const seen: PublishedEvent[] = [];
  await new Promise((resolve) => setTimeout(resolve, 200));
  await bob.monitor.observe((events) => seen.push(...events));
  ann.monitor.publish([{ kind: 'log', level: 'info', message: 'after' }]);
  const isSeen = (message: string) =>
    seen.filter((event) => event.kind === 'log' && event.message === message).length === 1;
  await until('both are seen once', () => isSeen('before') && isSeen('after'));
  assert.equal(seen.find((event) => event.kind === 'log')?.publisher, ann.monitor.peer);
  assert.ok(seen.some((event) => event.kind === 'peer.joined' && event.publisher === 'monitor'));
});

test('a broken payload is answered, the twentieth closes the socket, and the others go on', bounded, async (t) => {
  const server = await startMonitor(t);
  const good = await joinAs(t, server.joinUrl);
  const raw = await joinRaw(t, server);
  const broken: [string, ...unknown[]][] = [
    ['discover', { prefix: 7 }],
    ['discover', { prefix: '', more: 1 }],
    ['discover'],
    ['discover', null],
    ['watch', { prefix: 'x'.repeat(101) }],
    ['announce', { records: [] }],
    ['announce', { records: [{ payload: '{}', signature: '?' }] }],
    ['withdraw', { names: 'front' }],
    ['relay', { to: raw.identity.peer, session: 's', bytes: 'text' }],
    ['relay', { to: raw.identity.peer, session: 's', bytes: new Uint8Array(MAX_RELAY_BYTES + 1) }],
    ['signal', { to: 'nobody', session: 's', data: '' }],
    ['publish', { events: [{ message: 'no kind' }] }],
    ['no-such-message', {}],
    ['__proto__', {}],
    ['constructor', {}],
    ['toString', {}],
    ['observe', [[[[]]]]],
    ['join', 'again'],
    ['discover', JSON.parse('{"__proto__":{"prefix":""}}')],
  ];
  for (const [name, ...payload] of broken) {
    const reply = await raw.ask(name, ...payload);
    assert.equal(reply.error?.code, 'malformed', `${name} ${JSON.stringify(payload)}`);
  }
  assert.ok(raw.socket.connected);
  raw.socket.emit('discover', 'the twentieth, without an acknowledgement');
  await until('the socket is closed', () => raw.socket.disconnected);
  assert.deepEqual(await good.monitor.discover(''), []);
});

test('malformed packets and oversized messages close their socket and nothing else', bounded, async (t) => {
  const server = await startMonitor(t);
  const good = await joinAs(t, server.joinUrl);
  const address = `${server.url.replace('http', 'ws')}/socket.io/?EIO=4&transport=websocket`;
  const packets = [
    '40',
    '42',
    '42[',
    '42["__proto__"]',
    '451-["relay",{"_placeholder":true,"num":9}]',
    '49',
    '9',
    '4zz',
    '420',
    '43[]',
    '42{}',
    '45999999-[]',
    '40/other,',
  ];
  for (const packet of [...packets, new Uint8Array(10), 'x'.repeat(300_000)]) {
    const socket = new WebSocket(address);
    await new Promise((resolve) => socket.addEventListener('open', resolve, { once: true }));
    socket.send('40');
    socket.send(packet);
    await new Promise((resolve) => setTimeout(resolve, 10));
    socket.close();
  }
  assert.deepEqual(await good.monitor.discover(''), []);
  assert.equal((await fetch(`${server.url}/healthz`)).status, 200);
});

test('a flood by one peer is slowed down and does not delay the others', { timeout: 20_000 }, async (t) => {
  const server = await startMonitor(t);
  const good = await joinAs(t, server.joinUrl);
  await host(good, 'front.0.0.0');
  const raw = await joinRaw(t, server);
  const { socket, identity } = await joinRaw(t, server);
  const p99Of = async (probes: number): Promise<number> => {
    const times: number[] = [];
    for (let index = 0; index < probes; index += 1) {
      const startedAt = performance.now();
      await good.monitor.discover('front.');
      times.push(performance.now() - startedAt);
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    return times.sort((a, b) => a - b)[Math.floor(probes * 0.99) - 1] ?? Infinity;
  };
  const calmMs = await p99Of(50);

  const bytes = new Uint8Array(32_768);
  let sent = 0;
  let served = 0;
  socket.on('relay', () => (served += 1));
  const startedAt = performance.now();
  const flood = setInterval(() => {
    for (let index = 0; index < 12; index += 1, sent += 2) {
      raw.socket.emit('discover', { prefix: '' }, () => (served += 1));
      raw.socket.emit('relay', { to: identity.peer, session: 's', bytes });
    }
  }, 4);
  t.after(() => clearInterval(flood));
  while (sent < 5_000) await p99Of(5);
  const floodedMs = await p99Of(100);
  clearInterval(flood);
  const seconds = (performance.now() - startedAt) / 1000;
  const figures = `${sent} sent in ${seconds.toFixed(1)} s, ${served} served`;
  t.diagnostic(`${figures}; p99 of the others ${calmMs.toFixed(1)} ms calm, ${floodedMs.toFixed(1)} ms flooded`);
  assert.ok(served <= 2_000 + 1_000 * seconds + 1_500, `beyond the rate: ${figures}`); // burst, rate, one read of the socket
  assert.ok(floodedMs < 150 + 5 * calmMs, `p99 of the others went from ${calmMs} to ${floodedMs} ms`);
});

test('a socket from a page of another site is refused', bounded, async (t) => {
  const server = await startMonitor(t);
  const { host: name } = new URL(server.url);
  for (const headers of [{ origin: 'http://evil.example' }, { origin: 'null' }, { host: 'evil.example' }])
    await assert.rejects(
      connectRaw(t, server.url, { extraHeaders: headers }),
      /websocket error/,
      JSON.stringify(headers),
    );
  assert.ok((await connectRaw(t, server.url, { extraHeaders: { origin: `http://${name}` } })).nonce);
  assert.ok(parseJoinUrl(server.joinUrl).token);
});
