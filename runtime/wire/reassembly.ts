// Puts chunks back together. Chunks of one frame arrive in order (the pipe is ordered), those of several frames interleave.
// What a frame claims is checked against limits before memory is taken, and against what arrives.
import { malformed, type Chunk, type Lane } from './chunk.ts';
import { MeshError } from '../errors.ts';

interface Partial {
  bytes: Uint8Array<ArrayBuffer>;
  filled: number;
  next: number;
  count: number;
  lane: Lane;
}

export interface ReassemblyLimits {
  maxFrameBytes: number;
  /** Claimed bytes of all frames that are open at once. */
  maxOpenBytes: number;
  maxOpenFrames: number;
}

export class Reassembly {
  readonly #limits: ReassemblyLimits;
  readonly #open = new Map<number, Partial>();
  #openBytes = 0;

  constructor(limits: ReassemblyLimits) {
    this.#limits = limits;
  }

  get openFrames(): number {
    return this.#open.size;
  }

  /** The whole frame with its last chunk, else null. Throws `malformed` or `too-large`. */
  add(chunk: Chunk): Uint8Array<ArrayBuffer> | null {
    let partial = this.#open.get(chunk.id);
    if (!partial) {
      if (chunk.index !== 0) throw malformed(`frame ${chunk.id} starts with chunk ${chunk.index}`);
      // A frame in one chunk needs no second buffer: its payload already is the frame.
      if (chunk.count === 1) {
        if (chunk.payload.byteLength !== chunk.frameBytes) throw lying(chunk, chunk.payload.byteLength);
        return chunk.payload.slice();
      }
      if (chunk.count > chunk.frameBytes) throw malformed(`${chunk.count} chunks for ${chunk.frameBytes} bytes`);
      this.#admit(chunk);
      partial = { bytes: new Uint8Array(chunk.frameBytes), filled: 0, next: 0, count: chunk.count, lane: chunk.lane };
      this.#open.set(chunk.id, partial);
      this.#openBytes += chunk.frameBytes;
    }
    if (
      chunk.index !== partial.next ||
      chunk.count !== partial.count ||
      chunk.frameBytes !== partial.bytes.byteLength ||
      chunk.lane !== partial.lane
    )
      throw malformed(
        `chunk ${chunk.index} of ${chunk.count} does not continue frame ${chunk.id} at ${partial.next} of ${partial.count}`,
      );
    if (partial.filled + chunk.payload.byteLength > partial.bytes.byteLength)
      throw lying(chunk, partial.filled + chunk.payload.byteLength);
    partial.bytes.set(chunk.payload, partial.filled);
    partial.filled += chunk.payload.byteLength;
    partial.next += 1;
    if (partial.next < partial.count) return null;
    if (partial.filled !== partial.bytes.byteLength) throw lying(chunk, partial.filled);
    this.drop(chunk.id);
    return partial.bytes;
  }

  drop(id: number): void {
    const partial = this.#open.get(id);
    if (!partial) return;
    this.#openBytes -= partial.bytes.byteLength;
    this.#open.delete(id);
  }

  #admit(chunk: Chunk): void {
    const { maxFrameBytes, maxOpenBytes, maxOpenFrames } = this.#limits;
    if (chunk.frameBytes > maxFrameBytes)
      throw new MeshError(
        'too-large',
        `A frame claims ${chunk.frameBytes} bytes; the limit is ${maxFrameBytes}.`,
        'Send smaller tensors, or raise the limit on both ends.',
      );
    if (this.#openBytes + chunk.frameBytes > maxOpenBytes || this.#open.size >= maxOpenFrames)
      throw new MeshError(
        'too-large',
        `${this.#open.size} open frames claim ${this.#openBytes + chunk.frameBytes} bytes; the limit is ${maxOpenBytes}.`,
        'Send fewer frames at once.',
      );
  }
}

const lying = (chunk: Chunk, got: number): MeshError =>
  malformed(`frame ${chunk.id} claims ${chunk.frameBytes} bytes and holds ${got}`);
