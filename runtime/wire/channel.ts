// Requests and replies over a mux, for everything that peers say to each other, control and bulk alike. Every request has a deadline
// and a signal; it settles exactly once: reply, error, cancellation, deadline, or the end of the link. Handlers get a signal that
// fires when their answer is no longer wanted.
import { MeshError, toMeshError, type MeshErrorCode } from '../errors.ts';
import type { TransportKind } from '../events.ts';
import type { Tensors } from '../tensor.ts';
import { malformed } from './chunk.ts';
import { decodeFrame, encodeFrame, type Envelope } from './frame.ts';
import { isMessageKind, messages, type MessageKind, type Reply, type Request } from './messages.ts';
import { Mux, type MuxOptions, type Received } from './mux.ts';
import type { Pipe } from './pipe.ts';
import type { PeerId } from './ids.ts';

export interface Context {
  peer: PeerId;
  transport: TransportKind;
  /** Aborts when the asker cancels, the deadline passes or the link ends. */
  signal: AbortSignal;
  deadlineMs: number;
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

interface Pending {
  kind: MessageKind;
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
    const id = this.#nextId++;
    const { promise, resolve, reject } = Promise.withResolvers<{ body: unknown; tensors: Tensors }>();
    const stop = new AbortController();
    const timer = setTimeout(() => giveUp(missed(kind, options.deadlineMs)), options.deadlineMs);
    const aborted = (): void => giveUp(toMeshError(options.signal?.reason));
    const giveUp = (error: MeshError): void => {
      stop.abort(error);
      if (this.#pending.has(id) && this.isOpen) this.#post({ type: 'cancel', id });
      reject(error);
    };
    this.#pending.set(id, {
      kind,
      settle: (outcome) => (outcome instanceof MeshError ? reject(outcome) : resolve(outcome)),
    });
    if (options.signal?.aborted) aborted();
    else options.signal?.addEventListener('abort', aborted, { once: true });
    try {
      const parts = encodeFrame({ type: 'request', id, kind, deadlineMs: options.deadlineMs, body }, options.tensors);
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
    let frame: ReturnType<typeof decodeFrame>;
    try {
      frame = decodeFrame(received.bytes);
    } catch (cause) {
      received.release();
      this.#options.onRejected(toMeshError(cause).message);
      this.#mux.close(`malformed frame: ${toMeshError(cause).message}`);
      return;
    }
    const { envelope, tensors } = frame;
    switch (envelope.type) {
      case 'request':
        void this.#serve(envelope, tensors, received.release);
        return;
      case 'reply':
        this.#pending.get(envelope.id)?.settle({ body: envelope.body, tensors });
        break;
      case 'error':
        this.#pending
          .get(envelope.id)
          ?.settle(MeshError.fromShape({ ...envelope.error, code: envelope.error.code as MeshErrorCode }));
        break;
      case 'cancel':
        this.#serving
          .get(envelope.id)
          ?.abort(new MeshError('cancelled', 'The asker cancelled the request.', 'Nothing to do.'));
        break;
      default:
        envelope satisfies never;
    }
    received.release();
  }

  async #serve(envelope: Extract<Envelope, { type: 'request' }>, tensors: Tensors, release: () => void): Promise<void> {
    const stop = new AbortController();
    const timer = setTimeout(() => stop.abort(missed(envelope.kind, envelope.deadlineMs)), envelope.deadlineMs);
    this.#serving.set(envelope.id, stop);
    if (this.#running >= (this.#options.maxConcurrent ?? 64))
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    this.#running += 1;
    release();
    try {
      const answer = await this.#run(envelope, tensors, stop.signal);
      this.#post({ type: 'reply', id: envelope.id, body: answer.body }, answer.tensors);
    } catch (cause) {
      this.#post({ type: 'error', id: envelope.id, error: toMeshError(cause).toShape() });
    } finally {
      clearTimeout(timer);
      this.#serving.delete(envelope.id);
      this.#running -= 1;
      this.#waiting.shift()?.();
    }
  }

  async #run(
    envelope: Extract<Envelope, { type: 'request' }>,
    tensors: Tensors,
    signal: AbortSignal,
  ): Promise<Answer<MessageKind>> {
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
    });
  }

  #post(envelope: Envelope, tensors?: Tensors): void {
    if (this.#closed) return;
    this.#mux
      .send(envelope.type === 'cancel' ? 'request' : 'reply', encodeFrame(envelope, tensors))
      .catch((cause: unknown) => {
        // The end of the link is reported by the mux itself; what is left is a reply that cannot be sent as it is.
        if (this.isOpen && envelope.type === 'reply')
          this.#post({ type: 'error', id: envelope.id, error: toMeshError(cause).toShape() });
      });
  }

  #end(error: MeshError): void {
    if (this.#closed) return;
    this.#closed = error;
    for (const pending of this.#pending.values()) pending.settle(error);
    for (const stop of this.#serving.values()) stop.abort(error);
    if (error.code === 'malformed' || error.code === 'too-large') this.#options.onRejected(error.message);
    this.#options.onClosed(error);
  }
}

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
    .join('; ');
