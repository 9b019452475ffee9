// kill -9 of peers and of the monitor in the middle of a run: every planned microbatch counts exactly once, the result is that of an
// undisturbed run, newcomers are used within seconds.
import assert from 'node:assert/strict';
import path from 'node:path';
import test from 'node:test';
import { parseRunConfig } from '../../runtime/train/config.ts';
import {
  assertClose,
  assertWeights,
  committedLosses,
  sleep,
  smallMnist,
  trainAlone,
  trainMeshed,
  type MeshedRun,
} from '../support/training.ts';
import { startMesh, TOKEN } from '../support/mesh.ts';
import { startNode, type Running } from '../support/processes.ts';

const KILLS = 10;
const ROWS = 6_400;
const SEED = Number(process.env.SKEIN_TEST_SEED ?? Date.now() % 100_000);
const UIDS = ['front.0.0.0', 'back.0.0.0', 'front.0.1.0', 'back.0.1.0'];

const config = (maxSteps: number): ReturnType<typeof parseRunConfig> =>
  parseRunConfig({
    batch: 64,
    microbatch: 16,
    epochs: 1_000,
    maxSteps,
    seed: 3,
    optimizer: { name: 'sgd', lr: 0.02, momentum: 0.9 },
  });

test(
  `kill -9 of a peer at ${KILLS} random moments of a sync run (SKEIN_TEST_SEED=${SEED})`,
  { timeout: 170_000 },
  async (t) => {
    const plan = config(1_400);
    const data = await smallMnist(plan, ROWS);
    const mesh = await startMesh(t);
    const peers = new Map<string, Running>();
    await Promise.all(UIDS.map(async (uid) => peers.set(uid, await mesh.serveReady([uid]))));
    const run = trainMeshed(plan, data, mesh.joinUrl);
    let isOver = false;
    const result = run.done.finally(() => (isOver = true));
    result.catch(() => undefined); // awaited below, after the killing
    await until(run, () => steps(run) > 0, 30_000, 'the first step');
    const random = generator(SEED);
    let killed = 0;
    for (; killed < KILLS; killed += 1) {
      await sleep(random() * 1_200);
      const uid = UIDS[Math.floor(random() * UIDS.length)] ?? 'front.0.0.0';
      const victim = peers.get(uid);
      assert.ok(victim);
      assert.equal(isOver, false, `the run ended after ${killed} kills already`);
      process.kill(victim.pid, 'SIGKILL');
      await victim.exit;
      const before = run.events.length;
      peers.set(uid, await mesh.serveReady([uid]));
      await until(
        run,
        () => run.events.slice(before).some((e) => e.kind === 'microbatch.done' && e.path.includes(uid)),
        5_000,
        `${uid} to be used again`,
      );
    }
    const { events, weights } = await result;
    t.diagnostic(`${events.filter((event) => event.kind === 'step.retried').length} steps were retried`);
    const alone = await trainAlone(plan, data);
    assertClose(committedLosses(events, plan, ROWS), alone.losses, 1e-3);
    assertWeights(weights, alone.weights, 1e-3);
  },
);

test('kill -9 of a peer in an async run loses no microbatch', { timeout: 120_000 }, async (t) => {
  const plan = { ...config(300), mode: 'async' as const, policy: 'routed' as const };
  const data = await smallMnist(plan, ROWS);
  const mesh = await startMesh(t);
  const peers = new Map<string, Running>();
  await Promise.all(UIDS.map(async (uid) => peers.set(uid, await mesh.serveReady([uid]))));
  const run = trainMeshed(plan, data, mesh.joinUrl);
  await until(run, () => run.events.some((event) => event.kind === 'microbatch.done'), 30_000, 'the first microbatch');
  for (const uid of ['front.0.1.0', 'back.0.0.0']) {
    await sleep(600);
    process.kill(peers.get(uid)?.pid ?? 0, 'SIGKILL');
    await peers.get(uid)?.exit;
    if (uid === 'front.0.1.0') await mesh.serveReady([uid]);
  }
  const { events } = await run.done;
  const done = events.flatMap((event) =>
    event.kind === 'microbatch.done' ? [`${event.key.step}.${event.key.microbatch}`] : [],
  );
  const planned = Math.ceil(64 / 16);
  assert.equal(new Set(done).size, done.length, 'none counts twice');
  const end = events.find((event) => event.kind === 'run.done');
  assert.equal(end?.appliedMicrobatches, end?.plannedMicrobatches);
  assert.equal(done.length, end?.plannedMicrobatches);
  assert.ok(done.length >= 300 * (planned - 1));
  assert.ok((end?.accuracy ?? 0) > 0.8, `accuracy ${end?.accuracy}`);
});

test(
  'kill -9 of the monitor: training goes on, and the restarted one knows every record within 5 s',
  { timeout: 120_000 },
  async (t) => {
    const plan = config(500);
    const data = await smallMnist(plan, ROWS);
    const mesh = await startMesh(t);
    await Promise.all(UIDS.map((uid) => mesh.serveReady([uid])));
    const run = trainMeshed(plan, data, mesh.joinUrl);
    await until(run, () => steps(run) > 20, 30_000, 'some steps');
    process.kill(mesh.monitor.pid, 'SIGKILL');
    await mesh.monitor.exit;
    const atKill = steps(run);
    await until(run, () => steps(run) > atKill + 50, 20_000, 'steps without a monitor');
    const second = startNode('signaling/main.ts', [
      '--port',
      String(mesh.port),
      '--state',
      path.join(mesh.directory, 'state'),
      '--token',
      TOKEN,
    ]);
    t.after(() => second.kill());
    await second.event('monitor.ready');
    const names = new Set<string>();
    const restarted = Date.now();
    while (names.size < UIDS.length && Date.now() - restarted < 5_000) {
      for (const event of second.events)
        if (event.kind === 'record.added' && UIDS.includes(event.name)) names.add(event.name);
      await sleep(50);
    }
    assert.deepEqual([...names].sort(), [...UIDS].sort());
    const { events } = await run.done;
    committedLosses(events, plan, ROWS);
    assert.equal(events.filter((event) => event.kind === 'step.retried').length, 0, 'the run never noticed');
  },
);

const steps = (run: MeshedRun): number => run.events.filter((event) => event.kind === 'step.applied').length;

async function until(run: MeshedRun, isTrue: () => boolean, ms: number, what: string): Promise<void> {
  const start = Date.now();
  while (!isTrue()) {
    if (Date.now() - start > ms)
      throw new Error(
        `waited ${ms} ms for ${what}; ${run.events
          .filter((e) => e.kind !== 'microbatch.done' && e.kind !== 'step.applied' && e.kind !== 'run.progress')
          .slice(-14)
          .map((e) => JSON.stringify(e))
          .join('\n')}`,
      );
    await Promise.race([sleep(20), run.done]);
  }
}

/** Mulberry32. */
function generator(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}
