// The directory, its rate limits and the peer's view of it, on a clock of their own: no sockets.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { MeshEvent } from '../../runtime/events.ts';
import { DirectoryView } from '../../runtime/mesh/directory-view.ts';
import { EventOutbox } from '../../runtime/mesh/event-outbox.ts';
import { formatJoinUrl, parseJoinUrl } from '../../runtime/mesh/join-url.ts';
import { peerIdSchema } from '../../runtime/wire/ids.ts';
import { RECORD_TTL_MS } from '../../runtime/wire/records.ts';
import { EventsFeed } from '../../signaling/events-feed.ts';
import { TokenBucket } from '../../signaling/rate.ts';
import { Directory, type Change } from '../../signaling/records.ts';
import { stageRecordOf } from './records.ts';

const ANN = peerIdSchema.parse('a'.repeat(43));
const BOB = peerIdSchema.parse('b'.repeat(43));
const signed = { payload: '{}', signature: 's'.repeat(86) };

function createDirectory() {
  const clock = { ms: 1_000_000 };
  const changes: Change[] = [];
  const directory = new Directory({ now: () => clock.ms, onChange: (change) => changes.push(change) });
  const announce = (name: string, peer = ANN, issuedAt = clock.ms) =>
    directory.announce(stageRecordOf(peer, name, issuedAt), signed);
  const names = (prefix: string) => directory.find(prefix).map(({ record }) => record.name as string);
  return { clock, changes, directory, announce, names };
}

test('records are found by prefix until they expire', () => {
  const { clock, changes, directory, announce, names } = createDirectory();
  for (const name of ['front.0.0.0', 'front.0.1.0', 'back.0.0.0']) assert.equal(announce(name).kind, 'stored');
  assert.deepEqual(names('front.'), ['front.0.0.0', 'front.0.1.0']);
  assert.deepEqual(names('front.0.1'), ['front.0.1.0']);
  assert.equal(names('').length, 3);
  clock.ms += RECORD_TTL_MS - 1;
  announce('back.0.0.0');
  clock.ms += 1;
  assert.deepEqual(names(''), ['back.0.0.0'], 'an expired record is not found even before the sweep');
  directory.sweep();
  assert.equal(directory.size, 1);
  assert.deepEqual(
    changes.filter((change) => change.kind === 'removed').map(({ name, reason }) => [name, reason]),
    [
      ['front.0.0.0', 'expired'],
      ['front.0.1.0', 'expired'],
    ],
  );
});

test('the newest record of a name wins, an equal or older one is a replay', () => {
  const { clock, changes, announce } = createDirectory();
  announce('front.0.0.0', ANN, clock.ms);
  for (const age of [0, 1, 5_000]) {
    const outcome = announce('front.0.0.0', ANN, clock.ms - age);
    assert.equal(outcome.kind === 'refused' && outcome.error.code, 'expired-record');
  }
  assert.equal(announce('front.0.0.0', ANN, clock.ms + 1).kind, 'stored');
  assert.deepEqual(
    changes.map((change) => change.kind === 'added' && change.isNew),
    [true, false],
  );
});

test('a UID has one live holder, and a second is told the next free one', () => {
  const { clock, announce, directory } = createDirectory();
  announce('front.0.0.0');
  announce('front.0.1.0');
  announce('front.0.3.0');
  const outcome = announce('front.0.0.0', BOB);
  assert.ok(outcome.kind === 'refused');
  assert.equal(outcome.error.code, 'busy');
  assert.match(outcome.error.fix, /front\.0\.2\.0/);
  directory.withdraw(BOB, 'front.0.0.0', 'withdrawn');
  assert.equal(directory.size, 3, 'only the holder withdraws');
  directory.dropPeer(ANN, 'gone');
  assert.equal(directory.size, 0);
  assert.equal(announce('front.0.0.0', BOB).kind, 'stored');
  clock.ms += RECORD_TTL_MS;
  assert.equal(announce('front.0.0.0', ANN).kind, 'stored', 'an expired holder is no holder');
});

test('a peer has a bounded number of records', () => {
  const { announce } = createDirectory();
  for (let index = 0; index < 256; index += 1) assert.equal(announce(`front.0.${index}.0`).kind, 'stored');
  const outcome = announce('front.0.256.0');
  assert.equal(outcome.kind === 'refused' && outcome.error.code, 'too-large');
  assert.equal(announce('back.0.0.0', BOB).kind, 'stored');
});

test('a bucket pauses the sender for exactly what it is over', () => {
  const clock = { ms: 0 };
  const bucket = new TokenBucket({ perSecond: 100, burst: 10, now: () => clock.ms });
  assert.equal(bucket.take(10), 0);
  assert.equal(bucket.take(5), 50);
  clock.ms += 50;
  assert.equal(bucket.take(0), 0);
  clock.ms += 60_000;
  assert.equal(bucket.take(11), 10, 'never more than the burst is saved up');
});

function createView() {
  const clock = { ms: 1_000_000 };
  const events: MeshEvent[] = [];
  const seen: string[][] = [];
  const view = new DirectoryView({ now: () => clock.ms, emit: (event) => events.push(event) });
  view.watch('front.', (records) => seen.push([...records.keys()])).start();
  seen.length = 0; // the first state, empty
  const apply = (name: string, peer = ANN, fields = {}) => {
    view.apply(stageRecordOf(peer, name, clock.ms, fields));
    view.notify();
  };
  const sweep = () => {
    view.sweep();
    view.notify();
  };
  return { clock, events, seen, view, apply, sweep };
}

test('the view tells of news, not of renewals, and only what is watched', () => {
  const { clock, seen, apply, events } = createView();
  apply('front.0.0.0');
  apply('back.0.0.0');
  clock.ms += 3_000;
  apply('front.0.0.0');
  assert.deepEqual(seen, [['front.0.0.0']]);
  clock.ms += 3_000;
  apply('front.0.0.0', ANN, { load: 3 });
  assert.equal(seen.length, 2);
  apply('front.0.0.0', BOB);
  assert.equal(seen.length, 3);
  assert.deepEqual(
    events.map((event) => event.kind),
    ['record.added', 'record.removed', 'record.added'],
  );
});

test('the view drops an expired record while it is connected', () => {
  const { clock, seen, apply, sweep } = createView();
  apply('front.0.0.0');
  clock.ms += RECORD_TTL_MS;
  sweep();
  assert.equal(seen.length, 1, 'the monitor has a second to say so itself');
  clock.ms += 1_000;
  sweep();
  assert.deepEqual(seen.at(-1), []);
});

test('the view keeps everything while the monitor is away and forgets what does not come back', () => {
  const { clock, seen, view, apply, sweep } = createView();
  apply('front.0.0.0');
  apply('front.0.1.0');
  view.lost();
  clock.ms += 600_000;
  sweep();
  assert.deepEqual(seen.at(-1), ['front.0.0.0', 'front.0.1.0']);
  view.joined();
  sweep();
  apply('front.0.1.0');
  clock.ms += RECORD_TTL_MS - 1;
  apply('front.0.1.0');
  sweep();
  assert.deepEqual(seen.at(-1), ['front.0.0.0', 'front.0.1.0']);
  clock.ms += 1;
  sweep();
  assert.deepEqual(seen.at(-1), ['front.0.1.0']);
});

test('a listener that throws does not stop the view', () => {
  const { view, events, apply, seen } = createView();
  view
    .watch('', () => {
      throw new Error('broken page');
    })
    .start();
  apply('front.0.0.0');
  apply('front.0.1.0');
  assert.equal(seen.length, 2);
  assert.equal(events.filter((event) => event.kind === 'log').length, 3);
});

test('waiting events are bounded: the oldest are dropped, and counted', () => {
  const outbox = new EventOutbox();
  for (let index = 0; index < 700; index += 1) outbox.add([{ kind: 'log', level: 'info', message: String(index) }]);
  outbox.add([{ kind: 'log', level: 'info', message: 'x'.repeat(100_000) }]);
  assert.equal(outbox.takeDropped(), 201);
  const first = outbox.take();
  assert.equal(first?.length, 256);
  assert.deepEqual(first?.[0], { kind: 'log', level: 'info', message: '200' });
  assert.equal(outbox.take()?.length, 244);
  assert.equal(outbox.take(), null);
});

test('the feed keeps the newest 500 events and stamps who published them', () => {
  const feed = new EventsFeed({ now: () => 42 });
  for (let index = 0; index < 600; index += 1) feed.add('ann', [{ kind: 'log', index, publisher: 'mallory', at: 1 }]);
  const seen: object[] = [];
  assert.equal(feed.newest().length, 500);
  assert.deepEqual(feed.newest()[0], { kind: 'log', index: 100, publisher: 'ann', at: 42 });
  const stop = feed.observe((events) => seen.push(...events));
  feed.add('bob', [{ kind: 'log' }]);
  feed.flush();
  stop();
  feed.add('bob', [{ kind: 'log' }]);
  feed.close();
  assert.deepEqual(seen, [{ kind: 'log', publisher: 'bob', at: 42 }]);
});

test('a join link says what is wrong with it, and never the token', () => {
  const certificateSha256 = 'ab'.repeat(32);
  const target = { url: 'https://192.0.2.1:50000', token: 'secret-token', certificateSha256 };
  assert.deepEqual(parseJoinUrl(formatJoinUrl(target)), target);
  assert.deepEqual(parseJoinUrl(' http://localhost:50000/#token=secret-token '), {
    url: 'http://localhost:50000',
    token: 'secret-token',
  });
  for (const text of [
    'localhost:50000',
    'ftp://localhost/#token=secret-token',
    'http://localhost:50000',
    'http://localhost:50000/#token=sec%20ret-token',
    'https://localhost:50000/#token=secret-token&cert=12',
  ])
    assert.throws(
      () => parseJoinUrl(text),
      (error: Error) => 'code' in error && error.code === 'usage' && !error.message.includes('secret'),
      text,
    );
});
