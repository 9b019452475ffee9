// The page's pure parts: which stage a newcomer gets, what a run's events add up to, what the log says.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { peerIdSchema, parseUid } from '../../runtime/wire/ids.ts';
import type { MeshRecord } from '../../runtime/wire/records.ts';
import { chooseStage, freeUid, knownStages } from '../../web/choose-stage.ts';
import { logLine } from '../../web/event-text.ts';
import { bytes, duration, plainText, rate } from '../../web/format.ts';
import { parseRunEvent, type RunEvent } from '../../web/published.ts';
import { newestRun, withEvent, type RunView } from '../../web/run-view.ts';

const peer = peerIdSchema.parse('A'.repeat(43));
const times = { peer, issuedAt: 1, expiresAt: 2 };

function records(uids: string[], runs: { name: string; stages: string[]; version: number; issuedAt?: number }[] = []) {
  const all: MeshRecord[] = [
    ...uids.map((uid): MeshRecord => {
      const rest = {
        addresses: [],
        device: '',
        isSoftware: false,
        samplesPerSecond: 0,
        load: 0,
        isPaused: false,
        run: null,
      };
      return { kind: 'stage', name: parseUid(uid).uid, host: 'node', ...rest, ...times };
    }),
    ...runs.map((run): MeshRecord => {
      return { kind: 'run', subversion: 0, mode: 'sync', policy: 'all', model: '{}', ...times, ...run };
    }),
  ];
  return new Map(all.map((record) => [record.name, record]));
}

test('a newcomer helps where the fewest replicas are', () => {
  const run = { name: 'run/a', stages: ['head', 'body', 'tail'], version: 3 };
  const choose = (...args: Parameters<typeof records>) => chooseStage(records(...args)).stage;
  assert.equal(choose([]), 'front');
  assert.equal(choose(['front.0.0.0']), 'back');
  assert.equal(choose(['front.0.0.0', 'back.0.0.0']), 'front');
  assert.equal(choose([], [run]), 'head');
  assert.equal(choose(['head.3.0.0', 'tail.3.0.0', 'body.2.0.0'], [run]), 'body');
  assert.equal(choose([], [run, { name: 'run/b', stages: ['whole'], version: 1, issuedAt: 9 }]), 'whole');
  assert.deepEqual(chooseStage(records(['head.3.0.0'], [run])), {
    stage: 'body',
    version: 3,
    subversion: 0,
    replicas: 0,
  });
});

test('a free UID is one that nobody holds', () => {
  const held = records(['front.0.0.0', 'front.0.1.0', 'front.0.3.0', 'front.1.2.0']);
  const choice = { stage: 'front', version: 0, subversion: 0 };
  assert.equal(freeUid(held, choice, new Set()), 'front.0.2.0');
  assert.equal(freeUid(held, choice, new Set(['front.0.2.0'])), 'front.0.4.0');
  assert.equal(freeUid(held, choice, new Set(), 3), 'front.0.4.0');
  assert.deepEqual(
    knownStages(held).map(({ stage, version, replicas }) => [stage, version, replicas]),
    [
      ['front', 0, 3],
      ['front', 1, 1],
    ],
  );
});

const at = (event: object, time: number): RunEvent => {
  const full = { kind: '', publisher: peer, at: time, ...event };
  const parsed = parseRunEvent(full);
  assert.ok(parsed, JSON.stringify(event));
  return parsed;
};
const progress = (run: string, step: number, loss: number, time = step) =>
  at(
    {
      ...{ kind: 'run.progress', run, epoch: 1, epochs: 1, step, steps: 3_000, loss },
      ...{ samplesPerSecond: 10, peers: 2, trainers: 1, etaSeconds: 5 },
    },
    time,
  );

test("a run's events add up", () => {
  let runs: ReadonlyMap<string, RunView> = new Map();
  const take = (event: RunEvent): void => {
    runs = withEvent(runs, event);
  };
  take(at({ kind: 'run.waiting', run: 'a', missing: ['front'] }, 1));
  assert.deepEqual(newestRun(runs)?.status, { kind: 'waiting', missing: ['front'] });
  for (let step = 1; step <= 2_500; step += 1) take(progress('a', step, 1 / step));
  take(progress('a', 7, 99, 2_501)); // late: not a point of the curve
  const curve = runs.get('a')?.curve;
  assert.ok(curve && curve.steps.length <= 1_000 && curve.steps.length === curve.losses.length);
  assert.ok(curve.steps.every((step, i) => i === 0 || step > (curve.steps[i - 1] ?? 0)));
  assert.equal(curve.steps.at(-1), 2_500);

  take(progress('b', 1, 1, 10));
  assert.equal(newestRun(runs)?.run, 'a', 'the one that was heard of last');
  take(at({ kind: 'run.failed', run: 'a', message: 'm', fix: 'f' }, 3_000));
  assert.equal(newestRun(runs)?.run, 'b', 'a run that goes on comes before one that ended later');
  for (let i = 0; i < 50; i += 1) take(progress(`many-${i}`, 1, 1, 4_000 + i));
  assert.ok(runs.size <= 12 && runs.has('many-49') && !runs.has('b'));
});

test('events that break their schema are left out', () => {
  const event = { kind: 'run.progress', publisher: peer, at: 1, run: 'a' };
  assert.equal(parseRunEvent(event), null);
  assert.equal(parseRunEvent({ ...event, kind: 'constructor' }), null);
  assert.equal(logLine({ kind: 'toString', publisher: peer, at: 1 } as never, 0), null);
  assert.equal(logLine({ kind: 'link.up', publisher: peer, at: 1 } as never, 0)?.text, 'AAAAAAAA reached ? over ?');
  assert.equal(logLine({ kind: 'peer.joined', role: 'observer', publisher: 'monitor', at: 1 } as never, 0), null);
});

test('figures are short, and text of strangers is plain', () => {
  assert.deepEqual([0, 999, 1_000, 12_345_678].map(bytes), ['0 B', '999 B', '1.00 kB', '12.3 MB']);
  assert.deepEqual([0, 42.345, 1234.5].map(rate), ['0.0', '42.3', '1,235']);
  assert.deepEqual([3, 120, 7_260, Infinity, -1].map(duration), ['3 s', '2 min', '2 h 1 min', '–', '–']);
  assert.equal(plainText('a\u202Eb\u0000c', 10), 'a b c');
});
