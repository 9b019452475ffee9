// One socket of a peer: its challenge, the schema of each message, its rate and its strikes. What the messages do is peers.ts.
import type { Socket } from 'socket.io';
import type { z } from 'zod';
import { MeshError, toMeshError } from '../runtime/errors.ts';
import type { PeerId } from '../runtime/wire/ids.ts';
import { clientMessages, type ClientMessage } from '../runtime/wire/monitor-messages.ts';
import { TokenBucket } from './rate.ts';

export type Payload<M extends ClientMessage> = z.infer<(typeof clientMessages)[M]>;
export type Handlers = { [M in ClientMessage]: (payload: Payload<M>) => object | Promise<object> };

/** A socket that breaks the protocol this often is closed. */
const MAX_STRIKES = 20;
const MESSAGES = { perSecond: 1_000, burst: 2_000 };
const BYTES = { perSecond: 64 * 1024 * 1024, burst: 16 * 1024 * 1024 };
/** How long a closed socket may take over its last messages and its goodbye. */
const LINGER_MS = 1_000;
/** What may wait in this process for a peer that reads slowly. */
const MAX_WAITING_BYTES = 16 * 1024 * 1024;

/** The part of the `ws` socket that is used beneath Socket.IO; its types do not show it. */
interface RawSocket {
  readonly bufferedAmount: number;
  pause(): void;
  resume(): void;
  terminate(): void;
}

export class Session {
  readonly socket: Socket;
  /** Set at the join; before it nothing but `join` is accepted. */
  peer: PeerId | null = null;
  readonly prefixes = new Set<string>();
  isObserving = false;
  readonly #messages: TokenBucket;
  readonly #bytes: TokenBucket;
  #strikes = 0;
  #resume: NodeJS.Timeout | undefined;

  constructor(socket: Socket, handlers: Handlers, now: () => number) {
    this.socket = socket;
    this.#messages = new TokenBucket({ ...MESSAGES, now });
    this.#bytes = new TokenBucket({ ...BYTES, now });
    socket.on('error', () => this.#strike());
    socket.onAny((name: string, ...args: unknown[]) => void this.#receive(handlers, name, args));
    socket.on('disconnect', () => this.#end());
  }

  /** Hands a message over, unless the peer reads so slowly that it would pile up here: then false. */
  send(name: string, payload: object): boolean {
    if (this.#isClogged()) return false;
    this.socket.emit(name, payload);
    return true;
  }

  /** Counts work and stops reading the socket for as long as it is beyond its rate; others are not delayed by it. */
  charge(messages: number, bytes: number): void {
    const pauseMs = Math.max(this.#messages.take(messages), this.#bytes.take(bytes));
    if (pauseMs <= 0 || !this.socket.connected) return;
    clearTimeout(this.#resume);
    this.#raw()?.pause();
    this.#resume = setTimeout(() => this.#raw()?.resume(), pauseMs);
  }

  async #receive(handlers: Handlers, name: string, args: unknown[]): Promise<void> {
    this.charge(1, 0);
    const last = args.at(-1);
    const acknowledge = (reply: object) => {
      if (typeof last !== 'function') return;
      if (this.#isClogged())
        this.socket.disconnect(true); // it asks without reading the answers
      else last(reply);
    };
    try {
      if (!isMessage(name)) throw malformed(`There is no message named ${JSON.stringify(name.slice(0, 40))}.`);
      if (this.peer === null && name !== 'join')
        throw new MeshError('unauthorized', `${name} came before join.`, 'Answer the challenge with join first.');
      const parsed = clientMessages[name].safeParse(args[0]);
      if (!parsed.success) {
        const issue = parsed.error.issues[0];
        throw malformed(`${name} breaks its schema: ${issue?.path.join('.') || 'payload'}: ${issue?.message}.`);
      }
      const handle = handlers[name] as (payload: unknown) => object | Promise<object>;
      acknowledge({ ok: true, ...(await handle(parsed.data)) });
    } catch (cause) {
      const error = toMeshError(cause);
      acknowledge({ ok: false, error: error.toShape() });
      if (error.code === 'malformed' || error.code === 'unauthorized') this.#strike();
    }
  }

  #isClogged(): boolean {
    return (this.#raw()?.bufferedAmount ?? 0) > MAX_WAITING_BYTES;
  }

  #strike(): void {
    this.#strikes += 1;
    if (this.#strikes >= MAX_STRIKES) this.socket.disconnect(true);
  }

  /** A paused socket would never read the other end's goodbye, and a hostile one never sends it. */
  #end(): void {
    clearTimeout(this.#resume);
    const raw = this.#raw();
    raw?.resume();
    setTimeout(() => raw?.terminate(), LINGER_MS).unref();
  }

  #raw(): RawSocket | undefined {
    return (this.socket.conn.transport as unknown as { socket?: RawSocket }).socket;
  }
}

const isMessage = (name: string): name is ClientMessage => Object.hasOwn(clientMessages, name);

const malformed = (message: string): MeshError =>
  new MeshError('malformed', message, 'Send what runtime/wire/monitor-messages.ts describes.');
