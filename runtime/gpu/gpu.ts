// What runs on a device: work is recorded synchronously into one command buffer and submitted once, inside error scopes.
// One compute pass holds all dispatches between two copies; the sizes of all dispatches go up in one write.
import type { ComputeStats, GpuDescription } from '../compute.ts';
import type { MeshError } from '../errors.ts';
import type { Waiters } from '../waiters.ts';
import { BufferPool, UNIFORM, UPLOAD, type Slice } from './buffers.ts';
import { acquireDevice, guarded, type DeviceDescription, type GpuHost, type OpenDevice } from './device.ts';
import type { GeneratedKernel } from './generated.ts';
import { sizesBytes, writeSizes } from './kernel-layout.ts';
import { type KernelName, type KernelSizes, type KernelUse, type Overrides } from './kernel-table.ts';
import { Pipelines, type Pipeline } from './pipelines.ts';
import { Readback } from './readback.ts';
import { rehearsalDevice } from './rehearsal.ts';

const IDLE_BYTES = 64 * 2 ** 20;
/** minUniformBufferOffsetAlignment is at most 256 everywhere. */
const SLOT_BYTES = 256;
const SLOTS = 1024;
/** More than a step of a large stage has dispatches: one that is cleared in every step is of no use. */
const MAX_BIND_GROUPS = 8192;

export class Gpu {
  readonly description: DeviceDescription;
  readonly pool: BufferPool;
  readonly pipelines: Pipelines;
  readonly #device: GPUDevice;
  readonly #waiters: Waiters;
  readonly #stray: MeshError[];
  readonly #sizes: Slice;
  readonly #sizesView = new DataView(new ArrayBuffer(SLOT_BYTES * SLOTS));
  readonly #bindGroups = new Map<string, GPUBindGroup>();
  readonly #bufferIds = new WeakMap<GPUBuffer, number>();
  readonly #inDriver = new Set<Promise<unknown>>();
  readonly #maxGrid: number;
  #lastBufferId = 0;
  #submits = 0;
  #dispatches = 0;

  private constructor({ device, description, waiters, stray }: OpenDevice, host: GpuHost) {
    this.#device = device;
    this.#waiters = waiters;
    this.#stray = stray;
    this.description = description;
    const { maxBufferSize, maxStorageBufferBindingSize, maxComputeWorkgroupsPerDimension } = device.limits;
    this.#maxGrid = maxComputeWorkgroupsPerDimension;
    const limits = { maxBufferSize, maxStorageBufferBindingSize, idleBytes: IDLE_BYTES };
    // A bind group keeps its buffers alive, so the cache goes with the first buffer that is destroyed.
    this.pool = new BufferPool(device, limits, () => this.#bindGroups.clear());
    this.pipelines = new Pipelines(device, (name) => host.kernelSource(name));
    this.#sizes = this.pool.take(SLOT_BYTES * SLOTS, UNIFORM);
  }

  static async acquire(host: GpuHost): Promise<Gpu> {
    return new Gpu(await acquireDevice(host), host);
  }

  /** One that computes nothing and keeps the same accounts: see rehearsal.ts. */
  static rehearsal(description: GpuDescription): Gpu {
    const host: GpuHost = { gpu: () => Promise.resolve(null), gpuMissing: () => '', kernelSource: () => '' };
    return new Gpu(rehearsalDevice(description), host);
  }

  /** Why this device is gone, or null. */
  get death(): MeshError | null {
    return this.#waiters.death;
  }

  get stats(): ComputeStats {
    return { submits: this.#submits, dispatches: this.#dispatches, ...this.pool.counts };
  }

  /** Records, submits, and resolves with what the recording asked to read. Everything up to the submit happens at once. */
  submit(record: (recorder: Recorder) => void): Promise<Uint8Array<ArrayBuffer>[]> {
    if (this.death !== null) return Promise.reject(this.death);
    return this.#track(this.#submit(record));
  }

  async #submit(record: (recorder: Recorder) => void): Promise<Uint8Array<ArrayBuffer>[]> {
    const recorder = new Recorder(this);
    const { value: collect, errors } = guarded(this.#device, () => recorder.made(record));
    const fresh = this.pool.takeFresh();
    const result = collect();
    result.catch(() => {}); // where both fail, the scope's error is the reason and the other its consequence
    try {
      await errors;
      const [stray] = this.#stray.splice(0);
      if (stray !== undefined) throw stray;
    } catch (cause) {
      this.pool.distrust(fresh);
      recorder.fail();
      await Promise.allSettled([result]);
      throw cause;
    }
    return result;
  }

  /** Compiles kernels and dispatches each new one once, on nothing: drivers finish compiling at the first dispatch. */
  async warm(uses: readonly KernelUse[]): Promise<void> {
    const fresh = await this.#track(this.pipelines.compile(uses));
    if (fresh.length === 0) return;
    const most = Math.max(...fresh.map(({ info }) => info.outputs + info.inputs));
    const dummies = Array.from({ length: most }, () => this.pool.take(256));
    try {
      await this.submit((recorder) => {
        for (const pipeline of fresh) recorder.run(pipeline, dummies, {}, 1);
        for (const slice of dummies.slice(0, 1)) recorder.read(slice);
      });
    } finally {
      for (const slice of dummies) this.pool.release(slice);
    }
  }

  /** Frees everything and the device with it; resolves when the driver owes no more answers. What is pending rejects. */
  async destroy(): Promise<void> {
    this.pool.trim(0);
    this.#device.destroy();
    await Promise.allSettled(this.#inDriver);
  }

  /** Rejects as soon as the device dies; what the driver still owes is remembered until it has come. */
  #track<T>(promise: Promise<T>): Promise<T> {
    this.#inDriver.add(promise);
    const forget = (): void => void this.#inDriver.delete(promise);
    promise.then(forget, forget);
    return this.#waiters.attach(promise);
  }

  // For Recorder only.

  begin(): GPUCommandEncoder {
    return this.#device.createCommandEncoder();
  }

  get queue(): GPUQueue {
    return this.#device.queue;
  }

  submitted(encoder: GPUCommandEncoder, slots: number): void {
    if (slots > 0) this.#device.queue.writeBuffer(this.#sizes.buffer, 0, this.#sizesView.buffer, 0, slots * SLOT_BYTES);
    this.#device.queue.submit([encoder.finish()]);
    this.#submits += 1;
  }

  bind({ key, info, layout }: Pipeline, slices: readonly Slice[]): GPUBindGroup {
    const id = slices.reduce(
      (text, slice) => `${text} ${this.#idOf(slice.buffer)}:${slice.offset}:${slice.bytes}`,
      key,
    );
    let group = this.#bindGroups.get(id);
    if (group === undefined) {
      const entries: GPUBindGroupEntry[] = slices.map(({ buffer, offset, bytes }, binding) => ({
        binding,
        resource: { buffer, offset, size: bytes },
      }));
      entries.push({ binding: slices.length, resource: { buffer: this.#sizes.buffer, size: sizesBytes(info) } });
      group = this.#device.createBindGroup({ layout, entries });
      if (this.#bindGroups.size >= MAX_BIND_GROUPS) this.#bindGroups.clear();
      this.#bindGroups.set(id, group);
    }
    return group;
  }

  dispatch(
    pass: GPUComputePassEncoder,
    { info }: Pipeline,
    slot: number,
    sizes: Readonly<Record<string, number>>,
    workgroups: number,
  ): void {
    writeSizes(this.#sizesView, slot * SLOT_BYTES, info, sizes);
    const [x, y] = foldGrid(workgroups, this.#maxGrid);
    pass.dispatchWorkgroups(x, y);
    this.#dispatches += 1;
  }

  #idOf(buffer: GPUBuffer): number {
    let id = this.#bufferIds.get(buffer);
    if (id === undefined) {
      id = this.#lastBufferId += 1;
      this.#bufferIds.set(buffer, id);
    }
    return id;
  }
}

/** A one-dimensional grid as two dimensions, each within the device's limit. */
export function foldGrid(workgroups: number, maxGrid: number): [number, number] {
  const x = Math.min(workgroups, maxGrid);
  return [x, Math.ceil(workgroups / x)];
}

/** One command buffer in the making. */
export class Recorder {
  readonly #gpu: Gpu;
  readonly #readback: Readback;
  #encoder: GPUCommandEncoder;
  #pass: GPUComputePassEncoder | null = null;
  readonly #uploads: Slice[] = [];
  readonly #undo: (() => void)[] = [];
  /** Nothing but uploads so far. */
  #isEmpty = true;
  #slots = 0;

  constructor(gpu: Gpu) {
    this.#gpu = gpu;
    this.#encoder = gpu.begin();
    this.#readback = new Readback(gpu.pool);
  }

  /** What this recording will run on: the choice of a kernel may depend on it. */
  get description(): DeviceDescription {
    return this.#gpu.description;
  }

  /** Outputs first, then inputs, as in the kernel's file. */
  dispatch<K extends KernelName>(
    kernel: K,
    overrides: Overrides,
    slices: readonly Slice[],
    sizes: KernelSizes<K>,
    workgroups: number,
  ): void {
    this.run(this.#gpu.pipelines.get({ kernel, overrides }), slices, sizes, workgroups);
  }

  /** Outputs first, then inputs, as in the kernel's text. */
  dispatchGenerated(
    generated: GeneratedKernel,
    slices: readonly Slice[],
    sizes: Readonly<Record<string, number>>,
    workgroups: number,
  ): void {
    this.run(this.#gpu.pipelines.get({ generated }), slices, sizes, workgroups);
  }

  /** A pipeline by its key, for callers that can do with another. */
  compiled(key: string): Pipeline | undefined {
    return this.#gpu.pipelines.find(key);
  }

  run(pipeline: Pipeline, slices: readonly Slice[], sizes: Readonly<Record<string, number>>, workgroups: number): void {
    if (this.#slots === SLOTS) this.#flush();
    const { outputs, inputs } = pipeline.info;
    this.#isEmpty = false;
    this.#pass ??= this.#encoder.beginComputePass();
    this.#pass.setPipeline(pipeline.pipeline);
    this.#pass.setBindGroup(0, this.#gpu.bind(pipeline, slices.slice(0, outputs + inputs)), [this.#slots * SLOT_BYTES]);
    this.#gpu.dispatch(this.#pass, pipeline, this.#slots, sizes, workgroups);
    this.#slots += 1;
  }

  /** Uploads in its place among what is recorded: a buffer that was given back earlier in this recording may still be in use. */
  write(to: Slice, data: Uint8Array<ArrayBuffer>): void {
    if (this.#isEmpty) {
      this.#gpu.queue.writeBuffer(to.buffer, to.offset, data);
      return;
    }
    const upload = this.#gpu.pool.take(data.byteLength, UPLOAD);
    this.#uploads.push(upload);
    this.#gpu.queue.writeBuffer(upload.buffer, upload.offset, data);
    this.copy(upload, to, data.byteLength);
  }

  copy(from: Slice, to: Slice, bytes: number): void {
    this.#endPass();
    this.#encoder.copyBufferToBuffer(from.buffer, from.offset, to.buffer, to.offset, bytes);
  }

  clear(slice: Slice): void {
    this.#endPass();
    this.#encoder.clearBuffer(slice.buffer, slice.offset, slice.bytes);
  }

  /** Reads a range as it is when everything in this recording has run. */
  read(slice: Slice): void {
    this.#readback.add(slice);
  }

  /** Runs `undo` if this recording is not submitted, or is refused: what it was to make does not exist then. */
  onFailure(undo: () => void): void {
    this.#undo.push(undo);
  }

  fail(): void {
    for (const undo of this.#undo.splice(0)) undo();
  }

  /** Records and submits, once; the returned function waits for what was read. */
  made(record: (recorder: Recorder) => void): () => Promise<Uint8Array<ArrayBuffer>[]> {
    try {
      record(this);
      this.#endPass();
      const collect = this.#readback.encode(this.#encoder);
      this.#gpu.submitted(this.#encoder, this.#slots);
      return collect;
    } catch (cause) {
      this.fail();
      throw cause;
    } finally {
      for (const upload of this.#uploads) this.#gpu.pool.release(upload);
      this.#gpu.pool.endTurn();
    }
  }

  #flush(): void {
    this.#endPass();
    this.#gpu.submitted(this.#encoder, this.#slots);
    this.#encoder = this.#gpu.begin();
    this.#slots = 0;
  }

  #endPass(): void {
    this.#isEmpty = false;
    this.#pass?.end();
    this.#pass = null;
  }
}
