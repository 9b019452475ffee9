// What a stage makes of its weights and shapes and keeps beside them: weights in 16 bits for products, tables of angles.
import type { Slice } from '../gpu/buffers.ts';
import { STORAGE } from '../gpu/buffers.ts';
import { halfBytes, toHalf } from '../gpu/elementwise.ts';
import type { Gpu, Recorder } from '../gpu/gpu.ts';
import type { StageState } from './stage-state.ts';
import { bindable } from './weights.ts';

interface Copy {
  slice: Slice;
  /** Of the weights that it was made of; -1: of none yet. */
  version: number;
}

/** The matrices that a stage's products read, in 16 bits: made when first read, and again after the weights have changed. */
export class HalfWeights {
  readonly format: 'bf16' | 'f16';
  readonly #gpu: Gpu;
  readonly #state: StageState;
  readonly #copies = new Map<string, Copy>();

  constructor(gpu: Gpu, state: StageState, format: 'bf16' | 'f16') {
    this.#gpu = gpu;
    this.#state = state;
    this.format = format;
  }

  get(recorder: Recorder, name: string): Slice {
    const { version, weights } = this.#state;
    const whole = weights.get(name);
    let copy = this.#copies.get(name);
    if (copy === undefined) {
      copy = { slice: this.#gpu.pool.take(halfBytes(whole.bytes / 4), STORAGE, true), version: -1 };
      this.#copies.set(name, copy);
    }
    if (copy.version !== version) {
      copy.version = version;
      recorder.onFailure(() => this.#forget(name));
      let { offset } = copy.slice;
      // Half of a piece ends where a binding may begin.
      for (const from of bindable(whole, Math.floor(weights.layout.maxBinding / 512) * 512)) {
        const count = from.bytes / 4;
        const bytes = halfBytes(count);
        toHalf(recorder, { buffer: copy.slice.buffer, offset, bytes }, from, { count, format: this.format });
        offset += bytes;
      }
    }
    return copy.slice;
  }

  release(): void {
    for (const name of [...this.#copies.keys()]) this.#forget(name);
  }

  #forget(name: string): void {
    const copy = this.#copies.get(name);
    if (copy !== undefined) this.#gpu.pool.release(copy.slice);
    this.#copies.delete(name);
  }
}

/** Constants by name, uploaded once. */
export class Tables {
  readonly #gpu: Gpu;
  readonly #tables = new Map<string, Slice>();

  constructor(gpu: Gpu) {
    this.#gpu = gpu;
  }

  get(recorder: Recorder, name: string, count: number, values: () => Float32Array<ArrayBuffer>): Slice {
    let slice = this.#tables.get(name);
    if (slice === undefined) {
      slice = this.#gpu.pool.take(count * 4);
      this.#tables.set(name, slice);
      recorder.onFailure(() => this.#forget(name));
      recorder.write(slice, new Uint8Array(values().buffer));
    }
    return slice;
  }

  release(): void {
    for (const name of [...this.#tables.keys()]) this.#forget(name);
  }

  #forget(name: string): void {
    const table = this.#tables.get(name);
    if (table !== undefined) this.#gpu.pool.release(table);
    this.#tables.delete(name);
  }
}
