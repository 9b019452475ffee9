// A pool of GPU buffers that really frees. Garbage collection never sees GPU memory, and a destroyed buffer's memory returns only
// with the next submit, so: size classes, explicit destroy, an empty submit after it, and a bound on what lies idle.
// A released buffer may be taken again at once: the queue runs everything in order.
import { MeshError } from '../errors.ts';

/** A range of a buffer. */
export interface Slice {
  readonly buffer: GPUBuffer;
  readonly offset: number;
  readonly bytes: number;
}

export interface PoolLimits {
  maxBufferSize: number;
  maxStorageBufferBindingSize: number;
  /** Above this, buffers that have lain idle for IDLE_TURNS recordings are destroyed. */
  idleBytes: number;
}

export interface PoolCounts {
  allocatedBytes: number;
  usedBytes: number;
  /** The most that there ever was of allocatedBytes. */
  peakBytes: number;
  buffersCreated: number;
}

// GPUBufferUsage and GPUMapMode, spelled out so that this file loads where WebGPU does not exist.
export const STORAGE = 0x80 | 0x04 | 0x08; // STORAGE | COPY_SRC | COPY_DST
export const STAGING = 0x01 | 0x08; // MAP_READ | COPY_DST
export const UNIFORM = 0x40 | 0x08; // UNIFORM | COPY_DST
/** For uploads in the middle of a recording: never handed out as anything else. */
export const UPLOAD = 0x04 | 0x08; // COPY_SRC | COPY_DST

/** Recordings that a buffer may lie idle: several times those of a training step. */
const IDLE_TURNS = 64;

/** Four classes an octave from 256 bytes: at most a quarter is wasted. */
export function sizeClass(bytes: number): number {
  if (bytes <= 256) return 256;
  const step = 2 ** (Math.floor(Math.log2(bytes - 1)) - 2);
  return Math.ceil(bytes / step) * step;
}

export class BufferPool {
  readonly #device: GPUDevice;
  readonly #limits: PoolLimits;
  readonly #onDestroy: () => void;
  /** Oldest first, so that the first to go is the longest idle. */
  #idle: GPUBuffer[] = [];
  /** The turn in which a buffer was given back. */
  readonly #since = new WeakMap<GPUBuffer, number>();
  #turn = 0;
  readonly #numbers = new WeakMap<GPUBuffer, number>();
  readonly #used = new Set<GPUBuffer>();
  readonly #suspect = new WeakSet<GPUBuffer>();
  #fresh: GPUBuffer[] = [];
  #counts: PoolCounts = { allocatedBytes: 0, usedBytes: 0, peakBytes: 0, buffersCreated: 0 };
  #idleBytes = 0;

  constructor(device: GPUDevice, limits: PoolLimits, onDestroy: () => void) {
    this.#device = device;
    this.#limits = limits;
    this.#onDestroy = onDestroy;
  }

  get counts(): PoolCounts {
    return { ...this.#counts };
  }

  /**
   * A buffer of at least `bytes`, of any content. Throws `out-of-memory` where the device cannot have it. What kernels bind as a
   * whole must fit one binding; `isWindowed` is for what they see in windows.
   */
  take(bytes: number, usage: number = STORAGE, isWindowed = false): Slice {
    const needed = Math.max(4, Math.ceil(bytes / 4) * 4);
    const isBound = usage === STORAGE && !isWindowed;
    const limit = isBound ? this.#limits.maxStorageBufferBindingSize : this.#limits.maxBufferSize;
    if (needed > limit) throw tooLarge(needed, limit);
    const size = Math.min(sizeClass(needed), this.#limits.maxBufferSize);
    const at = this.#firstIdle(size, usage);
    const buffer = at < 0 ? this.#create(size, usage) : this.#reuse(at);
    this.#used.add(buffer);
    this.#counts.usedBytes += buffer.size;
    return { buffer, offset: 0, bytes: needed };
  }

  release({ buffer }: Slice): void {
    if (!this.#used.delete(buffer)) return;
    this.#counts.usedBytes -= buffer.size;
    if (this.#suspect.has(buffer)) {
      this.#destroy(buffer);
      return;
    }
    this.#idle.push(buffer);
    this.#since.set(buffer, this.#turn);
    this.#idleBytes += buffer.size;
  }

  /**
   * A recording has been submitted. Only then are buffers destroyed: one that was given back while it was made is in it all the
   * same. What a steady state uses again and again is never idle for long, however large it is.
   */
  endTurn(): void {
    this.#turn += 1;
    if (this.#idleBytes > this.#limits.idleBytes) this.#destroyWhile((buffer) => this.#isStale(buffer));
  }

  #isStale(buffer: GPUBuffer): boolean {
    return this.#idleBytes > this.#limits.idleBytes && this.#turn - (this.#since.get(buffer) ?? 0) > IDLE_TURNS;
  }

  /** Destroys the longest idle buffers until at most `idleBytes` are left. Not to be called while a recording is made. */
  trim(idleBytes: number): void {
    this.#destroyWhile(() => this.#idleBytes > idleBytes);
  }

  #destroyWhile(isNext: (buffer: GPUBuffer) => boolean): void {
    let destroyed = false;
    for (let buffer = this.#idle[0]; buffer !== undefined && isNext(buffer); buffer = this.#idle[0]) {
      this.#idle.shift();
      this.#idleBytes -= buffer.size;
      this.#destroy(buffer);
      destroyed = true;
    }
    if (destroyed) this.#device.queue.submit([]);
  }

  /** The buffers made since the last call. */
  takeFresh(): GPUBuffer[] {
    const fresh = this.#fresh;
    this.#fresh = [];
    return fresh;
  }

  /** Buffers whose creation failed are destroyed, now or when they come back, and never handed out again. */
  distrust(buffers: readonly GPUBuffer[]): void {
    for (const buffer of buffers) this.#suspect.add(buffer);
    const bad = this.#idle.filter((buffer) => this.#suspect.has(buffer));
    this.#idle = this.#idle.filter((buffer) => !this.#suspect.has(buffer));
    for (const buffer of bad) {
      this.#idleBytes -= buffer.size;
      this.#destroy(buffer);
    }
  }

  /** The one that was made first, whatever the order in which they came back: equal steps then have equal bind groups. */
  #firstIdle(size: number, usage: number): number {
    let first = -1;
    let lowest = Infinity;
    this.#idle.forEach((buffer, i) => {
      const number = this.#numbers.get(buffer) ?? 0;
      if (buffer.size !== size || buffer.usage !== usage || number >= lowest) return;
      lowest = number;
      first = i;
    });
    return first;
  }

  #create(size: number, usage: number): GPUBuffer {
    const buffer = this.#device.createBuffer({ size, usage });
    this.#numbers.set(buffer, this.#counts.buffersCreated);
    this.#fresh.push(buffer);
    this.#counts.buffersCreated += 1;
    this.#counts.allocatedBytes += size;
    this.#counts.peakBytes = Math.max(this.#counts.peakBytes, this.#counts.allocatedBytes);
    return buffer;
  }

  #reuse(at: number): GPUBuffer {
    const [buffer] = this.#idle.splice(at, 1);
    if (buffer === undefined)
      throw new MeshError('internal', 'The buffer pool lost a buffer.', 'Please report this defect.');
    this.#idleBytes -= buffer.size;
    return buffer;
  }

  #destroy(buffer: GPUBuffer): void {
    buffer.destroy();
    this.#counts.allocatedBytes -= buffer.size;
    this.#onDestroy();
  }
}

/** Buffers of one operation: all of them go back at `release`, save those that were handed on with `keep`. */
export class Borrowed {
  readonly #pool: BufferPool;
  readonly #slices = new Set<Slice>();

  constructor(pool: BufferPool) {
    this.#pool = pool;
  }

  take(bytes: number, isWindowed = false): Slice {
    const slice = this.#pool.take(bytes, STORAGE, isWindowed);
    this.#slices.add(slice);
    return slice;
  }

  /** Gives back early what this operation will not touch again. */
  give(slice: Slice): void {
    if (this.#slices.delete(slice)) this.#pool.release(slice);
  }

  /** Takes charge of buffers that came from elsewhere. */
  adopt(slices: Iterable<Slice>): void {
    for (const slice of slices) this.#slices.add(slice);
  }

  /** From now on the caller's to release. */
  keep(slices: Iterable<Slice>): void {
    for (const slice of slices) this.#slices.delete(slice);
  }

  release(): void {
    for (const slice of this.#slices) this.#pool.release(slice);
    this.#slices.clear();
  }
}

const tooLarge = (needed: number, limit: number): MeshError =>
  new MeshError(
    'out-of-memory',
    `A buffer of ${mebibytes(needed)} is needed, and this GPU allows ${mebibytes(limit)} at once.`,
    'Use a smaller batch, narrower layers, or a GPU with higher limits.',
  );

export const mebibytes = (bytes: number): string => `${(bytes / 2 ** 20).toFixed(1)} MiB`;
