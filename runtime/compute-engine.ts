// The Compute of a worker: one device, any number of stages on it, calls on a stage in the order in which they came.
// A lost device takes its stages with it; the next `open` starts on a new one.
import type { Compute } from './compute.ts';
import { MeshError } from './errors.ts';
import { Gpu } from './gpu/gpu.ts';
import type { GpuHost } from './gpu/device.ts';
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
}

export interface ComputeEngine {
  compute: Compute;
  /** Gives the device up; resolves when the driver owes no more answers. Calls in flight reject with `gpu-lost`. */
  stop(): Promise<void>;
}

export function createCompute(host: GpuHost): ComputeEngine {
  const seats = new Map<number, Seat>();
  let current: Promise<Gpu> | null = null;
  let lastHandle = 0;
  let isStopped = false;

  async function gpu(): Promise<Gpu> {
    for (;;) {
      if (isStopped) throw new MeshError('gpu-lost', 'The compute worker is ending.', 'Start another one.');
      const asked = (current ??= Gpu.acquire(host));
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

  const compute: Compute = {
    async describe() {
      const { description, stats } = await gpu();
      return { ...description, stats };
    },
    async open(spec) {
      const device = await gpu();
      const stage = await Stage.open(device, spec);
      const handle = (lastHandle += 1);
      seats.set(handle, { gpu: device, stage, turns: new Turns() });
      return { stage: handle, info: stage.info };
    },
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
    forward: (handle, key, x, { keep }) => shared(handle, (stage) => stage.forward(key, x, keep)),
    backward: (handle, key, dy, { accumulate }) => shared(handle, (stage) => stage.backward(key, dy, accumulate)),
    loss: (handle, x, y, options) => shared(handle, (stage) => stage.loss(x, y, options)),
    discard: (handle, options) => shared(handle, (stage) => stage.discard(options)),
    read: (handle, kind) => shared(handle, (stage) => stage.read(kind)),
    write: (handle, kind, tensors) => alone(handle, (stage) => stage.write(kind, tensors)),
    combine: (handle, kind, parts, coefficients, mode) =>
      alone(handle, (stage) => stage.combine(kind, parts, coefficients, mode)),
    step: (handle) => alone(handle, (stage) => stage.step()),
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
