// Requests and replies over a mux, for everything that peers say to each other, control and bulk alike. Every request has a deadline
// and a signal; it settles exactly once: reply, error, cancellation, deadline, or the end of the link. Handlers get a signal that
// fires when their answer is no longer wanted.
import { MeshError, toMeshError, type MeshErrorCode } from '../errors.ts';
import type { TransportKind } from '../events.ts';
import type { Tensors } from '../tensor.ts';
import { malformed } from './chunk.ts';
import { decodeFrame, encodeFrame, MAX_DEADLINE_MS, MAX_ERROR_TEXT, type Envelope, type Frame } from './frame.ts';
import { isMessageKind, messages, type MessageKind, type Reply, type Request } from './messages.ts';
import { Mux, type MuxOptions, type Received } from './mux.ts';
import { pipeClosed, type Pipe } from './pipe.ts';
import type { PeerId } from './ids.ts';

export interface Context {
  peer: PeerId;
  transport: TransportKind;
  /** Aborts when the asker cancels, the deadline passes or the link ends. */
  signal: AbortSignal;
  deadlineMs: number;
  /** Gives this handler's turn to others while it only waits for other peers; else handlers that wait for each other use them all up. */
  idle<T>(work: () => Promise<T>): Promise<T>;
}

export interface Answer<K extends MessageKind> {
  body: Reply<K>;
  tensors?: Tensors;
}

export type Handler<K extends MessageKind> = (
  body: Request<K>,
  tensors: Tensors,
  context: Context,
) => Promise<Answer<K>>;
export type Handlers = { [K in MessageKind]?: Handler<K> };

export interface RequestOptions {
  tensors?: Tensors;
  signal?: AbortSignal;
  deadlineMs: number;
}

export interface ChannelOptions {
  peer: PeerId;
  handlers: Handlers;
  /** Requests worked on at once; the others wait, and their credits with them. */
  maxConcurrent?: number;
  onClosed: (error: MeshError) => void;
  onRejected: (reason: string) => void;
  mux?: Partial<MuxOptions>;
}

type RequestEnvelope = Extract<Envelope, { type: 'request' }>;

interface Pending {
  settle(outcome: { body: unknown; tensors: Tensors } | MeshError): void;
}

export class Channel {
  readonly peer: PeerId;
  readonly transport: TransportKind;
  readonly #mux: Mux;
  readonly #options: ChannelOptions;
  readonly #pending = new Map<number, Pending>();
  readonly #serving = new Map<number, AbortController>();
  readonly #waiting: (() => void)[] = [];
  #running = 0;
  #nextId = 1;
  #closed: MeshError | null = null;

  constructor(pipe: Pipe, options: ChannelOptions) {
    this.peer = options.peer;
    this.transport = pipe.transport;
    this.#options = options;
    this.#mux = new Mux(
      pipe,
      { frame: (received) => this.#receive(received), closed: (error) => this.#end(error) },
      options.mux,
    );
  }

  get isOpen(): boolean {
    return this.#closed === null;
  }
  get bytesIn(): number {
    return this.#mux.bytesIn;
  }
  get bytesOut(): number {
    return this.#mux.bytesOut;
  }

  async request<K extends MessageKind>(
    kind: K,
    body: Request<K>,
    options: RequestOptions,
  ): Promise<{ body: Reply<K>; tensors: Tensors }> {
    if (this.#closed) throw this.#closed;
    if (options.signal?.aborted) throw toMeshError(options.signal.reason);
    const id = this.#nextId++;
    const deadlineMs = Math.min(Math.max(options.deadlineMs, 1), MAX_DEADLINE_MS);
    const parts = encodeFrame({ type: 'request', id, kind, deadlineMs, body }, options.tensors);
    const { promise, resolve, reject } = Promise.withResolvers<{ body: unknown; tensors: Tensors }>();
    const stop = new AbortController();
    const timer = setTimeout(() => giveUp(missed(kind, deadlineMs)), deadlineMs);
    const aborted = (): void => giveUp(toMeshError(options.signal?.reason));
    const giveUp = (error: MeshError): void => {
      stop.abort(error);
      if (this.#pending.has(id) && this.isOpen) this.#post({ type: 'cancel', id });
      reject(error);
    };
    this.#pending.set(id, {
      settle: (outcome) => (outcome instanceof MeshError ? reject(outcome) : resolve(outcome)),
    });
    options.signal?.addEventListener('abort', aborted, { once: true });
    try {
      this.#mux.send('request', parts, stop.signal).catch((cause: unknown) => reject(toMeshError(cause)));
      const outcome = await promise;
      const parsed = messages[kind].reply.safeParse(outcome.body);
      if (!parsed.success) throw malformed(`the reply to ${kind} breaks its schema: ${describe(parsed.error)}`);
      return { body: parsed.data as Reply<K>, tensors: outcome.tensors };
    } finally {
      clearTimeout(timer);
      options.signal?.removeEventListener('abort', aborted);
      this.#pending.delete(id);
    }
  }

  ping(deadlineMs: number): Promise<number> {
    return this.#mux.ping(deadlineMs);
  }

  close(reason: string): void {
    this.#mux.close(reason);
  }

  #receive(received: Received): void {
    try {
      this.#take(decodeFrame(received.bytes), received);
    } catch (cause) {
      this.#mux.fail(toMeshError(cause));
    }
  }

  #take({ envelope, tensors }: Frame, received: Received): void {
    if ((envelope.type === 'request') !== (received.lane === 'request'))
      throw malformed(`a ${envelope.type} in the ${received.lane} lane`);
    switch (envelope.type) {
      case 'request':
        if (this.#serving.has(envelope.id)) throw malformed(`request ${envelope.id} came twice`);
        void this.#serve(envelope, tensors, received.release);
        return;
      case 'reply':
        this.#pending.get(envelope.id)?.settle({ body: envelope.body, tensors });
        return;
      case 'error':
        this.#pending
          .get(envelope.id)
          ?.settle(MeshError.fromShape({ ...envelope.error, code: envelope.error.code as MeshErrorCode }));
        return;
      case 'cancel':
        this.#serving
          .get(envelope.id)
          ?.abort(new MeshError('cancelled', 'The asker cancelled the request.', 'Nothing to do.'));
        return;
      default:
        envelope satisfies never;
    }
  }

  /** A request holds its share of the backlog until it starts, and its turn until its answer has left. */
  async #serve(envelope: RequestEnvelope, tensors: Tensors, release: () => void): Promise<void> {
    const stop = new AbortController();
    const timer = setTimeout(() => stop.abort(missed(envelope.kind, envelope.deadlineMs)), envelope.deadlineMs);
    this.#serving.set(envelope.id, stop);
    const isStarted = await this.#turn(stop.signal);
    release();
    if (isStarted) await this.#answer(envelope, tensors, stop.signal);
    clearTimeout(timer);
    this.#serving.delete(envelope.id);
    if (isStarted) this.#passTurn();
  }

  /** True once there is room for one more; false when the request was given up before. */
  #turn(signal: AbortSignal): Promise<boolean> {
    if (this.#running < (this.#options.maxConcurrent ?? 64)) {
      this.#running += 1;
      return Promise.resolve(true);
    }
    const { promise, resolve } = Promise.withResolvers<boolean>();
    const leave = (): void => {
      this.#waiting.splice(this.#waiting.indexOf(start), 1);
      resolve(false);
    };
    const start = (): void => {
      signal.removeEventListener('abort', leave);
      resolve(true);
    };
    signal.addEventListener('abort', leave, { once: true });
    this.#waiting.push(start);
    return promise;
  }

  #passTurn(): void {
    const next = this.#waiting.shift();
    if (next) next();
    else this.#running -= 1;
  }

  /** Never rejects. Who no longer waits (cancelled, too late, gone) is told nothing. */
  async #answer(envelope: RequestEnvelope, tensors: Tensors, signal: AbortSignal): Promise<void> {
    try {
      const answer = await this.#run(envelope, tensors, signal);
      const reply = encodeFrame({ type: 'reply', id: envelope.id, body: answer.body }, answer.tensors);
      await this.#mux.send('reply', reply, signal);
    } catch (cause) {
      if (!signal.aborted) this.#post({ type: 'error', id: envelope.id, error: shapeOf(toMeshError(cause)) });
    }
  }

  async #run(envelope: RequestEnvelope, tensors: Tensors, signal: AbortSignal): Promise<Answer<MessageKind>> {
    signal.throwIfAborted();
    const { kind } = envelope;
    const handler = isMessageKind(kind)
      ? (this.#options.handlers[kind] as Handler<MessageKind> | undefined)
      : undefined;
    if (!isMessageKind(kind) || !handler)
      throw new MeshError(
        'malformed',
        `This peer does not answer "${kind}".`,
        'Check that both ends run the same version and that the peer has the role you expect.',
      );
    const parsed = messages[kind].request.safeParse(envelope.body);
    if (!parsed.success) {
      this.#options.onRejected(`${kind} breaks its schema: ${describe(parsed.error)}`);
      throw malformed(`${kind} breaks its schema: ${describe(parsed.error)}`);
    }
    return handler(parsed.data as Request<MessageKind>, tensors, {
      peer: this.peer,
      transport: this.transport,
      signal,
      deadlineMs: envelope.deadlineMs,
      idle: (work) => this.#idle(work),
    });
  }

  /** Those who come back from waiting go first: they hold memory that newcomers do not hold yet. */
  async #idle<T>(work: () => Promise<T>): Promise<T> {
    this.#passTurn();
    try {
      return await work();
    } finally {
      if (this.#running < (this.#options.maxConcurrent ?? 64)) this.#running += 1;
      else await new Promise<void>((resolve) => this.#waiting.unshift(resolve));
    }
  }

  /** In the reply lane, cancellations too: that one is never held up by a backlog, which is what they are to clear. */
  #post(envelope: Extract<Envelope, { type: 'error' | 'cancel' }>): void {
    if (this.#closed) return;
    this.#mux.send('reply', encodeFrame(envelope)).catch(() => undefined); // the end of the link is reported by the mux
  }

  #end(error: MeshError): void {
    if (this.#closed) return;
    // Whatever ended the link: for those who wait on it, it is lost, and another peer may do what this one did not.
    const lost = error.code === 'link-lost' ? error : pipeClosed(error.message);
    this.#closed = lost;
    for (const pending of this.#pending.values()) pending.settle(lost);
    for (const stop of this.#serving.values()) stop.abort(lost);
    if (error.code === 'malformed' || error.code === 'too-large') this.#options.onRejected(error.message);
    this.#options.onClosed(error);
  }
}

/** As the envelope's schema wants it, whatever a handler threw. */
const shapeOf = ({ code, message, fix }: MeshError): { code: string; message: string; fix: string } => ({
  code,
  message: message.slice(0, MAX_ERROR_TEXT),
  fix: fix.slice(0, MAX_ERROR_TEXT),
});

const missed = (kind: string, deadlineMs: number): MeshError =>
  new MeshError(
    'deadline',
    `${kind} was not answered within ${Math.round(deadlineMs)} ms.`,
    'The peer is slow or gone; the mesh tries another one where it can.',
  );

const describe = (error: { issues: readonly { path: PropertyKey[]; message: string }[] }): string =>
  error.issues
    .slice(0, 3)
    .map((issue) => `${issue.path.join('.') || 'body'}: ${issue.message}`)
    .join('; ')
    .slice(0, 500);
