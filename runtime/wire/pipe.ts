// A pipe carries ordered, reliable messages between two processes, whichever transport it rides on. Who owns what: the transport
// makes the pipe and fills `binding`; one listener at a time takes what arrives (what comes before one is set is kept in order);
// whoever closes says why. A pipe knows nothing of frames, identities or credits.
import { MeshError } from '../errors.ts';
import type { TransportKind } from '../events.ts';

export interface PipeListener {
  message(bytes: Uint8Array<ArrayBuffer>): void;
  /** Called exactly once. */
  closed(reason: string): void;
}

export interface Pipe {
  readonly transport: TransportKind;
  /** Longer messages are refused by `send`. */
  readonly maxMessageBytes: number;
  /** A text that both ends derive from the secure channel below (DTLS fingerprints, TLS exporter); '' where there is none. */
  readonly binding: string;
  /** Resolves when the bytes were handed over and more are welcome, rejects `link-lost` once the pipe is closed. */
  send(message: Uint8Array<ArrayBuffer>): Promise<void>;
  /** Null: nobody listens for now, what comes is kept. */
  listen(listener: PipeListener | null): void;
  /** Whether the other end's host answers below this pipe, although nothing may come through it for a while. Absent: nobody can tell. */
  isAnswered?(): boolean;
  /** `isGoodbye`: the last message told the other end so, which goes first then if it still can. */
  close(reason: string, isGoodbye?: boolean): void;
}

/** How many bytes may wait for a listener: more than a new link's credits allow, and no more. */
const MAX_EARLY_BYTES = 16 << 20;

/** The receiving half that every transport shares: keeps early messages in order, reports the end exactly once. */
export class Inbox {
  #listener: PipeListener | null = null;
  #early: Uint8Array<ArrayBuffer>[] = [];
  #earlyBytes = 0;
  #closedReason: string | null = null;

  get closedReason(): string | null {
    return this.#closedReason;
  }

  listen(listener: PipeListener | null): void {
    this.#listener = listener;
    if (!listener) return;
    const wasClosed = this.#closedReason !== null;
    const early = this.#early;
    this.#early = [];
    this.#earlyBytes = 0;
    for (const message of early) this.#take(message);
    if (wasClosed) listener.closed(this.#closedReason ?? '');
  }

  /** False when the message was not taken, because nobody listens and too much waits already. After the end nothing comes. */
  push(message: Uint8Array<ArrayBuffer>): boolean {
    return this.#closedReason !== null || this.#take(message);
  }

  #take(message: Uint8Array<ArrayBuffer>): boolean {
    if (this.#listener) {
      this.#listener.message(message);
      return true;
    }
    this.#earlyBytes += message.byteLength;
    if (this.#earlyBytes > MAX_EARLY_BYTES) return false;
    this.#early.push(message);
    return true;
  }

  /** True the first time. */
  end(reason: string): boolean {
    if (this.#closedReason !== null) return false;
    this.#closedReason = reason;
    this.#listener?.closed(reason);
    return true;
  }
}

export const pipeClosed = (reason: string): MeshError =>
  new MeshError(
    'link-lost',
    `The link is closed: ${reason}.`,
    'The mesh tries another way to that peer; if none is left, check that it still runs.',
  );
