// Many frames over one pipe: cut into chunks, taken in turns (small ones first), paced by credits, reassembled, cancellable.
// It also notices that the other end is gone: every link beats.
import { MeshError, toMeshError } from '../errors.ts';
import {
  CHUNK_HEADER_BYTES,
  decodeChunk,
  encodeChunk,
  malformed,
  writeChunkHeader,
  type Chunk,
  type Lane,
} from './chunk.ts';
import { pipeClosed, type Pipe } from './pipe.ts';
import { Reassembly } from './reassembly.ts';

export interface MuxOptions {
  /** Bytes that may be under way in one lane before the receiver grants more: bounds what any transport buffers. */
  windowBytes: number;
  /** Bytes of delivered requests that nobody has dealt with yet; beyond it the other end gets no more credit. */
  backlogBytes: number;
  maxFrameBytes: number;
  maxOpenBytes: number;
  heartbeatMs: number;
  /** Silence after which the other end counts as gone. */
  silenceMs: number;
  now: () => number;
}

export const MUX_DEFAULTS: MuxOptions = {
  windowBytes: 4 << 20,
  backlogBytes: 64 << 20,
  maxFrameBytes: 1 << 30,
  maxOpenBytes: 2 * 1024 ** 3,
  heartbeatMs: 1_000,
  silenceMs: 6_000,
  now: () => performance.now(),
};

/** A frame handed to the listener; `release` gives its credits back (replies give theirs back by themselves). */
export interface Received {
  bytes: Uint8Array<ArrayBuffer>;
  release(): void;
}

export interface MuxListener {
  frame(received: Received): void;
  closed(error: MeshError): void;
}

interface Outgoing {
  id: number;
  lane: Lane;
  parts: readonly Uint8Array<ArrayBuffer>[];
  frameBytes: number;
  count: number;
  index: number;
  part: number;
  partOffset: number;
  settle: { resolve(): void; reject(error: MeshError): void };
}

const MAX_OPEN_FRAMES = 256;
/** Big frames that take turns at once: bounds what the other end must hold half-finished. */
const MAX_INTERLEAVED = 4;

export class Mux {
  readonly #pipe: Pipe;
  readonly #options: MuxOptions;
  readonly #listener: MuxListener;
  readonly #chunkBytes: number;
  readonly #reassembly: Reassembly;
  readonly #credit: Record<Lane, number>;
  readonly #owed: Record<Lane, number> = { request: 0, reply: 0 };
  #backlog = 0;
  #queue: Outgoing[] = [];
  #nextId = 1;
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
    this.#chunkBytes = pipe.maxMessageBytes - CHUNK_HEADER_BYTES;
    this.#reassembly = new Reassembly({
      maxFrameBytes: this.#options.maxFrameBytes,
      maxOpenBytes: this.#options.maxOpenBytes,
      maxOpenFrames: MAX_OPEN_FRAMES,
    });
    this.#credit = { request: this.#options.windowBytes, reply: this.#options.windowBytes };
    this.#lastHeard = this.#lastTick = this.#options.now();
    this.#timer = setInterval(() => this.#beat(), this.#options.heartbeatMs);
    pipe.listen({ message: (bytes) => this.#receive(bytes), closed: (reason) => this.#end(pipeClosed(reason)) });
  }

  get queuedFrames(): number {
    return this.#queue.length;
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
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const id = this.#nextId;
    this.#nextId = (this.#nextId % 0xffffffff) + 1;
    const outgoing: Outgoing = {
      id,
      lane,
      parts,
      frameBytes,
      count: Math.max(1, Math.ceil(frameBytes / this.#chunkBytes)),
      index: 0,
      part: 0,
      partOffset: 0,
      settle: { resolve, reject },
    };
    const abort = (): void => this.#cancel(outgoing, toMeshError(signal?.reason));
    if (signal?.aborted) return Promise.reject(toMeshError(signal.reason));
    signal?.addEventListener('abort', abort, { once: true });
    this.#queue.push(outgoing);
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
    if (this.#closed) return;
    this.#control({ type: 'bye', payload: new TextEncoder().encode(reason.slice(0, 200)) });
    this.#end(pipeClosed(reason));
  }

  /** Sends what the credits allow, chunk by chunk, taking turns: one-chunk frames first, the others round robin. */
  async #pump(): Promise<void> {
    if (this.#pumping) return;
    this.#pumping = true;
    try {
      for (let next = this.#pick(); next && !this.#closed; next = this.#pick()) {
        const chunk = this.#cut(next);
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

  #pick(): Outgoing | undefined {
    const ready = (o: Outgoing): boolean => this.#credit[o.lane] > 0;
    const started = this.#queue.reduce((count, o) => count + (o.index > 0 ? 1 : 0), 0);
    const small = this.#queue.findIndex((o) => o.count === 1 && ready(o));
    const index =
      small >= 0 ? small : this.#queue.findIndex((o) => ready(o) && (o.index > 0 || started < MAX_INTERLEAVED));
    if (index < 0) return undefined;
    const [chosen] = this.#queue.splice(index, 1);
    if (chosen && chosen.index + 1 < chosen.count) this.#queue.push(chosen);
    return chosen;
  }

  #cut(frame: Outgoing): Uint8Array<ArrayBuffer> {
    const size = Math.min(this.#chunkBytes, frame.frameBytes - frame.index * this.#chunkBytes);
    const out = new Uint8Array(CHUNK_HEADER_BYTES + size);
    writeChunkHeader(out, {
      type: 'data',
      lane: frame.lane,
      id: frame.id,
      index: frame.index,
      count: frame.count,
      frameBytes: frame.frameBytes,
    });
    let filled = 0;
    while (filled < size) {
      const part = frame.parts[frame.part];
      if (!part) throw new MeshError('internal', 'A frame ran out of bytes.', 'This is a defect: please report it.');
      const take = part.subarray(frame.partOffset, frame.partOffset + size - filled);
      out.set(take, CHUNK_HEADER_BYTES + filled);
      filled += take.byteLength;
      frame.partOffset += take.byteLength;
      if (frame.partOffset >= part.byteLength) {
        frame.part += 1;
        frame.partOffset = 0;
      }
    }
    frame.index += 1;
    return out;
  }

  #cancel(frame: Outgoing, error: MeshError): void {
    const at = this.#queue.indexOf(frame);
    if (at >= 0) this.#queue.splice(at, 1);
    if (frame.index < frame.count && frame.index > 0) this.#control({ type: 'cancel', id: frame.id });
    frame.settle.reject(error);
  }

  #receive(bytes: Uint8Array<ArrayBuffer>): void {
    this.#lastHeard = this.#options.now();
    this.bytesIn += bytes.byteLength;
    try {
      this.#take(decodeChunk(bytes), bytes.byteLength);
    } catch (cause) {
      const error = toMeshError(cause);
      this.#control({ type: 'bye', payload: new TextEncoder().encode(error.message.slice(0, 200)) });
      this.#end(error);
    }
  }

  #take(chunk: Chunk, size: number): void {
    switch (chunk.type) {
      case 'data': {
        const frame = this.#reassembly.add(chunk);
        if (frame) this.#deliver(frame, chunk.lane);
        this.#grant(chunk.lane, size);
        return;
      }
      case 'credit':
        if (chunk.index > this.#options.windowBytes * 2) throw malformed(`a credit of ${chunk.index} bytes`);
        this.#credit[chunk.lane] += chunk.index;
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
      this.#listener.frame({ bytes: frame, release: () => undefined });
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
    this.#listener.frame({ bytes: frame, release });
  }

  /** Credits go back in lumps of a quarter window, so that they cost next to nothing, and not while the backlog is full. */
  #grant(lane: Lane, bytes: number): void {
    this.#owed[lane] += bytes;
    if (this.#owed[lane] < this.#options.windowBytes / 4) return;
    if (lane === 'request' && this.#backlog > this.#options.backlogBytes) return;
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
    if (silence > this.#options.silenceMs) this.#end(pipeClosed(`nothing was heard for ${Math.round(silence)} ms`));
    else if (silence > this.#options.heartbeatMs / 2) this.#control({ type: 'ping', index: 0 });
  }

  #end(error: MeshError): void {
    if (this.#closed) return;
    this.#closed = error;
    clearInterval(this.#timer);
    this.#pipe.close(error.message);
    for (const frame of this.#queue) frame.settle.reject(error);
    this.#queue = [];
    for (const ping of this.#pings.values()) ping.reject(error);
    this.#listener.closed(error);
  }
}
