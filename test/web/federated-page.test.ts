// The page's pure parts for federated runs: which places are free, what the events of workers add up to, what the log says of them.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from '../support/fast-check.ts';
import { parseWorkerConfig } from '../../runtime/federated/config.ts';
import { parseUid, peerIdSchema } from '../../runtime/wire/ids.ts';
import type { MeshRecord } from '../../runtime/wire/records.ts';
import { chooseStage, freeUid, knownStages } from '../../web/choose-stage.ts';
import { logLine } from '../../web/event-text.ts';
import {
  newestFederation,
  withWorkerEvent,
  workersOf,
  worstClass,
  type FederatedViews,
} from '../../web/federated-view.ts';
import {
  federationReader,
  nextFree,
  placeFor,
  problemOf,
  runOfPlace,
  type WantedPlace,
} from '../../web/federations.ts';
import { mebibytes } from '../../web/format.ts';
import { parseWorkerEvent, type WorkerEvent } from '../../web/published.ts';
import { createState } from '../../web/state.ts';

const peer = peerIdSchema.parse('A'.repeat(43));
const stranger = peerIdSchema.parse('B'.repeat(43));
const ANY: WantedPlace = { run: null, worker: null };

const configOf = (fields: object): string => JSON.stringify(parseWorkerConfig({ worker: 0, workers: 3, ...fields }));

function recordOf(uid: string, federation?: string): MeshRecord {
  return {
    ...{ kind: 'stage', name: parseUid(uid).uid, peer, host: 'node', addresses: [], device: '', isSoftware: false },
    ...{ samplesPerSecond: 0, load: 0, isPaused: false, run: null, issuedAt: 1, expiresAt: 2 },
    ...(federation === undefined ? {} : { federation }),
  };
}

const directory = (...all: MeshRecord[]): Map<string, MeshRecord> => new Map(all.map((one) => [one.name, one]));
const workerRecord = (worker: number, fields: object = {}): MeshRecord =>
  recordOf(`worker.0.${worker}.0`, configOf({ ...fields, worker }));

test('replicas of a federated worker are no stages to lend', () => {
  const records = directory(recordOf('back.0.0.0'), workerRecord(0), workerRecord(1));
  assert.deepEqual(
    knownStages(records).map(({ stage }) => stage),
    ['back'],
  );
  assert.equal(chooseStage(records).stage, 'front');
  // One that cannot be read is none either, and its name stays taken.
  const unread = directory(recordOf('front.0.0.0', '}'), recordOf('front.0.1.0'));
  assert.deepEqual(
    knownStages(unread).map(({ replicas }) => replicas),
    [1],
  );
  assert.equal(freeUid(unread, { stage: 'front', version: 0, subversion: 0 }, new Set()), 'front.0.2.0');

  const state = createState();
  state.records.value = records;
  assert.deepEqual(
    state.stages.value.map(({ name }) => name),
    ['back.0.0.0'],
  );
  assert.equal(state.workers.value.length, 2);
});

test('the place of a newcomer among the workers', () => {
  const read = federationReader();
  const records = directory(workerRecord(1, { run: 'one' }), recordOf('back.0.0.0'));
  const [one] = read(records);
  assert.ok(one);
  assert.deepEqual([one.run, one.workers, one.present, one.free, one.problem], ['one', 3, 1, [0, 2], null]);
  const place = (wanted: Partial<WantedPlace>) => placeFor(read(records), { ...ANY, ...wanted })?.uid;
  assert.equal(place({}), 'worker.0.0.0');
  assert.equal(place({ worker: 2 }), 'worker.0.2.0');
  assert.equal(place({ worker: 1 }), 'worker.0.2.0', 'a place that is held gives way');
  assert.equal(place({ worker: 7 }), 'worker.0.0.0');
  assert.equal(place({ run: 'one' }), 'worker.0.0.0');
  assert.equal(place({ run: 'two' }), undefined);
  assert.equal(nextFree(one, 0, new Set([0])), 2);
  assert.equal(nextFree(one, 0, new Set([0, 2])), null);
  assert.equal(placeFor(read(directory(workerRecord(0), workerRecord(1), workerRecord(2))), ANY), null);

  assert.equal(runOfPlace([one], 'worker.0.2.0'), 'one');
  for (const uid of ['worker.0.3.0', 'worker.1.0.0', 'front.0.0.0']) assert.equal(runOfPlace([one], uid), null);
});

test('what strangers say of a run', () => {
  const read = federationReader();
  const text = configOf({ run: 'one', worker: 0 });
  const lies = [
    recordOf('worker.0.1.0', text), // of another place than its own
    recordOf('worker.0.2.0', configOf({ run: 'one', worker: 2, batch: 7 })), // not what the others say
    recordOf('front.0.0.0', '{"run":"x"}'),
    recordOf('front.0.1.0', '[]'),
    recordOf('front.0.2.0', 'null'),
    recordOf('front.0.3.0', '{'),
    recordOf('front.0.4.0', text.replace('"worker":0', '"worker":9')),
  ];
  const [one, ...more] = read(directory(recordOf('worker.0.0.0', text), ...lies, workerRecord(3, { workers: 4 })));
  assert.deepEqual([one?.run, one?.free, one?.text], ['federated', [], configOf({ worker: 3, workers: 4 })]);
  assert.deepEqual([more[0]?.run, more[0]?.free, more[0]?.text, more.length], ['one', [], text, 1]);

  // No configuration is looked at further than it is shown: one of a hundred thousand workers costs nothing.
  const many = text.replace('"workers":3', '"workers":100000').replace('"ring"', '"full"');
  const [crowd] = read(directory(recordOf('worker.0.0.0', many)));
  assert.ok(crowd);
  assert.equal(crowd.free.length, 100);
  assert.match(crowd.problem?.message ?? '', /up to 1000 workers; this one has 100000/);

  fc.assert(
    fc.property(fc.oneof(fc.string(), fc.json()), (junk) => {
      assert.deepEqual(read(directory(recordOf('worker.0.0.0', junk))), []);
    }),
  );
});

test('data that a tab cannot load are refused with what to do instead', () => {
  const idx = { images: 'a', labels: 'b' };
  assert.equal(problemOf({ workers: 3, data: 'fashion-mnist' }), null);
  for (const data of [{ cifar10: '/data' }, { name: 'own', train: idx, test: idx }, undefined]) {
    const problem = problemOf({ workers: 3, data });
    assert.match(problem?.message ?? '', /cannot read the data/);
    assert.match(problem?.fix ?? '', /node\/serve\.ts --join LINK --worker --config FILE/);
  }
  assert.match(problemOf({ workers: 3, data: { text: 'a.txt' } })?.message ?? '', /cannot read the text/);
});

const at = (event: object, time: number, publisher: string = peer): WorkerEvent => {
  const full = { kind: '', publisher, at: time, uid: 'worker.0.0.0', run: 'one', ...event };
  const parsed = parseWorkerEvent(full);
  assert.ok(parsed, JSON.stringify(event));
  return parsed;
};
const ready = { kind: 'worker.ready', rows: 20, labels: [0.5, 0.5], neighbours: ['worker.0.1.0'] };
const progress = (step: number, more: object = {}): object => ({
  ...{ kind: 'worker.progress', step, steps: 300, loss: 1, samplesPerSecond: 9, rounds: 2, bytes: 5, etaSeconds: 1 },
  ...more,
});
const evaluated = (step: number, accuracy: number): object => ({
  ...{ kind: 'worker.evaluated', step, accuracy, perClassAccuracy: [1, accuracy], samples: 10 },
});
const done = {
  ...{ kind: 'worker.done', worker: 0, accuracy: 0.9, perClassAccuracy: [1, 0.8], steps: 300, rounds: 4, bytes: 9 },
  ...{ bytesIn: 1, bytesOut: 1, samplesPerSecond: 7, seconds: 3, model: '' },
};

test("a federated run's events add up", () => {
  let views: FederatedViews = new Map();
  const take = (event: WorkerEvent, holder: { peer: string; host: 'node' | 'browser' } | null = null): void => {
    views = withWorkerEvent(views, event, holder);
  };
  const worker = (uid = 'worker.0.0.0') => views.get('one')?.workers.get(uid);
  take(at(ready, 1));
  take(at({ kind: 'worker.waiting', missing: ['worker.0.1.0'] }, 2), { peer, host: 'browser' });
  assert.deepEqual([worker()?.status, worker()?.missing, worker()?.rows], ['waiting', ['worker.0.1.0'], 20]);
  take(at({ kind: 'worker.adopted', from: 'worker.0.1.0', steps: 40 }, 3));
  take(at(progress(10), 4), { peer, host: 'browser' });
  for (let step = 1; step <= 500; step += 1) take(at(evaluated(step, step / 1_000), 4));
  take(at(evaluated(7, 0.1), 5)); // late: not a point of the curve
  const curve = worker()?.curve;
  assert.ok(curve && curve.steps.length <= 200 && curve.steps.length === curve.accuracies.length);
  assert.ok(curve.steps.every((step, i) => i === 0 || step > (curve.steps[i - 1] ?? 0)));
  assert.equal(curve.steps.at(-1), 500);
  assert.equal(worker()?.host, 'browser');

  // Whoever holds the name speaks for it.
  take(at(progress(200), 6, stranger), { peer, host: 'browser' });
  assert.equal(worker()?.step, 10);
  take(at(done, 7));
  assert.deepEqual([worker()?.status, worker()?.step, worker()?.steps, worker()?.host], ['done', 300, 300, 'browser']);
  assert.deepEqual(worstClass(worker()?.perClassAccuracy ?? []), { label: 1, share: 0.8 });
  assert.equal(worstClass([]), null);

  // Another peer in its place begins with nothing, whether it was heard from the start or not.
  take(at(progress(3), 8, stranger));
  assert.deepEqual([worker()?.publisher, worker()?.accuracy, worker()?.host], [stranger, null, null]);

  take(at({ ...progress(1), uid: 'worker.0.10.0' }, 9));
  take(at({ ...progress(1), uid: 'worker.0.2.0' }, 9));
  const view = views.get('one');
  assert.ok(view);
  assert.deepEqual(
    workersOf(view).map(({ uid }) => uid),
    ['worker.0.0.0', 'worker.0.2.0', 'worker.0.10.0'],
  );

  take(at({ ...done, run: 'two' }, 20));
  assert.equal(newestFederation(views)?.run, 'one', 'a run that goes on comes before one that is done');
  for (let i = 0; i < 300; i += 1) take(at({ ...progress(1), uid: `worker.0.${i}.0` }, 30 + i));
  assert.equal(views.get('one')?.workers.size, 64);
  for (let i = 0; i < 9; i += 1) take(at({ ...progress(1), run: `many-${i}` }, 400 + i));
  assert.ok(views.size === 4 && views.has('many-8') && !views.has('one'));
});

test('events of workers that break their schema are left out; the log says what there is to say', () => {
  const event = { kind: 'worker.progress', publisher: peer, at: 1, uid: 'worker.0.0.0', run: 'one' };
  assert.equal(parseWorkerEvent(event), null);
  assert.equal(parseWorkerEvent({ ...event, ...evaluated(1, 2) }), null, 'more than all right');
  assert.equal(parseWorkerEvent({ ...event, kind: 'toString' }), null);
  const line = (fields: object) => logLine({ ...event, ...fields } as never, 0);
  assert.equal(line(ready)?.text, 'worker.0.0.0 has 20 rows of its own for one, and 1 neighbour');
  assert.equal(
    line({ kind: 'worker.ready', neighbours: 7 })?.text,
    'worker.0.0.0 has ? rows of its own for one, and 0 neighbours',
  );
  assert.equal(line({ kind: 'worker.waiting', missing: ['a', 'b'] })?.text, 'worker.0.0.0 waits for a and b');
  assert.equal(line({ kind: 'worker.waiting' })?.text, 'worker.0.0.0 waits for ?');
  assert.equal(line(done)?.text, 'worker.0.0.0 is done: 90.0 % right, 4 merges');
  assert.equal(line(progress(1)), null);
  const struck = { kind: 'peer.struck', peer: 'worker.0.1.0', offence: 'too-far', detail: '9 times', strikes: 2 };
  assert.deepEqual(
    [line(struck)?.text, line(struck)?.isWarning],
    ['worker.0.0.0 counts strike 2 against worker.0.1.0 (too-far): 9 times', true],
  );
  const banned = {
    kind: 'peer.banned',
    peer: stranger,
    offence: 'frozen',
    reason: 'no change',
    round: 3,
    seconds: 600,
  };
  assert.equal(line(banned)?.text, 'worker.0.0.0 leaves BBBBBBBB out for 10 min (frozen): no change');
  assert.equal(mebibytes(5 * 2 ** 19), '2.5 MiB');
});
