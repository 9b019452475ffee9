// One peer's Socket.IO connection to the monitor: challenge, join, calls with deadlines, and reconnecting for ever. It knows the
// protocol's order and schemas; what the messages mean is monitor-client.ts.
import { io, type Socket } from 'socket.io-client';
import { z } from 'zod';
import { MeshError, toMeshError, type MeshErrorCode } from '../errors.ts';
import type { Emit } from '../events.ts';
import {
  clientMessages,
  failureSchema,
  monitorMessages,
  replies,
  type ClientMessage,
} from '../wire/monitor-messages.ts';
import type { Identity } from './identity.ts';
import type { JoinTarget } from './join-url.ts';

const CALL_DEADLINE_MS = 5_000;
const JOIN_DEADLINE_MS = 5_000;
const RETRY_MIN_MS = 250;
const RETRY_MAX_MS = 1_000;

export type Role = z.infer<typeof clientMessages.join>['role'];
type Payload<M extends ClientMessage> = z.infer<(typeof clientMessages)[M]>;
type Incoming = Exclude<keyof typeof monitorMessages, 'challenge'>;
export type IncomingPayload<M extends Incoming> = z.infer<(typeof monitorMessages)[M]>;

export interface ConnectionOptions {
  target: JoinTarget;
  identity: Identity;
  role: Role;
  emit: Emit;
  /** How long the first join may take; a monitor that is not there yet is tried again until then. */
  deadlineMs: number;
  signal: AbortSignal | undefined;
  now: () => number;
  transportOptions: object;
  onJoined: () => void;
  onLost: (reason: string) => void;
}

export class MonitorConnection {
  readonly #options: ConnectionOptions;
  readonly #socket: Socket;
  readonly #firstJoin = Promise.withResolvers<void>();
  #state: 'starting' | 'joined' | 'lost' | 'closed' = 'starting';
  #clockOffsetMs = 0;
  #lastFailure = '';
  #retry: ReturnType<typeof setTimeout> | undefined;
  #joinTimer: ReturnType<typeof setTimeout> | undefined;
  iceServers: RTCIceServer[] = [];

  constructor(options: ConnectionOptions) {
    this.#options = options;
    this.#socket = io(options.target.url, {
      transports: ['websocket'],
      forceNew: true,
      autoConnect: false,
      reconnectionDelay: RETRY_MIN_MS,
      reconnectionDelayMax: RETRY_MAX_MS,
      randomizationFactor: 0.5,
      timeout: 4_000,
      ...options.transportOptions,
    });
    this.#socket.on('connect', () => {
      this.#joinTimer = setTimeout(() => this.#drop('the monitor sent no challenge'), JOIN_DEADLINE_MS);
    });
    this.#socket.on('challenge', (payload: unknown) => void this.#answer(payload));
    this.#socket.on('connect_error', (error: Error) => this.#onConnectError(error));
    this.#socket.on('disconnect', (reason: string) => this.#onDisconnect(reason));
  }

  get isJoined(): boolean {
    return this.#state === 'joined';
  }

  /** Milliseconds since the epoch on the monitor's clock. */
  readonly nowOfMonitor = (): number => this.#options.now() + this.#clockOffsetMs;

  /** Resolves at the first join. Throws `unauthorized`, `unreachable` or `cancelled`, and is closed then. */
  async open(): Promise<void> {
    const { deadlineMs, signal, target } = this.#options;
    const timer = setTimeout(
      () => this.#firstJoin.reject(unreachable(target.url, `no answer in ${deadlineMs} ms${this.#lastFailure}`)),
      deadlineMs,
    );
    const onAbort = () =>
      this.#firstJoin.reject(new MeshError('cancelled', 'Joining the monitor was cancelled.', 'Nothing to do.'));
    signal?.addEventListener('abort', onAbort, { once: true });
    try {
      if (signal?.aborted) onAbort();
      else this.#socket.connect();
      await this.#firstJoin.promise;
    } catch (cause) {
      this.close();
      throw cause;
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener('abort', onAbort);
    }
  }

  on<M extends Incoming>(name: M, listener: (payload: IncomingPayload<M>) => void): void {
    this.#socket.on(name as string, (payload: unknown) => {
      const parsed = monitorMessages[name].safeParse(payload);
      if (parsed.success) listener(parsed.data as IncomingPayload<M>);
      else this.#warn(`The monitor sent a ${name} message that breaks its schema; it was dropped.`);
    });
  }

  /** Sends without waiting; false when there is no monitor to send to. */
  send<M extends ClientMessage>(name: M, payload: Payload<M>): boolean {
    if (!this.isJoined) return false;
    this.#socket.emit(name as string, payload);
    return true;
  }

  /**
   * Calls the monitor. `onReply` runs before any later message of the monitor is handled, which the promise cannot promise.
   * Throws what the monitor answered, or `unreachable`, `deadline`, `malformed`.
   */
  call<M extends ClientMessage, S extends z.ZodObject>(
    name: M,
    payload: Payload<M>,
    schema: S,
    onReply?: (reply: z.infer<S>) => void,
    options?: { signal?: AbortSignal | undefined },
  ): Promise<z.infer<S>> {
    if (!this.isJoined) return Promise.reject(unreachable(this.#options.target.url, 'the connection is lost'));
    return this.#ask(name, payload, schema, onReply, options?.signal);
  }

  close(): void {
    this.#state = 'closed';
    clearTimeout(this.#retry);
    clearTimeout(this.#joinTimer);
    this.#socket.disconnect();
  }

  #ask<S extends z.ZodObject>(
    name: string,
    payload: object,
    schema: S,
    onReply?: (reply: z.infer<S>) => void,
    signal?: AbortSignal,
  ): Promise<z.infer<S>> {
    const { promise, resolve, reject } = Promise.withResolvers<z.infer<S>>();
    const onAbort = () => reject(toMeshError(signal?.reason));
    if (signal?.aborted) onAbort();
    signal?.addEventListener('abort', onAbort, { once: true });
    this.#socket.timeout(CALL_DEADLINE_MS).emit(name, payload, (failure: Error | null, reply: unknown) => {
      signal?.removeEventListener('abort', onAbort);
      if (failure) return reject(this.#callFailure(name, failure));
      const parsed = z.union([schema.extend({ ok: z.literal(true) }), failureSchema]).safeParse(reply);
      if (!parsed.success) return reject(malformed(name));
      if (parsed.data.ok === false) {
        const { code, message, fix } = (parsed.data as z.infer<typeof failureSchema>).error;
        return reject(new MeshError(code as MeshErrorCode, message, fix));
      }
      const answer = parsed.data as z.infer<S>;
      onReply?.(answer);
      resolve(answer);
    });
    return promise;
  }

  async #answer(payload: unknown): Promise<void> {
    const { identity, role, target, now } = this.#options;
    try {
      const parsed = monitorMessages.challenge.safeParse(payload);
      if (!parsed.success)
        throw new MeshError(
          'malformed',
          `The monitor at ${target.url} speaks another version of the protocol.`,
          'Update this peer or the monitor, so that both are of the same version.',
        );
      this.#clockOffsetMs = parsed.data.now - now();
      const signature = await identity.sign('join', parsed.data.nonce);
      const { iceServers } = await this.#ask(
        'join',
        { peer: identity.peer, role, token: target.token, signature },
        replies.join,
      );
      if (this.#state === 'closed') return;
      this.iceServers = iceServers.map(({ urls, username, credential }) => ({
        urls,
        ...(username === undefined ? {} : { username }),
        ...(credential === undefined ? {} : { credential }),
      }));
      clearTimeout(this.#joinTimer);
      this.#state = 'joined';
      this.#lastFailure = '';
      this.#options.onJoined();
      this.#firstJoin.resolve();
    } catch (cause) {
      const error = toMeshError(cause);
      const mayPass = error.code === 'deadline' || error.code === 'unreachable';
      if (this.#state === 'starting' && !mayPass) this.#firstJoin.reject(error);
      else this.#drop(error.message);
    }
  }

  #onConnectError(error: Error): void {
    const cause = causeOf(error);
    if (this.#state === 'starting' && cause instanceof MeshError) this.#firstJoin.reject(cause);
    this.#lastFailure = `: ${cause.message}`;
  }

  #onDisconnect(reason: string): void {
    clearTimeout(this.#joinTimer);
    if (this.#state === 'joined') {
      this.#state = 'lost';
      this.#options.onLost(reason);
    }
    // Socket.IO reconnects by itself, except where one of the ends closed on purpose.
    if (reason.startsWith('io ') && this.#state !== 'closed') this.#retryLater();
  }

  #drop(reason: string): void {
    if (this.#state === 'closed') return;
    if (this.#lastFailure !== `: ${reason}`) this.#warn(`Joining the monitor failed: ${reason}`);
    this.#lastFailure = `: ${reason}`;
    this.#socket.disconnect();
    this.#retryLater();
  }

  #retryLater(): void {
    clearTimeout(this.#retry);
    this.#retry = setTimeout(() => this.#socket.connect(), RETRY_MAX_MS * (0.5 + Math.random() / 2));
  }

  #callFailure(name: string, failure: Error): MeshError {
    if (!this.#socket.connected) return unreachable(this.#options.target.url, `the connection was lost during ${name}`);
    return new MeshError(
      'deadline',
      `The monitor did not answer ${name} in ${CALL_DEADLINE_MS} ms.`,
      'Try again; if it stays so, look at the load of the machine that the monitor runs on.',
      { cause: failure },
    );
  }

  #warn(message: string): void {
    this.#options.emit({ kind: 'log', level: 'warn', message });
  }
}

const malformed = (name: string): MeshError =>
  new MeshError(
    'malformed',
    `The monitor's answer to ${name} breaks its schema.`,
    'Update this peer or the monitor, so that both are of the same version.',
  );

const unreachable = (url: string, why: string): MeshError =>
  new MeshError(
    'unreachable',
    `The monitor at ${url} cannot be reached: ${why}.`,
    'Check that it runs (node signaling/main.ts), that the link is its newest one and whole (in single quotes on a command line), and that no firewall is between.',
  );

/** The error beneath Socket.IO's "websocket error"; a browser does not tell. */
function causeOf(error: Error): Error {
  const event = (error as { description?: unknown }).description;
  const inner = typeof event === 'object' && event !== null && 'error' in event ? event.error : undefined;
  return inner instanceof Error ? inner : error;
}
