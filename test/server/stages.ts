// Hosted stages without GPU and links, for tests of their bookkeeping: a Compute of one number, and an Ask that leads from host to
// host. What the real ones do with memory is done here too: tensors given to Compute are dead afterwards, a link copies.
import { BLOCK, type Snapshot } from '../../runtime/layer-store.ts';
import type { Compute, StageSpec } from '../../runtime/compute.ts';
import { MeshError } from '../../runtime/errors.ts';
import type { EventOf, MeshEvent } from '../../runtime/events.ts';
import { askerOf, type Ask } from '../../runtime/mesh/ask.ts';
import { StageHost } from '../../runtime/server/host.ts';
import { f32Of, f32Tensor, i32Of, i32Tensor, type Tensor, type Tensors } from '../../runtime/tensor.ts';
import { parseUid, peerIdSchema, runIdSchema, type PeerId } from '../../runtime/wire/ids.ts';
import type { Replica, Request } from '../../runtime/wire/messages.ts';

export const RUN = runIdSchema.parse('run');
export const peerId = (letter: string): PeerId => peerIdSchema.parse(letter.repeat(43));
export const CLIENT = peerId('c');

const spec: StageSpec = {
  model: { family: 'mlp', sizes: [1, 1, 1], activation: 'relu' },
  from: 0,
  to: 1,
  seed: 0,
  optimizer: { name: 'sgd', lr: 0.1, momentum: 0, weightDecay: 0 },
  store: { unitBytes: 4096 },
};

/** A unit of one value as it travels. */
const padded = (value: number): Tensor =>
  f32Tensor([BLOCK], Float32Array.of(value, ...Array<number>(BLOCK - 1).fill(0)));

export const scalar = (value: number): Tensor => f32Tensor([1], Float32Array.of(value));
export const valueOf = (tensors: Tensors | undefined, name = 'w'): number => {
  const tensor = tensors?.get(name);
  return tensor ? (f32Of(tensor)[0] ?? NaN) : NaN;
};

/**
 * One weight w and its gradient g. A last stage (`to` 2) adds scale · Σx in `loss`, any other Σdy in `backward`; `step` is w ← w − g.
 * `calls` are those that change something, in order; `before` lets a test wait, or fail, within one.
 */
export class FakeCompute {
  weight = 1;
  gradient = 0;
  steps = 0;
  /** As written by an adoption. */
  optimizerStep = 0;
  /** Whether `w` is what both ends of the model share. */
  isTied = false;
  readonly calls: string[] = [];
  before: (call: string) => Promise<void> = () => Promise.resolve();
  #opened = 0;
  /** Its store: what is shown, and what others sent. */
  #shown = NaN;
  readonly #parts: number[] = [];
  #tail: Promise<unknown> = Promise.resolve();

  #snapshot(): Snapshot {
    this.#shown = this.weight;
    return { version: 1, squaredNorm: [this.weight * this.weight], progress: [0] };
  }

  /** One after the other, as the worker does it. */
  #turn<T>(call: string, body: () => T): Promise<T> {
    const result = this.#tail.then(async () => {
      await this.before(call);
      this.calls.push(call);
      return body();
    });
    this.#tail = result.catch(() => undefined);
    return result;
  }

  readonly compute: Compute = {
    describe: () => Promise.reject(new Error('not asked for')),
    open: ({ from, to }) =>
      this.#turn('open', () => {
        this.#opened += 1;
        const parameters = [{ name: 'w', shape: [1] }];
        const shapes = { inputShape: [1], inputDtype: 'f32' as const, outputShape: [1], maxTokens: 1 };
        const place = { isFirst: from === 0, isLast: to === 2, tied: this.isTied ? 'w' : null };
        return { stage: this.#opened, info: { ...shapes, ...place, parameters, parameterBytes: 4 } };
      }),
    close: () => this.#turn('close', () => undefined),
    forward: (_, __, x) => {
      const taken = take(x);
      return this.#turn('forward', () => f32Tensor(x.shape, finite(taken)));
    },
    backward: (_, __, dy, { accumulate }) => {
      const taken = take(dy);
      return this.#turn(accumulate ? 'add' : 'again', () => {
        if (accumulate) this.gradient += sum(finite(taken));
        return null;
      });
    },
    loss: (_, x, __, { scale, train, accumulate }) => {
      const taken = take(x);
      return this.#turn(!train ? 'score' : accumulate ? 'add' : 'again', () => {
        const loss = sum(finite(taken)) * scale;
        if (accumulate) this.gradient += loss;
        return { loss, correct: 0, counted: taken.length, dx: f32Tensor(x.shape, taken.map((value) => value * scale)) }; // prettier-ignore
      });
    },
    discard: (_, { gradients }) =>
      this.#turn(gradients ? 'zero' : 'forget', () => {
        if (gradients) this.gradient = 0;
      }),
    read: (_, kind) =>
      this.#turn(`read ${kind}`, (): Tensors => {
        if (kind === 'optimizer') return new Map([['step', i32Tensor([1], Int32Array.of(this.steps))]]);
        return new Map([['w', scalar(kind === 'weights' ? this.weight : this.gradient)]]);
      }),
    write: (_, kind, tensors) => {
      const step = tensors.get('step');
      const value = step ? (i32Of(step)[0] ?? NaN) : valueOf(tensors);
      return this.#turn(`write ${kind}`, () => {
        if (kind === 'weights') this.weight = value;
        else this.optimizerStep = value;
      });
    },
    snapshot: () => this.#turn('snapshot', () => this.#snapshot()),
    serve: () =>
      this.#turn('serve', () => ({ version: 1, progress: [0], tensors: new Map([['data', padded(this.#shown)]]) })),
    receive: (_, __, tensors) => {
      const [value = NaN] = take(tensors.get('data'));
      return this.#turn('receive', () => {
        const part = this.#parts.push(value);
        const squaredDistance = (value - this.#shown) ** 2;
        return { part, units: [{ isFinite: Number.isFinite(value), squaredDistance, squaredNorm: value * value }] };
      });
    },
    merge: (_, mixes) =>
      this.#turn('merge', () => {
        const from = mixes.flatMap((mix) => mix.from);
        const moved = sum(
          from.map(({ part, coefficient }) => coefficient * ((this.#parts[part - 1] ?? NaN) - this.#shown)),
        );
        this.weight += moved;
        this.#shown += moved;
        return { version: 1 };
      }),
    drop: () => Promise.resolve(),
    outerGradient: () => Promise.reject(new Error('not asked for')),
    outerStep: () => Promise.reject(new Error('not asked for')),
    load: () => Promise.reject(new Error('not asked for')),
    combine: (_, kind, parts, coefficients, mode) => {
      const values = parts.map((part) => sum(take(part.get('w'))));
      return this.#turn(`${mode} ${kind} ${values.join(' ')}`, () => {
        const merged = sum(values.map((value, i) => value * (coefficients[i] ?? NaN)));
        if (kind === 'gradients') this.gradient = merged + (mode === 'add' ? this.gradient : 0);
        else this.weight = merged + (mode === 'add' ? this.weight : 0);
      });
    },
    squaredNorm: (_, { except = [] }) =>
      this.#turn('norm', () => (except.includes('w') ? 0 : this.gradient * this.gradient)),
    step: (_, { lr = 1, gradientScale = 1 } = {}) =>
      this.#turn('step', () => {
        const gradientNorm = Math.abs(this.gradient);
        this.weight -= lr * gradientScale * this.gradient;
        this.gradient = 0;
        this.steps += 1;
        return { gradientNorm };
      }),
  };
}

/** Its values; the tensor's memory is gone afterwards, as after a transfer to a worker. */
function take(tensor: Tensor | undefined): Float32Array<ArrayBuffer> {
  if (!tensor) throw new Error('a tensor is missing');
  const values = f32Of(tensor).slice();
  structuredClone(tensor.data.buffer, { transfer: [tensor.data.buffer] });
  return values;
}

function finite(values: Float32Array<ArrayBuffer>): Float32Array<ArrayBuffer> {
  if (values.every(Number.isFinite)) return values;
  throw new MeshError('not-finite', 'x holds NaN or infinity.', 'Discard it.');
}

const sum = (values: Iterable<number>): number => [...values].reduce((a, b) => a + b, 0);

export interface TestStage {
  uid: Replica['uid'];
  replica: Replica;
  gpu: FakeCompute;
}

export class TestMesh {
  readonly events: MeshEvent[] = [];
  /** Peers that hold a link to every host. */
  readonly connected = new Set<PeerId>([CLIENT]);
  /** Called before a message is handed over; may wait, or throw as a broken link would. */
  onMessage: (kind: string, to: Replica) => Promise<void> = () => Promise.resolve();
  readonly #hosts = new Map<PeerId, { host: StageHost; gpu: FakeCompute }>();

  /** A stage on the peer of that letter; a peer has one GPU for each of its stages' runs. */
  add(text: string, letter: string): TestStage {
    const peer = peerId(letter);
    const gpu = new FakeCompute();
    const known = this.#hosts.get(peer);
    const { uid } = parseUid(text);
    const host = known?.host ?? this.#host(peer, gpu);
    if (!known) this.#hosts.set(peer, { host, gpu });
    host.add(uid);
    return { uid, replica: { uid, peer, addresses: [] }, gpu: known?.gpu ?? gpu };
  }

  #host(peer: PeerId, gpu: FakeCompute): StageHost {
    const own = askerOf(
      peer,
      () => { throw new Error('no links here'); }, // prettier-ignore
      () => this.#hosts.get(peer)?.host.handlers ?? {},
    );
    const host: StageHost = new StageHost({
      self: peer,
      host: 'node',
      compute: gpu.compute,
      gpu: { vendor: '', architecture: '', device: '', description: 'fake', isSoftware: true, features: [], subgroupMinSize: 0, subgroupMaxSize: 0, maxBufferSize: 0, maxStorageBufferBindingSize: 0 }, // prettier-ignore
      ask: async (replica, kind, body, options) =>
        replica.peer === peer ? own(replica, kind, body, options) : this.askAs(peer)(replica, kind, body, options),
      emit: (event) => this.events.push(event),
      isConnected: (other) => this.connected.has(other),
      addresses: () => [],
      traffic: () => ({ bytesIn: 0, bytesOut: 0 }),
    });
    return host;
  }

  /** Asks as another peer would, over a link. */
  askAs(peer: PeerId): Ask {
    return async (replica, kind, body, options) => {
      await this.onMessage(kind, replica);
      const { host } = this.#hosts.get(replica.peer) ?? {};
      if (!host) throw new MeshError('unreachable', 'Nobody is there.', 'Start it.');
      const over = askerOf(replica.peer, () => { throw new Error('no links here'); }, () => ({
        [kind]: (b: never, t: never, context: object) => (host.handlers[kind] as (...a: unknown[]) => never)(b, t, { ...context, peer }),
      })); // prettier-ignore
      return over(replica, kind, body, options);
    };
  }

  readonly ask: Ask = (...args) => this.askAs(CLIENT)(...args);

  async open(stage: TestStage, more: Partial<Request<'stage.open'>> = {}, as = CLIENT): Promise<number> {
    const body = { uid: stage.uid, run: RUN, spec, mode: 'sync' as const, accumulate: 1, ...more };
    return (await this.askAs(as)(stage.replica, 'stage.open', body, { deadlineMs: 1_000 })).body.step;
  }

  /** A last stage. */
  openLast(stage: TestStage, more: Partial<Request<'stage.open'>> = {}): Promise<number> {
    return this.open(stage, { spec: lastSpec, ...more });
  }

  forward(
    stage: TestStage,
    x: number,
    more: Partial<Request<'stage.forward'>> & { signal?: AbortSignal } = {},
  ): ReturnType<typeof this.ask<'stage.forward'>> {
    // prettier-ignore
    const { signal, ...rest } = more;
    const key = { run: RUN, trainer: 't', step: rest.step ?? 0, microbatch: 0 };
    const body = { uid: stage.uid, run: RUN, step: 0, attempt: 0, key, scale: 1, route: [], ...rest };
    const tensors = new Map([['x', f32Tensor([1, 1], Float32Array.of(x))], ['y', i32Tensor([1], Int32Array.of(0))]]); // prettier-ignore
    return this.ask(stage.replica, 'stage.forward', body, {
      deadlineMs: 1_000,
      tensors,
      ...(signal ? { signal } : {}),
    });
  }

  all<K extends MeshEvent['kind']>(kind: K): EventOf<K>[] {
    return this.events.filter((event): event is EventOf<K> => event.kind === kind);
  }

  close(): void {
    for (const { host } of this.#hosts.values()) host.close();
  }
}

export const firstSpec = spec;
export const lastSpec: StageSpec = { ...spec, from: 1, to: 2 };
export const microbatch = (m: number, step = 0): Request<'stage.forward'>['key'] => ({
  run: RUN,
  trainer: 't',
  step,
  microbatch: m,
});
/** For assert.rejects. */
export const withCode =
  (code: string) =>
  (error: unknown): boolean =>
    error instanceof MeshError && error.code === code;
