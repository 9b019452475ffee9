// Bytes from the GPU to the caller: staging buffers that are reused, mapped once, copied out once.
import { MeshError } from '../errors.ts';
import { STAGING, type BufferPool, type Slice } from './buffers.ts';

const READ = 0x01; // GPUMapMode.READ

/** What one submit will read: ranges are laid out one after the other in one staging buffer. */
export class Readback {
  readonly #pool: BufferPool;
  readonly #ranges: { from: Slice; at: number }[] = [];
  #bytes = 0;

  constructor(pool: BufferPool) {
    this.#pool = pool;
  }

  add(from: Slice): void {
    this.#ranges.push({ from, at: this.#bytes });
    this.#bytes += Math.ceil(from.bytes / 8) * 8;
  }

  /** Encodes the copies; the returned function maps, copies out and gives the staging buffer back. */
  encode(encoder: GPUCommandEncoder): () => Promise<Uint8Array<ArrayBuffer>[]> {
    if (this.#ranges.length === 0) return () => Promise.resolve([]);
    const staging = this.#pool.take(this.#bytes, STAGING);
    for (const { from, at } of this.#ranges)
      encoder.copyBufferToBuffer(from.buffer, from.offset, staging.buffer, at, from.bytes);
    return () => this.#collect(staging);
  }

  async #collect(staging: Slice): Promise<Uint8Array<ArrayBuffer>[]> {
    try {
      await staging.buffer.mapAsync(READ, 0, staging.bytes).catch((cause: unknown) => {
        throw new MeshError('gpu-lost', 'The GPU went away before its result could be read.', 'Open the stage again.', {
          cause,
        });
      });
      const mapped = staging.buffer.getMappedRange(0, staging.bytes);
      return this.#ranges.map(({ from, at }) => new Uint8Array(mapped.slice(at, at + from.bytes)));
    } finally {
      if (staging.buffer.mapState === 'mapped') staging.buffer.unmap();
      this.#pool.release(staging);
    }
  }
}
