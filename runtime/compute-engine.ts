// The Compute of a worker: one device, any number of stages on it, calls on a stage in the order in which they came.
// A lost device takes its stages with it; the next `open` starts on a new one.
import type { Compute, StageInfo, StageSpec } from './compute.ts';
import { MeshError } from './errors.ts';
import { Gpu } from './gpu/gpu.ts';
import { ensureTuned } from './gpu/matmul/tune-gpu.ts';
import { memoryStore } from './gpu/tuning-store.ts';
import type { GpuHost } from './gpu/device.ts';
import { expectFit } from './model/memory.ts';
import { Stage } from './model/stage.ts';

/** Turns on one stage. What only records and submits may overlap its readback with the next; the rest runs alone. */
class Turns {
  #tail: Promise<void> = Promise.resolve();

  async shared<T>(body: () => Promise<T>): Promise<T> {
    await this.#tail;
    return body();
  }

  alone<T>(body: () => Promise<T>): Promise<T> {
    const result = this.#tail.then(body);
    this.#tail = result.then(
      () => {},
      () => {}, // the caller has the error; the next turn starts all the same
    );
    return result;
  }
}

interface Seat {
  gpu: Gpu;
  stage: Stage;
  turns: Turns;
  /** What it was promised of the memory that is lent, between calls; 0 where nobody said what it will be given. */
  heldBytes: number;
}

export interface ComputeEngine {
  compute: Compute;
  /** Gives the device up; resolves when the driver owes no more answers. Calls in flight reject with `gpu-lost`. */
  stop(): Promise<void>;
}

export function createCompute(host: GpuHost): ComputeEngine {
  const seats = new Map<number, Seat>();
  /** One at a time, so that two stages are not both promised the same memory. */
  const opening = new Turns();
  let current: Promise<Gpu> | null = null;
  let lastHandle = 0;
  let isStopped = false;
  const tuningStore = host.tuningStore?.() ?? memoryStore();

  async function acquire(): Promise<Gpu> {
    const held = await Gpu.acquire(host);
    await ensureTuned(held, 'f32', tuningStore);
    return held;
  }

  async function gpu(): Promise<Gpu> {
    for (;;) {
      if (isStopped) throw new MeshError('gpu-lost', 'The compute worker is ending.', 'Start another one.');
      const asked = (current ??= acquire());
      try {
        const held = await asked;
        if (held.death === null) return held;
      } catch (cause) {
        if (current === asked) current = null;
        throw cause;
      }
      if (current === asked) current = null;
    }
  }

  function seat(handle: number): Seat {
    const found = seats.get(handle);
    if (found === undefined) throw new MeshError('no-stage', `There is no stage ${handle} here.`, 'Open it first.');
    if (found.gpu.death !== null) throw found.gpu.death;
    return found;
  }

  const shared = async <T>(handle: number, body: (stage: Stage) => Promise<T>): Promise<T> => {
    const { stage, turns } = seat(handle);
    return turns.shared(() => body(stage));
  };
  const alone = async <T>(handle: number, body: (stage: Stage) => Promise<T>): Promise<T> => {
    const { stage, turns } = seat(handle);
    return turns.alone(() => body(stage));
  };

  async function open(spec: StageSpec): Promise<{ stage: number; info: StageInfo }> {
    const device = await gpu();
    if (spec.precision === 'bf16' || spec.precision === 'f16') await ensureTuned(device, 'half', tuningStore);
    const { memoryBytes } = device.description;
    let heldBytes = 0;
    if (spec.load !== undefined && memoryBytes !== undefined) {
      const promised = [...seats.values()].reduce((sum, one) => sum + (one.gpu === device ? one.heldBytes : 0), 0);
      const budgetBytes = memoryBytes - Math.max(device.stats.usedBytes, promised);
      ({ heldBytes } = await expectFit(spec, spec.load, device.description, budgetBytes));
    }
    const stage = await Stage.open(device, spec);
    const handle = (lastHandle += 1);
    seats.set(handle, { gpu: device, stage, turns: new Turns(), heldBytes });
    return { stage: handle, info: stage.info };
  }

  const compute: Compute = {
    async describe() {
      const { description, stats } = await gpu();
      return { ...description, stats };
    },
    open: (spec) => opening.alone(() => open(spec)),
    async close(handle) {
      const found = seats.get(handle);
      seats.delete(handle);
      // With its device the stage is gone already.
      if (found === undefined || found.gpu.death !== null) return;
      const { gpu: device, stage, turns } = found;
      await turns.alone(async () => {
        stage.close();
        device.pool.trim(0);
      });
    },
    forward: (handle, key, x, options) => shared(handle, (stage) => stage.forward(key, x, options)),
    backward: (handle, key, dy, { accumulate }) => shared(handle, (stage) => stage.backward(key, dy, accumulate)),
    loss: (handle, x, y, options) => shared(handle, (stage) => stage.loss(x, y, options)),
    discard: (handle, options) => shared(handle, (stage) => stage.discard(options)),
    read: (handle, kind, names) => shared(handle, (stage) => stage.state.read(kind, names)),
    write: (handle, kind, tensors) => alone(handle, (stage) => stage.state.write(kind, tensors)),
    combine: (handle, kind, parts, coefficients, mode) =>
      alone(handle, (stage) => stage.state.combine(kind, parts, coefficients, mode)),
    squaredNorm: (handle, { except = [] }) => shared(handle, (stage) => stage.state.squaredNorm(except)),
    step: (handle, options = {}) => shared(handle, (stage) => stage.state.step(options)),
    // All of a store's work is recorded at once, between two steps of training, and waits for nothing.
    snapshot: (handle, units) => shared(handle, (stage) => stage.store.snapshot(units)),
    serve: (handle, request) => shared(handle, (stage) => stage.store.serve(request)),
    receive: (handle, request, tensors) => shared(handle, (stage) => stage.store.receive(request, tensors)),
    merge: (handle, mixes) => shared(handle, (stage) => stage.store.merge(mixes)),
    drop: (handle, parts) => shared(handle, async (stage) => stage.store.drop(parts)),
    outerGradient: (handle, units, format) => shared(handle, (stage) => stage.store.outerGradient(units, format)),
    outerStep: (handle, step) => shared(handle, (stage) => stage.store.outerStep(step)),
    load: (handle, request, tensors) => alone(handle, (stage) => stage.store.load(request, tensors)),
  };

  return {
    compute,
    async stop() {
      isStopped = true;
      const held = await current?.catch(() => null); // one that never came needs no ending
      await held?.destroy();
    },
  };
}
