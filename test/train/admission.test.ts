// Who is taken into a run, when, and with whose state: the real Admission and Roster against replicas that are played here.
import assert from 'node:assert/strict';
import test from 'node:test';
import { MeshError } from '../../runtime/errors.ts';
import type { MeshEvent } from '../../runtime/events.ts';
import type { Ask } from '../../runtime/mesh/ask.ts';
import { Admission } from '../../runtime/train/admission.ts';
import { parseRunConfig, planStages } from '../../runtime/train/config.ts';
import type { Resumed } from '../../runtime/train/session-options.ts';
import { Roster } from '../../runtime/train/roster.ts';
import { makeSchedule } from '../../runtime/train/schedule.ts';
import { parseUid, peerIdSchema, runIdSchema, type PeerId } from '../../runtime/wire/ids.ts';
import type { MeshRecord } from '../../runtime/wire/records.ts';
import { sleep } from '../support/training.ts';

const peer = (letter: string): PeerId => peerIdSchema.parse(letter.repeat(43));

/** What one replica does when it is asked; its calls are listed. */
interface Played {
  step: number;
  isBuilt: boolean;
  calls: string[];
  before: (kind: string) => Promise<void>;
}

class Play {
  readonly #records = new Map<string, MeshRecord>();
  readonly replicas = new Map<PeerId, Played>();
  readonly events: MeshEvent[] = [];
  readonly connected = new Set<PeerId>();
  readonly roster: Roster;
  readonly admission: Admission;

  constructor(mode: 'sync' | 'async', patienceMs = 20_000, resumed?: Resumed) {
    const config = parseRunConfig({ mode, patienceMs });
    const plans = planStages(config);
    this.roster = new Roster({
      stages: plans.map((plan) => plan.name),
      version: 0,
      subversion: 0,
      now: () => performance.now(),
    });
    this.admission = new Admission({
      run: runIdSchema.parse('r'),
      config,
      plans,
      roster: this.roster,
      ask: this.#ask,
      isConnected: (id) => this.connected.has(id),
      emit: (event) => void this.events.push(event),
      schedule: makeSchedule({ rows: 1, batch: 1, microbatch: 1, epochs: 1, order: () => new Uint32Array(1) }),
      batchOf: () => assert.fail('nothing is trained here'),
      targetsPerRow: 1,
      resumed,
      signal: new AbortController().signal,
    });
  }

  come(name: string, letter: string, isPaused = false): Played {
    const id = peer(letter);
    const played = this.replicas.get(id) ?? { step: 0, isBuilt: false, calls: [], before: () => Promise.resolve() };
    this.replicas.set(id, played);
    const life = { issuedAt: 0, expiresAt: 1 };
    const uid = parseUid(name).uid;
    this.#records.set(name, {
      kind: 'stage', name: uid, peer: id, addresses: [], host: 'node', device: '', isSoftware: true,
      samplesPerSecond: 0, load: 0, isPaused, run: null, ...life,
    }); // prettier-ignore
    this.#update();
    return played;
  }

  go(name: string): void {
    this.#records.delete(name);
    this.#update();
  }

  stateOf(name: string): string | undefined {
    return this.roster.byUid(name)?.state;
  }

  #update(): void {
    this.roster.update(new Map(this.#records), (id) => this.connected.has(id));
  }

  readonly #ask = (async (replica: { uid: string; peer: PeerId }, kind: string, body: { from?: { peer: PeerId } }) => {
    const played = this.replicas.get(replica.peer);
    assert.ok(played);
    played.calls.push(kind);
    await played.before(kind);
    const isFront = replica.uid.startsWith('front');
    const info = { inputShape: [isFront ? 784 : 64], outputShape: [isFront ? 64 : 10] };
    const isNew = !played.isBuilt;
    played.isBuilt = true;
    if (kind === 'stage.adopt') played.step = this.replicas.get(body.from?.peer ?? peer('x'))?.step ?? NaN;
    return { body: { info, step: played.step, isNew }, tensors: new Map() };
  }) as unknown as Ask;
}

const away = (): Promise<void> => Promise.reject(new MeshError('unreachable', 'It is away.', 'Wait.'));

test('those who are there at the start are active without adopting; a newcomer takes over the state', async () => {
  const play = new Play('sync');
  const [front, back] = [play.come('front.0.0.0', 'a'), play.come('back.0.0.0', 'b')];
  await play.admission.ready(0);
  assert.deepEqual([front.calls, back.calls], [['stage.open'], ['stage.open']]);
  front.step = back.step = 3;
  const late = play.come('front.0.1.0', 'c');
  await play.admission.ready(3); // starts to build it beside training
  await sleep(20);
  await play.admission.ready(3);
  assert.deepEqual([play.stateOf('front.0.1.0'), late.calls, late.step], ['active', ['stage.open', 'stage.adopt'], 3]);
});

test('a newcomer that does not answer holds nobody up', async () => {
  const play = new Play('sync');
  const front = play.come('front.0.0.0', 'a');
  play.come('back.0.0.0', 'b');
  await play.admission.ready(0);
  front.step = 1;
  play.come('front.0.1.0', 'c').before = () => new Promise(() => undefined);
  const started = performance.now();
  for (let i = 0; i < 20; i += 1) await play.admission.ready(1);
  assert.ok(performance.now() - started < 500);
  assert.notEqual(play.stateOf('front.0.1.0'), 'active');
});

test('async: whoever did not get the state never becomes active with weights of its own', async () => {
  const play = new Play('async');
  play.come('front.0.0.0', 'a');
  play.come('back.0.0.0', 'b');
  await play.admission.ready(0);
  const late = play.come('front.0.1.0', 'c');
  late.before = (kind) => (kind === 'stage.adopt' ? sleep(30).then(away) : Promise.resolve());
  for (let i = 0; i < 40; i += 1) {
    await play.admission.ready(1);
    await sleep(10);
    assert.notEqual(play.stateOf('front.0.1.0'), 'active');
  }
  assert.ok(late.calls.includes('stage.adopt'));
});

test('async: one that was slow to build before the start adopts like any newcomer', async () => {
  const play = new Play('async');
  play.come('front.0.0.0', 'a');
  play.come('back.0.0.0', 'b');
  const slow = play.come('front.0.1.0', 'c');
  const built = Promise.withResolvers<void>();
  slow.before = (kind) => (kind === 'stage.open' ? built.promise : Promise.resolve());
  await play.admission.ready(0);
  assert.notEqual(play.stateOf('front.0.1.0'), 'active');
  built.resolve();
  await sleep(20);
  await play.admission.ready(1);
  await sleep(20);
  assert.deepEqual([play.stateOf('front.0.1.0'), slow.calls], ['active', ['stage.open', 'stage.adopt']]);
});

test('the only holder of a stage blinks while an empty newcomer is there: it is waited for, then both are used', async () => {
  const play = new Play('sync');
  const front = play.come('front.0.0.0', 'a');
  const back = play.come('back.0.0.0', 'b');
  await play.admission.ready(0);
  front.step = back.step = 5;
  front.before = away;
  await play.admission.probe(5);
  assert.equal(play.stateOf('front.0.0.0'), 'out');
  play.come('front.0.1.0', 'c');
  setTimeout(() => {
    front.before = () => Promise.resolve();
  }, 600);
  await play.admission.ready(5);
  assert.equal(play.stateOf('front.0.0.0'), 'active');
  await play.admission.ready(5);
  assert.equal(play.stateOf('front.0.1.0'), 'active');
});

test('a replica that pauses is left out at once and is back at once when its record says so', async () => {
  const play = new Play('sync');
  const front = play.come('front.0.0.0', 'a');
  const back = play.come('back.0.0.0', 'b');
  await play.admission.ready(0);
  front.step = back.step = 2;
  play.come('front.0.0.0', 'a', true);
  assert.equal(play.stateOf('front.0.0.0'), 'out');
  setTimeout(() => play.come('front.0.0.0', 'a'), 100);
  await play.admission.ready(2);
  assert.deepEqual([play.stateOf('front.0.0.0'), front.calls], ['active', ['stage.open', 'stage.open']]);
});

test('one that lost its state (a lost device, another process) is found out and adopts', async () => {
  const play = new Play('sync');
  const [first, second] = [play.come('front.0.0.0', 'a'), play.come('front.0.1.0', 'c')];
  const back = play.come('back.0.0.0', 'b');
  await play.admission.ready(0);
  first.step = second.step = back.step = 4;
  Object.assign(first, { isBuilt: false, step: 0 });
  await play.admission.probe(4);
  assert.equal(play.stateOf('front.0.0.0'), 'out');
  await sleep(1_100); // one that dropped out is asked again after a second
  await play.admission.ready(4);
  await sleep(20);
  await play.admission.ready(4);
  assert.deepEqual([play.stateOf('front.0.0.0'), first.step], ['active', 4]);
});

test('at step 0 of a run that began with other weights than the seed, one built anew there adopts', async () => {
  const play = new Play('sync', 20_000, { step: 0, lossScale: null, stateOf: () => Promise.resolve(new Map()) });
  const first = play.come('front.0.0.0', 'a');
  play.come('front.0.1.0', 'c');
  play.come('back.0.0.0', 'b');
  await play.admission.ready(0);
  first.isBuilt = false;
  await play.admission.probe(0);
  assert.equal(play.stateOf('front.0.0.0'), 'out');
  await sleep(1_100); // one that dropped out is asked again after a second
  await play.admission.ready(0);
  await sleep(20);
  await play.admission.ready(0);
  assert.deepEqual([play.stateOf('front.0.0.0'), first.calls.at(-1)], ['active', 'stage.adopt']);
});

test('one with too little memory ends no run while another replica can take its stage', async () => {
  const play = new Play('sync', 2_000);
  const small = play.come('front.0.0.0', 'a');
  small.before = () => Promise.reject(new MeshError('out-of-memory', 'Too large.', 'Lend more.'));
  play.come('front.0.1.0', 'c');
  await assert.rejects(play.admission.ready(0), (error: MeshError) => error.code === 'no-replica');
  assert.ok(small.calls.length > 1, 'it was asked again');
  const alone = new Play('sync', 2_000);
  alone.come('front.0.0.0', 'a').before = small.before;
  await assert.rejects(alone.admission.ready(0), (error: MeshError) => error.code === 'out-of-memory');
});

test('patience ends with what to do', async () => {
  const play = new Play('sync', 300);
  play.come('back.0.0.0', 'b');
  await assert.rejects(
    play.admission.ready(0),
    (error: MeshError) => error.code === 'no-replica' && /--stage front\.0\.0\.0/.test(error.fix),
  );
});
