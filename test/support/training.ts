// What tests of whole runs share: a small MNIST, a client in this process, the same training alone as reference.
import assert from 'node:assert/strict';
import { platform } from '#platform';
import { joinFromNode } from '../../node/peer.ts';
import { loadRunData } from '../../node/train.ts';
import { EventBus, type MeshEvent } from '../../runtime/events.ts';
import { layerCount } from '../../runtime/model/spec.ts';
import { f32Of, type Tensors } from '../../runtime/tensor.ts';
import { runClient, type RunData } from '../../runtime/train/client.ts';
import type { RunConfig } from '../../runtime/train/config.ts';
import { makeSchedule } from '../../runtime/train/schedule.ts';

export type Transport = 'tcp' | 'webrtc' | 'relay';

/** The first `rows` rows of MNIST for training, 500 for testing. */
export async function smallMnist(config: RunConfig, rows: number): Promise<RunData> {
  const whole = await loadRunData(config);
  const order = (epoch: number): Uint32Array => whole.train.order(epoch).filter((row) => row < rows);
  return { ...whole, train: { ...whole.train, rows, order }, test: { ...whole.test, rows: 500 } };
}

/** The same batches through the whole model in one worker, without mesh, microbatches or links. */
export async function trainAlone(config: RunConfig, data: RunData): Promise<{ losses: number[]; weights: Tensors }> {
  const worker = await platform.startCompute();
  const { compute } = worker;
  const { stage } = await compute.open({
    model: config.model,
    from: 0,
    to: layerCount(config.model),
    seed: config.seed,
    optimizer: config.optimizer,
  });
  const schedule = makeSchedule({
    ...config,
    microbatch: config.batch,
    rows: data.train.rows,
    order: (epoch) => data.train.order(epoch),
  });
  const losses: number[] = [];
  for (let step = 0; step < schedule.steps; step += 1) {
    const [whole] = schedule.at(step);
    assert.ok(whole);
    const { x, y } = data.train.batch(whole.rows);
    losses.push((await compute.loss(stage, x, y, { scale: 1 / whole.batchRows, train: true, accumulate: true })).loss);
    await compute.step(stage);
  }
  const weights = await compute.read(stage, 'weights');
  await worker.end();
  return { losses, weights };
}

export interface MeshedRun {
  events: MeshEvent[];
  on(listener: (event: MeshEvent) => void): void;
  /** Its events and the model's weights. */
  done: Promise<{ events: MeshEvent[]; weights: Tensors }>;
}

/** A client in this process. */
export function trainMeshed(config: RunConfig, data: RunData, join: string, transports?: Transport[]): MeshedRun {
  const events: MeshEvent[] = [];
  const bus = new EventBus();
  bus.on((event) => void events.push(event));
  const { signal } = new AbortController();
  const run = async (): Promise<{ events: MeshEvent[]; weights: Tensors }> => {
    const peer = await joinFromNode({
      join,
      role: 'client',
      host: '127.0.0.1',
      port: 0,
      emit: bus.emit,
      signal,
      ...(transports ? { allow: transports } : {}),
    });
    let weights: Tensors = new Map();
    try {
      const save = (tensors: Tensors): Promise<string> => {
        weights = tensors;
        return Promise.resolve('kept');
      };
      await runClient({ peer, config, data, emit: bus.emit, signal, save });
    } finally {
      await peer.close('done');
    }
    return { events, weights };
  };
  return { events, on: (listener) => bus.on(listener), done: run() };
}

/** Losses of the committed steps, in order. Fails unless each step was committed exactly once with each planned microbatch once at every stage. */
export function committedLosses(events: readonly MeshEvent[], config: RunConfig, rows: number): number[] {
  const schedule = makeSchedule({ ...config, rows, order: () => new Uint32Array(rows) });
  const applied = events.flatMap((event) => (event.kind === 'step.applied' ? [event] : []));
  assert.deepEqual(
    applied.map((event) => event.step),
    Array.from({ length: schedule.steps }, (_, step) => step),
  );
  for (const { step, stages } of applied) {
    const planned = schedule.at(step).map((task) => task.microbatch);
    for (const [stage, microbatches] of Object.entries(stages))
      assert.deepEqual(microbatches, planned, `step ${step}, ${stage}`);
    assert.equal(Object.keys(stages).length, config.stages.length);
  }
  const done = events.find((event) => event.kind === 'run.done');
  assert.equal(done?.appliedMicrobatches, schedule.microbatches);
  assert.equal(done.plannedMicrobatches, schedule.microbatches);
  return applied.map((event) => event.loss);
}

export function assertClose(got: readonly number[], expected: readonly number[], relative: number): void {
  assert.equal(got.length, expected.length);
  for (const [i, value] of got.entries()) {
    const wanted = expected[i] ?? NaN;
    assert.ok(Math.abs(value - wanted) <= relative * Math.abs(wanted), `value ${i}: ${value}, expected ${wanted}`);
  }
}

/** ‖a − b‖ / ‖b‖ of each tensor is below `relative`. */
export function assertWeights(got: Tensors, expected: Tensors, relative: number): void {
  assert.deepEqual([...got.keys()].sort(), [...expected.keys()].sort());
  for (const [name, tensor] of expected) {
    const other = got.get(name);
    assert.ok(other, name);
    const error = distance(f32Of(other), f32Of(tensor));
    assert.ok(error < relative, `${name}: ${error}`);
  }
}

function distance(a: Float32Array, b: Float32Array): number {
  let difference = 0;
  let norm = 0;
  for (const [i, value] of b.entries()) {
    difference += ((a[i] ?? NaN) - value) ** 2;
    norm += value ** 2;
  }
  return Math.sqrt(difference / norm);
}

export const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
