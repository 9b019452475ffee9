// Many frames over one pipe: cut into chunks, taken in turns (small ones first), paced by credits, reassembled, cancellable.
// It also notices that the other end is gone: every link beats.
import { MeshError, toMeshError } from '../errors.ts';
import { CHUNK_HEADER_BYTES, decodeChunk, encodeChunk, malformed, type Chunk, type Lane } from './chunk.ts';
import { Outbox, type Outgoing } from './outbox.ts';
import { pipeClosed, type Pipe } from './pipe.ts';
import { Reassembly } from './reassembly.ts';

export interface MuxOptions {
  /** Bytes that may be under way in one lane before the receiver grants more: bounds what any transport buffers. Equal on both ends. */
  windowBytes: number;
  /** Bytes of delivered requests that nobody has dealt with yet; beyond it the other end gets no more credit. */
  backlogBytes: number;
  maxFrameBytes: number;
  maxOpenBytes: number;
  heartbeatMs: number;
  /** Silence after which the other end counts as gone; three times as long where its host still answers below the pipe. */
  silenceMs: number;
  now: () => number;
}

export const MUX_DEFAULTS: MuxOptions = {
  windowBytes: 4 << 20,
  backlogBytes: 64 << 20,
  maxFrameBytes: 1.5 * 1024 ** 3, // the whole state of a stage with the parameters of GPT-2
  maxOpenBytes: 2 * 1024 ** 3,
  heartbeatMs: 1_000,
  silenceMs: 6_000,
  now: () => performance.now(),
};

/** A frame handed to the listener; `release` gives its credits back (replies give theirs back by themselves). */
export interface Received {
  bytes: Uint8Array<ArrayBuffer>;
  lane: Lane;
  release(): void;
}

export interface MuxListener {
  frame(received: Received): void;
  closed(error: MeshError): void;
}

const MAX_OPEN_FRAMES = 256;
/** So many times the silence where the other end's host still answers: only what it hosts hangs, or a burst of losses is being made up for. */
const ANSWERED = 3;

export class Mux {
  readonly #pipe: Pipe;
  readonly #options: MuxOptions;
  readonly #listener: MuxListener;
  readonly #outbox: Outbox;
  readonly #reassembly: Reassembly;
  /** What this end may send. */
  readonly #credit: Record<Lane, number>;
  /** What the other end may send, and what it has sent since the last grant. */
  readonly #allowed: Record<Lane, number>;
  readonly #owed: Record<Lane, number> = { request: 0, reply: 0 };
  #backlog = 0;
  #pumping = false;
  #closed: MeshError | null = null;
  #lastHeard: number;
  #lastTick: number;
  #pings = new Map<number, { sentAt: number; resolve(ms: number): void; reject(error: MeshError): void }>();
  readonly #timer: ReturnType<typeof setInterval>;
  bytesIn = 0;
  bytesOut = 0;

  constructor(pipe: Pipe, listener: MuxListener, options: Partial<MuxOptions> = {}) {
    this.#pipe = pipe;
    this.#listener = listener;
    this.#options = { ...MUX_DEFAULTS, ...options };
    this.#outbox = new Outbox(pipe.maxMessageBytes - CHUNK_HEADER_BYTES);
    this.#reassembly = new Reassembly({
      maxFrameBytes: this.#options.maxFrameBytes,
      maxOpenBytes: this.#options.maxOpenBytes,
      maxOpenFrames: MAX_OPEN_FRAMES,
    });
    this.#credit = { request: this.#options.windowBytes, reply: this.#options.windowBytes };
    this.#allowed = { ...this.#credit };
    this.#lastHeard = this.#lastTick = this.#options.now();
    this.#timer = setInterval(() => this.#beat(), this.#options.heartbeatMs);
    // What waits in the pipe, its end included, comes only when those who made this mux have their hands on it.
    queueMicrotask(() =>
      pipe.listen({ message: (bytes) => this.#receive(bytes), closed: (reason) => this.#end(pipeClosed(reason)) }),
    );
  }

  get queuedFrames(): number {
    return this.#outbox.size;
  }

  /** Resolves when the last byte was handed to the pipe. An abort before that takes the frame back on both ends. */
  send(lane: Lane, parts: readonly Uint8Array<ArrayBuffer>[], signal?: AbortSignal): Promise<void> {
    const frameBytes = parts.reduce((sum, part) => sum + part.byteLength, 0);
    if (this.#closed) return Promise.reject(this.#closed);
    if (frameBytes > this.#options.maxFrameBytes)
      return Promise.reject(
        new MeshError(
          'too-large',
          `A frame of ${frameBytes} bytes exceeds the limit of ${this.#options.maxFrameBytes}.`,
          'Split the tensors.',
        ),
      );
    if (signal?.aborted) return Promise.reject(toMeshError(signal.reason));
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const outgoing = this.#outbox.add(lane, parts, { resolve, reject });
    const abort = (): void => this.#takeBack(outgoing, toMeshError(signal?.reason));
    signal?.addEventListener('abort', abort, { once: true });
    void this.#pump();
    return promise.finally(() => signal?.removeEventListener('abort', abort));
  }

  /** Round trip in milliseconds. */
  ping(deadlineMs: number): Promise<number> {
    if (this.#closed) return Promise.reject(this.#closed);
    const nonce = crypto.getRandomValues(new Uint32Array(1))[0] ?? 0;
    const { promise, resolve, reject } = Promise.withResolvers<number>();
    this.#pings.set(nonce, { sentAt: this.#options.now(), resolve, reject });
    const timer = setTimeout(
      () =>
        reject(
          new MeshError('deadline', `No answer to a ping within ${deadlineMs} ms.`, 'Check that the peer still runs.'),
        ),
      deadlineMs,
    );
    this.#control({ type: 'ping', index: nonce });
    return promise.finally(() => {
      clearTimeout(timer);
      this.#pings.delete(nonce);
    });
  }

  close(reason: string): void {
    this.#part(pipeClosed(reason), reason);
  }

  /** Closes because the other end broke the protocol. */
  fail(error: MeshError): void {
    this.#part(error, error.message);
  }

  #part(error: MeshError, reason: string): void {
    if (this.#closed) return;
    this.#control({ type: 'bye', payload: new TextEncoder().encode(reason.slice(0, 200)) });
    this.#end(error, true);
  }

  /** Sends what the credits allow, chunk by chunk. */
  async #pump(): Promise<void> {
    if (this.#pumping) return;
    this.#pumping = true;
    try {
      for (let next = this.#outbox.pick(this.#credit); next && !this.#closed; next = this.#outbox.pick(this.#credit)) {
        let chunk: Uint8Array<ArrayBuffer>;
        try {
          chunk = this.#outbox.cut(next);
        } catch (cause) {
          this.#takeBack(next, toMeshError(cause)); // its own fault; the other frames go on
          continue;
        }
        this.#credit[next.lane] -= chunk.byteLength;
        this.bytesOut += chunk.byteLength;
        try {
          await this.#pipe.send(chunk);
        } catch (cause) {
          next.settle.reject(toMeshError(cause));
          throw cause;
        }
        if (next.index === next.count) next.settle.resolve();
      }
    } catch (cause) {
      this.#end(toMeshError(cause));
    } finally {
      this.#pumping = false;
    }
  }

  #takeBack(frame: Outgoing, error: MeshError): void {
    this.#outbox.remove(frame);
    if (frame.index < frame.count && frame.index > 0) this.#control({ type: 'cancel', id: frame.id });
    frame.settle.reject(error);
  }

  #receive(bytes: Uint8Array<ArrayBuffer>): void {
    if (this.#closed) return;
    this.#lastHeard = this.#options.now();
    this.bytesIn += bytes.byteLength;
    try {
      this.#take(decodeChunk(bytes), bytes.byteLength);
    } catch (cause) {
      this.fail(toMeshError(cause));
    }
  }

  #take(chunk: Chunk, size: number): void {
    switch (chunk.type) {
      case 'data': {
        this.#allowed[chunk.lane] -= size;
        // Whoever has any credit left may send one whole chunk.
        if (this.#allowed[chunk.lane] <= -this.#pipe.maxMessageBytes)
          throw malformed(`the ${chunk.lane} lane went ${-this.#allowed[chunk.lane]} bytes beyond its credit`);
        const frame = this.#reassembly.add(chunk);
        if (frame) this.#deliver(frame, chunk.lane);
        this.#grant(chunk.lane, size);
        return;
      }
      case 'credit':
        this.#credit[chunk.lane] += chunk.index;
        if (this.#credit[chunk.lane] > this.#options.windowBytes)
          throw malformed(`a credit of ${chunk.index} bytes, more than was sent`);
        void this.#pump();
        return;
      case 'cancel':
        this.#reassembly.drop(chunk.id);
        return;
      case 'ping':
        this.#control({ type: 'pong', index: chunk.index });
        return;
      case 'pong': {
        const ping = this.#pings.get(chunk.index);
        ping?.resolve(this.#options.now() - ping.sentAt);
        return;
      }
      case 'bye':
        this.#end(pipeClosed(`the other end closed it: ${new TextDecoder().decode(chunk.payload)}`));
        return;
      default:
        chunk.type satisfies never;
    }
  }

  /** Requests count as backlog until released; replies were asked for and never do. */
  #deliver(frame: Uint8Array<ArrayBuffer>, lane: Lane): void {
    if (lane === 'reply') {
      this.#listener.frame({ bytes: frame, lane, release: () => undefined });
      return;
    }
    const size = frame.byteLength;
    this.#backlog += size;
    let released = false;
    const release = (): void => {
      if (released) return;
      released = true;
      this.#backlog -= size;
      this.#grant('request', 0);
    };
    this.#listener.frame({ bytes: frame, lane, release });
  }

  /** Credits go back in lumps of a quarter window, so that they cost next to nothing, and not while the backlog is full. */
  #grant(lane: Lane, bytes: number): void {
    this.#owed[lane] += bytes;
    if (this.#owed[lane] < this.#options.windowBytes / 4) return;
    if (lane === 'request' && this.#backlog > this.#options.backlogBytes) return;
    this.#allowed[lane] += this.#owed[lane];
    this.#control({ type: 'credit', lane, index: this.#owed[lane] });
    this.#owed[lane] = 0;
  }

  #control(chunk: Partial<Chunk> & { type: Chunk['type'] }): void {
    if (this.#closed) return;
    this.#pipe.send(encodeChunk(chunk)).catch((cause: unknown) => this.#end(toMeshError(cause)));
  }

  #beat(): void {
    const now = this.#options.now();
    // A late tick means that this process was held up: what came meanwhile is not read yet, so nobody is blamed.
    if (now - this.#lastTick > this.#options.heartbeatMs * 3) this.#lastHeard = now;
    this.#lastTick = now;
    const silence = now - this.#lastHeard;
    const { silenceMs } = this.#options;
    const isGone = silence > silenceMs * ANSWERED || (silence > silenceMs && this.#pipe.isAnswered?.() !== true);
    if (isGone) this.#end(pipeClosed(`nothing was heard for ${Math.round(silence)} ms`));
    else if (silence > this.#options.heartbeatMs / 2) this.#control({ type: 'ping', index: 0 });
  }

  #end(error: MeshError, isGoodbye = false): void {
    if (this.#closed) return;
    this.#closed = error;
    clearInterval(this.#timer);
    this.#pipe.close(error.message, isGoodbye);
    this.#outbox.rejectAll(error);
    for (const ping of this.#pings.values()) ping.reject(error);
    this.#listener.closed(error);
  }
}
