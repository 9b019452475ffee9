// Who is in a run, according to the directory: joins, leaves, one that takes another's name, other versions, a lost monitor.
import assert from 'node:assert/strict';
import test from 'node:test';
import fc from '../support/fast-check.ts';
import { Roster, type Member } from '../../runtime/train/roster.ts';
import { parseUid, peerIdSchema, type PeerId } from '../../runtime/wire/ids.ts';
import type { MeshRecord } from '../../runtime/wire/records.ts';

const peer = (letter: string): PeerId => peerIdSchema.parse(letter.repeat(43));
const [A, B, C] = [peer('a'), peer('b'), peer('c')];
const record = (uid: string, of: PeerId, samplesPerSecond = 0): MeshRecord => ({
  kind: 'stage',
  name: parseUid(uid).uid,
  peer: of,
  addresses: [],
  host: 'node',
  device: 'fake',
  isSoftware: true,
  samplesPerSecond,
  load: 0,
  isPaused: false,
  run: null,
  issuedAt: 0,
  expiresAt: 1,
});
const view = (...records: MeshRecord[]): Map<string, MeshRecord> => new Map(records.map((one) => [one.name, one]));
const never = (): boolean => false;
const uids = (members: readonly Member[]): string[] => members.map(({ replica }) => replica.uid);

/** Stages for which nobody is there, in step with the run or not. */
const missing = (roster: Roster): string[] =>
  ['front', 'back'].filter((_, stage) =>
    (['new', 'active', 'out'] as const).every((state) => roster.members(state, stage).length === 0),
  );

function make(): { roster: Roster; clock: { now: number } } {
  const clock = { now: 0 };
  return { roster: new Roster({ stages: ['front', 'back'], version: 1, subversion: 2, now: () => clock.now }), clock };
}

test('those of its stages, version and subversion join; others do not', () => {
  const { roster } = make();
  assert.deepEqual(missing(roster), ['front', 'back']);
  const others = ['front.0.0.2', 'front.1.1.0', 'middle.1.0.2', 'front.2.0.2'].map((uid) => record(uid, B));
  roster.update(view(record('front.1.10.2', A), record('front.1.9.2', C), ...others), never);
  assert.deepEqual(uids(roster.members('new')), ['front.1.9.2', 'front.1.10.2'], 'in numeric order');
  assert.deepEqual(missing(roster), ['back']);
  assert.deepEqual(uids(roster.candidates()), ['front.1.9.2', 'front.1.10.2']);
  assert.equal(roster.peers(), 0, 'nobody is active yet');
});

test('an active member stays through renewals, whose figures count', () => {
  const { roster } = make();
  roster.update(view(record('front.1.0.2', A), record('back.1.0.2', A)), never);
  for (const member of roster.candidates()) roster.setActive(member);
  const [front] = roster.members('active', 0);
  roster.update(view(record('front.1.0.2', A, 99), record('back.1.0.2', A)), never);
  assert.equal(roster.members('active', 0)[0], front);
  assert.equal(front?.samplesPerSecond, 99);
  assert.equal(roster.peers(), 1, 'one peer with two stages');
  assert.deepEqual(roster.active().map(uids), [['front.1.0.2'], ['back.1.0.2']]);
});

test('a member whose record goes leaves, and its peer is told; one whose link lives has only lost the monitor', () => {
  const { roster } = make();
  const [front, back] = [record('front.1.0.2', A), record('back.1.0.2', B)];
  roster.update(view(front, back), never);
  for (const member of roster.candidates()) roster.setActive(member);
  assert.deepEqual(roster.update(view(back), (one) => one === A), [A]); // prettier-ignore
  assert.deepEqual(roster.active().map(uids), [['front.1.0.2'], ['back.1.0.2']]);
  assert.deepEqual(roster.update(view(back), never), [A]);
  assert.deepEqual(roster.active().map(uids), [[], ['back.1.0.2']]);
  assert.deepEqual(roster.update(view(back), never), []);
  roster.update(view(back, front), never);
  assert.deepEqual(uids(roster.members('new')), ['front.1.0.2'], 'who comes back is new');
});

test('a newcomer that is not active yet leaves with its record, whatever its link', () => {
  const { roster } = make();
  roster.update(view(record('front.1.0.2', A)), never);
  assert.deepEqual(roster.update(new Map(), () => true), [A]); // prettier-ignore
  assert.deepEqual(missing(roster), ['front', 'back']);
});

test('another peer under the same UID is a newcomer that holds nothing', () => {
  const { roster } = make();
  roster.update(view(record('front.1.0.2', A)), never);
  const [old] = roster.candidates();
  assert.ok(old);
  roster.setActive(old);
  roster.update(view(record('front.1.0.2', B)), () => true);
  assert.deepEqual(roster.members('active'), []);
  assert.equal(roster.members('new')[0]?.replica.peer, B);
  assert.notEqual(roster.byUid('front.1.0.2'), old);
});

test('one that dropped out is tried again after a while', () => {
  const { roster, clock } = make();
  roster.update(view(record('front.1.0.2', A)), never);
  const [member] = roster.candidates();
  assert.ok(member);
  member.outstanding = 3;
  roster.setOut(member);
  assert.deepEqual([roster.candidates(), member.outstanding], [[], 0]);
  assert.deepEqual(missing(roster), ['back'], 'it is there, if not in step');
  clock.now = 10_000;
  assert.deepEqual(roster.candidates(), [member]);
});

test('a change wakes who waits for it; without one the time does', { timeout: 5_000 }, async () => {
  const { roster } = make();
  const waiting = [roster.change(60_000), roster.change(60_000)];
  roster.update(view(record('front.1.0.2', A)), never);
  await Promise.all(waiting);
  await roster.change(5);
});

test('whatever comes and goes, it holds exactly those of the last view and connected active ones', () => {
  const names = ['front.1.0.2', 'front.1.1.2', 'back.1.0.2', 'front.0.0.2'];
  const one = fc.record({ name: fc.constantFrom(...names), by: fc.constantFrom(A, B, C) });
  const event = fc.record({ view: fc.array(one, { maxLength: 4 }), connected: fc.subarray([A, B, C]), activate: fc.boolean() }); // prettier-ignore
  fc.assert(
    fc.property(fc.array(event, { maxLength: 8 }), (events) => {
      const { roster } = make();
      for (const { view: records, connected, activate } of events) {
        const activeBefore = new Map(
          roster.members('active').map(({ replica }) => [replica.uid as string, replica.peer]),
        );
        const now = view(...records.map(({ name, by }) => record(name, by)));
        roster.update(now, (id) => connected.includes(id));
        const wanted = new Map(
          [...now].filter(([name]) => name !== 'front.0.0.2').map(([name, { peer: by }]) => [name, by]),
        );
        for (const [uid, by] of activeBefore) if (!now.has(uid) && connected.includes(by)) wanted.set(uid, by);
        const all = [...roster.members('new'), ...roster.members('active')];
        assert.deepEqual(new Map(all.map(({ replica }) => [replica.uid as string, replica.peer])), new Map(wanted)); // prettier-ignore
        for (const { replica } of roster.members('active')) assert.equal(activeBefore.get(replica.uid), replica.peer);
        if (activate) for (const member of roster.candidates()) roster.setActive(member);
      }
    }),
  );
});

test('memory is that of the active peers, each counted once, as far as they tell', () => {
  const { roster } = make();
  const telling = (uid: string, of: PeerId, memoryBytes?: number): MeshRecord => ({
    ...record(uid, of),
    ...(memoryBytes === undefined ? {} : { memoryBytes }),
  });
  roster.update(view(telling('front.1.0.2', A), telling('back.1.0.2', B, 7)), never);
  assert.equal(roster.memoryBytes(), null, 'nobody is active yet');
  for (const member of roster.candidates()) roster.setActive(member);
  assert.equal(roster.memoryBytes(), 7);
  const both = [telling('front.1.0.2', A, 5), telling('back.1.1.2', A, 5), telling('back.1.0.2', B, 8)];
  roster.update(view(...both), never);
  for (const member of roster.candidates()) roster.setActive(member);
  assert.equal(roster.memoryBytes(), 13);
});
