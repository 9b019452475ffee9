// Replicas of a pipeline's stage on the real device, hosted as a server hosts them: rounds that a client drives, and who comes to them late.
import assert from 'node:assert/strict';
import test, { type TestContext } from 'node:test';
import { storeOf } from '../../runtime/average/averaging.ts';
import { averageSpecSchema, DEFAULT_AVERAGE, type AverageSpec } from '../../runtime/average-spec.ts';
import { optimizerSpecSchema, type StageSpec } from '../../runtime/compute.ts';
import { MeshError } from '../../runtime/errors.ts';
import type { MeshEvent } from '../../runtime/events.ts';
import { askerOf, type Ask } from '../../runtime/mesh/ask.ts';
import { modelSpecSchema } from '../../runtime/model-spec.ts';
import { stageInfo } from '../../runtime/model/spec.ts';
import { StageHost } from '../../runtime/server/host.ts';
import type { StageRun } from '../../runtime/server/stage-run.ts';
import { f32Of, f32Tensor, i32Tensor } from '../../runtime/tensor.ts';
import { parseUid, type PeerId } from '../../runtime/wire/ids.ts';
import type { Replica, Request } from '../../runtime/wire/messages.ts';
import { testCompute } from '../model/harness.ts';
import { noise } from '../reference/kernels.ts';
import { CLIENT, peerId, RUN } from './stages.ts';

const compute = testCompute();
const model = modelSpecSchema.parse({ family: 'mlp', sizes: [9, 7, 4] });
const options = { deadlineMs: 20_000 };

/** Replicas of the whole model as one stage, each on a peer of its own. */
class Pipeline {
  readonly events: MeshEvent[] = [];
  readonly replicas: Replica[] = [];
  readonly #hosts = new Map<PeerId, StageHost>();
  readonly #average: AverageSpec | undefined;
  readonly #spec: StageSpec;

  constructor(t: TestContext, average?: object) {
    this.#average = average === undefined ? undefined : averageSpecSchema.parse({ unitBytes: 64, ...average });
    const { parameterBytes } = stageInfo(model, 0, 2);
    this.#spec = {
      ...{ model, from: 0, to: 2, seed: 3, optimizer: optimizerSpecSchema.parse({ name: 'sgd', lr: 0.2 }) },
      store: storeOf(parameterBytes, this.#average ?? DEFAULT_AVERAGE),
    };
    t.after(async () => {
      for (const { uid, peer } of this.replicas) await this.#hosts.get(peer)?.handlers['stage.close']?.({ uid, run: RUN }, new Map(), undefined as never); // prettier-ignore
      for (const host of this.#hosts.values()) host.close();
    });
  }

  async add(from?: Replica): Promise<Replica> {
    const index = this.replicas.length;
    const peer = peerId(String.fromCharCode(100 + index));
    const host: StageHost = new StageHost({
      ...{ self: peer, host: 'node', compute, gpu: await compute.describe(), ask: this.#askAs(peer) },
      emit: (event) => void this.events.push(event),
      isConnected: () => true,
      addresses: () => [],
      traffic: () => ({ bytesIn: 0, bytesOut: 0 }),
    });
    this.#hosts.set(peer, host);
    const { uid } = parseUid(`whole.0.${index}.0`);
    host.add(uid);
    const replica = { uid, peer, addresses: [] };
    const opening = {
      ...{ uid, run: RUN, spec: this.#spec, mode: 'async' as const, accumulate: 1 },
      ...(this.#average ? { average: this.#average } : {}),
    };
    if (from) await this.ask(replica, 'stage.adopt', { ...opening, from }, options);
    else await this.ask(replica, 'stage.open', opening, options);
    this.replicas.push(replica);
    return replica;
  }

  run(replica: Replica): StageRun {
    const run = this.#hosts.get(replica.peer)?.stages[0]?.run;
    assert.ok(run);
    return run;
  }

  readonly ask: Ask = (replica, kind, body, more) => this.#askAs(CLIENT)(replica, kind, body, more);

  #askAs(peer: PeerId): Ask {
    return async (replica, kind, body, more) => {
      const host = this.#hosts.get(replica.peer);
      const handler = host?.handlers[kind] as ((...args: unknown[]) => never) | undefined;
      if (!handler) throw new MeshError('unreachable', 'Nobody is there.', 'Start it.');
      const as = { [kind]: (b: never, t: never, context: object) => handler(b, t, { ...context, peer }) };
      return askerOf(replica.peer, () => assert.fail('no links here'), () => as)(replica, kind, body, more); // prettier-ignore
    };
  }

  /** A microbatch, and so a step, of one replica. */
  async train(replica: Replica, number: number): Promise<void> {
    const key = { run: RUN, trainer: replica.uid, step: number, microbatch: 0 };
    const body: Request<'stage.forward'> = { uid: replica.uid, run: RUN, step: number, attempt: 0, key, scale: 0.25, route: [] }; // prettier-ignore
    const x = f32Tensor([4, 9], noise(36, number * 31 + Number(replica.uid.split('.')[2])));
    await this.ask(replica, 'stage.forward', body, { ...options, tensors: new Map([['x', x], ['y', i32Tensor([4], Int32Array.of(0, 1, 2, 3))]]) }); // prettier-ignore
  }

  average(replica: Replica, round: number, replicas: readonly Replica[] = this.replicas): Promise<number> {
    const body = { uid: replica.uid, run: RUN, replicas: [...replicas], round };
    return this.ask(replica, 'stage.average', body, options).then((answer) => answer.body.merged);
  }

  averageAll(round: number): Promise<number[]> {
    return Promise.all(this.replicas.map((replica) => this.average(replica, round)));
  }

  async weights(replica: Replica): Promise<number[]> {
    const tensors = await compute.read(this.run(replica).handle, 'weights');
    return [...tensors.values()].flatMap((tensor) => [...f32Of(tensor)]);
  }

  async slow(replica: Replica): Promise<number[]> {
    const { handle, averaging } = this.run(replica);
    const units = averaging?.shelf.units.map((_, unit) => unit) ?? [];
    const { tensors } = await compute.serve(handle, { kind: 'slow', units, format: 'f32' });
    const data = tensors.get('data');
    return data ? [...f32Of(data)] : [];
  }
}

const worst = (a: readonly number[], b: readonly number[]): number =>
  Math.max(...a.map((value, i) => Math.abs(value - (b[i] ?? NaN))));
const mean = (...lists: number[][]): number[] =>
  (lists[0] ?? []).map((_, i) => lists.reduce((sum, list) => sum + (list[i] ?? NaN), 0) / lists.length);

test('a round is of what every replica has now, whoever is asked first', async (t) => {
  const pipeline = new Pipeline(t);
  const [a, b] = [await pipeline.add(), await pipeline.add()];
  assert.deepEqual(await pipeline.averageAll(0), [1, 1]);
  for (let step = 0; step < 6; step += 1) for (const one of [a, b]) await pipeline.train(one, step);
  const wanted = mean(await pipeline.weights(a), await pipeline.weights(b));
  const first = pipeline.average(a, 1);
  await new Promise((resolve) => setTimeout(resolve, 100));
  assert.deepEqual(await Promise.all([first, pipeline.average(b, 1)]), [1, 1]);
  for (const one of [a, b]) assert.ok(worst(await pipeline.weights(one), wanted) <= 1e-6, one.uid);
});

test('every planner does with it, and rounds follow each other without waiting', async (t) => {
  for (const planner of ['mpls', 'netmax', 'ad-psgd', 'all-reduce', 'epidemic'] as const) {
    const pipeline = new Pipeline(t, { planner });
    for (let i = 0; i < 3; i += 1) await pipeline.add();
    const started = performance.now();
    for (let round = 0; round < 3; round += 1) {
      for (const one of pipeline.replicas) await pipeline.train(one, round);
      assert.ok(
        (await pipeline.averageAll(round)).every((merged) => merged > 0),
        planner,
      );
    }
    assert.ok(performance.now() - started < 10_000, `${planner}: ${performance.now() - started} ms`);
  }
});

test('low-communication training in rounds: equal slow weights, also of one that adopts the state of another later', async (t) => {
  for (const outer of [{ kind: 'diloco' }, { kind: 'streaming-diloco', fragments: 2 }]) {
    const pipeline = new Pipeline(t, { outer });
    const [a, b] = [await pipeline.add(), await pipeline.add()];
    for (let round = 0; round < 3; round += 1) {
      for (const one of [a, b]) await pipeline.train(one, round);
      assert.deepEqual(await pipeline.averageAll(round), [1, 1]);
    }
    await pipeline.train(a, 3);
    const c = await pipeline.add(a);
    assert.equal(pipeline.run(c).step, 4);
    const [slowA, slowC] = [await pipeline.slow(a), await pipeline.slow(c)];
    assert.deepEqual(slowC, slowA);
    const before = await pipeline.weights(c);
    assert.ok(worst(before, await pipeline.weights(a)) < 0.2, 'it is where the other one last was');
    for (const one of pipeline.replicas) await pipeline.train(one, 4);
    assert.deepEqual(await pipeline.averageAll(3), [2, 2, 2]);
    const slows = await Promise.all(pipeline.replicas.map((one) => pipeline.slow(one)));
    assert.deepEqual(slows[1], slows[0]);
    assert.deepEqual(slows[2], slows[0]);
    // What it brought as news of its own was one step, not all that was ever learned.
    assert.ok(worst(slows[0] ?? [], slowA) < 0.2, `moved by ${worst(slows[0] ?? [], slowA)}`);
    assert.deepEqual(pipeline.events.filter(({ kind }) => kind === 'worker.adopted'), []); // prettier-ignore
  }
});

test('who merged with nobody says so', async (t) => {
  const pipeline = new Pipeline(t, { outer: { kind: 'diloco' }, patienceMs: 200 });
  const [a, b] = [await pipeline.add(), await pipeline.add()];
  await pipeline.train(a, 0);
  assert.equal(await pipeline.average(a, 0), 0, 'the other one was not asked');
  assert.equal(await pipeline.average(a, 1, [a]), 0);
  assert.ok(b);
});
