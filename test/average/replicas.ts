// Replicas of one small stage on one real compute worker, and an Ask between them without links: it can be told to fail, to wait and to
// change what is answered. What a link does with memory is done here too: both ends have bytes of their own.
import { Averaging, storeOf } from '../../runtime/average/averaging.ts';
import { averageSpecSchema, type AverageSpec } from '../../runtime/average-spec.ts';
import { optimizerSpecSchema, type Compute, type StageSpec } from '../../runtime/compute.ts';
import { MeshError, toMeshError } from '../../runtime/errors.ts';
import type { EventOf, MeshEvent } from '../../runtime/events.ts';
import type { Ask, Answered } from '../../runtime/mesh/ask.ts';
import { modelSpecSchema } from '../../runtime/model-spec.ts';
import { stageInfo } from '../../runtime/model/spec.ts';
import { f32Of, f32Tensor, i32Tensor, type Tensors } from '../../runtime/tensor.ts';
import { formatUid, peerIdSchema, runIdSchema, type Uid } from '../../runtime/wire/ids.ts';
import { messages, type MessageKind, type Replica, type Request } from '../../runtime/wire/messages.ts';
import { copiesOf } from '../model/harness.ts';
import { noise } from '../reference/kernels.ts';

export const RUN = runIdSchema.parse('run');
const MODEL = modelSpecSchema.parse({ family: 'mlp', sizes: [37, 19, 5] });
const UNIT_BYTES = 600;
const { parameterBytes } = stageInfo(MODEL, 0, 2);

export type Kind = 'layers.offer' | 'layers.pull';
/** One request on its way. */
export interface Passing {
  from: Uid;
  to: Uid;
  kind: Kind;
  body: Request<Kind>;
  signal: AbortSignal;
}

export interface TestReplica {
  uid: Uid;
  replica: Replica;
  handle: number;
  averaging: Averaging;
  events: MeshEvent[];
  steps: number;
}

export class Replicas {
  readonly compute: Compute;
  readonly all: TestReplica[] = [];
  /** Requests that were asked, in order. */
  readonly asked: Passing[] = [];
  /** Before a request is handed over: may wait, or throw as a broken link does. */
  before: (passing: Passing) => Promise<void> = () => Promise.resolve();
  /** What comes back instead. */
  change: <K extends Kind>(passing: Passing, answer: Answered<K>) => Answered<K> | Promise<Answered<K>> = (_, answer) => answer; // prettier-ignore
  now = (): number => performance.now();
  readonly #average: AverageSpec;

  constructor(compute: Compute, average: object) {
    this.compute = compute;
    this.#average = averageSpecSchema.parse({ unitBytes: UNIT_BYTES, patienceMs: 10_000, ...average });
  }

  /** `count` of them with the same first weights; `trained`: each has taken that many steps of its own since. */
  static async open(compute: Compute, count: number, average: object, trained = 0): Promise<Replicas> {
    const replicas = new Replicas(compute, average);
    for (let i = 0; i < count; i += 1) await replicas.add(trained);
    return replicas;
  }

  async add(trained = 0): Promise<TestReplica> {
    const index = this.all.length;
    const uid = formatUid({ stage: 'worker', version: 0, expertIndex: index, subversion: 0 });
    const peer = peerIdSchema.parse(String.fromCharCode(97 + index).repeat(43));
    const stage: StageSpec = {
      ...{ model: MODEL, from: 0, to: 2, seed: 5 },
      optimizer: optimizerSpecSchema.parse({ name: 'sgd', lr: 0.1, momentum: 0.5 }),
      store: storeOf(parameterBytes, this.#average),
    };
    const { stage: handle, info } = await this.compute.open(stage);
    const events: MeshEvent[] = [];
    const own = { labels: [0.5, 0.5], degree: () => this.all.length - 1, isDone: () => false };
    const one: TestReplica = {
      ...{ uid, handle, events, steps: 0 },
      replica: { uid, peer, addresses: [] },
      averaging: new Averaging({
        ...{ uid, self: peer, run: RUN, stage, info, handle, spec: this.#average, compute: this.compute },
        ...{ ask: this.askAs(uid), emit: (event) => void events.push(event), own },
        steps: () => one.steps,
        now: () => this.now(),
      }),
    };
    this.all.push(one);
    for (let step = 0; step < trained; step += 1) await this.train(index);
    return one;
  }

  at(index: number): TestReplica {
    const one = this.all[index];
    if (!one) throw new Error(`there is no replica ${index}`);
    return one;
  }

  /** As its neighbours know them. */
  get replicas(): Replica[] {
    return this.all.map(({ replica }) => replica);
  }

  /** One step of local training on data of its own. */
  async train(index: number): Promise<void> {
    const one = this.at(index);
    const x = f32Tensor([4, 37], noise(4 * 37, 1_000 * (index + 1) + one.steps));
    const y = i32Tensor([4], Int32Array.of(0, 1, 2, index % 5));
    one.steps += 1;
    await Promise.all([
      this.compute.loss(one.handle, x, y, { scale: 0.25, train: true, accumulate: true }),
      this.compute.step(one.handle),
    ]);
  }

  /** Its live weights, by unit. */
  async units(index: number): Promise<number[][]> {
    const { handle, averaging } = this.at(index);
    const tensors = await this.compute.read(handle, 'weights');
    return averaging.shelf.units.map(({ ranges }) =>
      ranges.flatMap(({ name, start, count }) => {
        const tensor = tensors.get(name);
        return tensor ? [...f32Of(tensor).subarray(start, start + count)] : [];
      }),
    );
  }

  everyUnits(): Promise<number[][][]> {
    return Promise.all(this.all.map((_, index) => this.units(index)));
  }

  /** Its slow weights, all units. */
  async slow(index: number): Promise<number[]> {
    const { handle, averaging } = this.at(index);
    const units = averaging.shelf.units.map((_, unit) => unit);
    const { tensors } = await this.compute.serve(handle, { kind: 'slow', units, format: 'f32' });
    const data = tensors.get('data');
    return data ? [...f32Of(data)] : [];
  }

  events<K extends MeshEvent['kind']>(index: number, kind: K): EventOf<K>[] {
    return this.at(index).events.filter((event): event is EventOf<K> => event.kind === kind);
  }

  async usedBytes(): Promise<number> {
    return (await this.compute.describe()).stats.usedBytes;
  }

  async close(): Promise<void> {
    for (const { averaging, handle } of this.all) {
      averaging.close('the test is over');
      await this.compute.close(handle);
    }
  }

  /** As that replica asks. */
  askAs(from: Uid): Ask {
    const ask = async (
      to: Replica,
      kind: MessageKind,
      body: unknown,
      options: Parameters<Ask>[3],
    ): Promise<unknown> => {
      if (kind !== 'layers.offer' && kind !== 'layers.pull') throw new Error(`nobody answers ${kind} here`);
      const limit = AbortSignal.timeout(Math.ceil(options.deadlineMs));
      const signal = options.signal ? AbortSignal.any([options.signal, limit]) : limit;
      const passing: Passing = { from, to: to.uid, kind, body: messages[kind].request.parse(body), signal };
      this.asked.push(passing);
      return unlessAborted(signal, this.#answer(passing, options.tensors ?? new Map(), options.deadlineMs));
    };
    return ask as Ask;
  }

  async #answer(passing: Passing, sent: Tensors, deadlineMs: number): Promise<Answered<Kind>> {
    const { from, to, kind, body, signal } = passing;
    const tensors = copiesOf(sent);
    await this.before(passing);
    const asker = this.all.find(({ uid }) => uid === from);
    const answerer = this.all.find(({ uid }) => uid === to);
    if (!asker || !answerer) throw new MeshError('unreachable', `${to} is not there.`, 'Start it.');
    const context = { peer: asker.replica.peer, transport: 'local' as const, signal, deadlineMs, idle: <T>(work: () => Promise<T>): Promise<T> => work() }; // prettier-ignore
    const { shelf } = answerer.averaging;
    const answer =
      kind === 'layers.offer'
        ? await shelf.offer(body as Request<'layers.offer'>)
        : await shelf.pull(body as Request<'layers.pull'>, tensors, context);
    const reply = { body: messages[kind].reply.parse(answer.body), tensors: copiesOf(answer.tensors ?? new Map()) };
    return this.change(passing, reply as Answered<Kind>);
  }
}

/** As a channel does it: who gives up is told at once, whatever becomes of the request. */
function unlessAborted<T>(signal: AbortSignal, work: Promise<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    const aborted = (): void => reject(toMeshError(signal.reason));
    signal.addEventListener('abort', aborted, { once: true });
    if (signal.aborted) aborted();
    work.then(resolve, reject).finally(() => signal.removeEventListener('abort', aborted));
  });
}

export const signal = new AbortController().signal;
