// What one end still has to send: frames cut into chunks, taken in turns so that neither a small frame waits for a big one nor a
// big one starves. Knows no pipe and no clock.
import { MeshError } from '../errors.ts';
import { CHUNK_HEADER_BYTES, writeChunkHeader, type Lane } from './chunk.ts';

export interface Outgoing {
  id: number;
  lane: Lane;
  parts: readonly Uint8Array<ArrayBuffer>[];
  frameBytes: number;
  count: number;
  /** The next chunk. */
  index: number;
  part: number;
  partOffset: number;
  settle: { resolve(): void; reject(error: MeshError): void };
}

/** Big frames of a lane that take turns at once: bounds what the other end must hold half-finished. */
const MAX_INTERLEAVED = 4;
/** One-chunk frames that go in a row while a big one waits. */
const MAX_SMALL_RUN = 32;
/** Replies first: they end what the other end is waiting for. */
const ORDER: readonly Lane[] = ['reply', 'request'];

export class Outbox {
  readonly #chunkBytes: number;
  readonly #small: Record<Lane, Outgoing[]> = { request: [], reply: [] };
  /** The first MAX_INTERLEAVED of each lane are the ones that have started or may. */
  readonly #big: Record<Lane, Outgoing[]> = { request: [], reply: [] };
  #smallRun = 0;
  #bigTurn: Lane = 'reply';
  #nextId = 1;

  constructor(chunkBytes: number) {
    this.#chunkBytes = chunkBytes;
  }

  get size(): number {
    return ORDER.reduce((sum, lane) => sum + this.#small[lane].length + this.#big[lane].length, 0);
  }

  add(lane: Lane, parts: readonly Uint8Array<ArrayBuffer>[], settle: Outgoing['settle']): Outgoing {
    const frameBytes = parts.reduce((sum, part) => sum + part.byteLength, 0);
    const count = Math.max(1, Math.ceil(frameBytes / this.#chunkBytes));
    const frame = { id: this.#nextId, lane, parts, frameBytes, count, index: 0, part: 0, partOffset: 0, settle };
    this.#nextId = (this.#nextId % 0xffffffff) + 1;
    (count === 1 ? this.#small : this.#big)[lane].push(frame);
    return frame;
  }

  /** The frame whose turn it is, in a lane that has credit; the caller cuts one chunk from it. */
  pick(credit: Readonly<Record<Lane, number>>): Outgoing | undefined {
    const small = ORDER.find((lane) => credit[lane] > 0 && this.#small[lane].length > 0);
    const bigs = ORDER.filter((lane) => credit[lane] > 0 && this.#big[lane].length > 0);
    if (small && (bigs.length === 0 || this.#smallRun < MAX_SMALL_RUN)) {
      this.#smallRun += 1;
      return this.#small[small].shift();
    }
    this.#smallRun = 0;
    const lane = bigs.find((candidate) => candidate === this.#bigTurn) ?? bigs[0];
    if (!lane) return undefined;
    this.#bigTurn = lane === 'reply' ? 'request' : 'reply';
    const queue = this.#big[lane];
    const frame = queue.shift();
    if (frame && frame.index + 1 < frame.count) queue.splice(MAX_INTERLEAVED - 1, 0, frame);
    return frame;
  }

  /** The next chunk of a frame, header and payload. Throws `internal` where the bytes were changed while under way. */
  cut(frame: Outgoing): Uint8Array<ArrayBuffer> {
    const size = Math.min(this.#chunkBytes, frame.frameBytes - frame.index * this.#chunkBytes);
    const out = new Uint8Array(CHUNK_HEADER_BYTES + size);
    const { lane, id, index, count, frameBytes } = frame;
    writeChunkHeader(out, { type: 'data', lane, id, index, count, frameBytes });
    let filled = 0;
    while (filled < size) {
      const part = frame.parts[frame.part];
      if (!part || part.byteLength === 0)
        throw new MeshError(
          'internal',
          `A frame of ${frameBytes} bytes ran out of them: a tensor was transferred away while it was being sent.`,
          'This is a defect: please report it.',
        );
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

  remove(frame: Outgoing): void {
    for (const queue of [this.#small[frame.lane], this.#big[frame.lane]]) {
      const at = queue.indexOf(frame);
      if (at >= 0) queue.splice(at, 1);
    }
  }

  rejectAll(error: MeshError): void {
    for (const queues of [this.#small, this.#big])
      for (const lane of ORDER) for (const frame of queues[lane].splice(0)) frame.settle.reject(error);
  }
}
