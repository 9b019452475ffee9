// Our half of the transformer benchmark: the measurements of one model through the Compute of a worker, in this process.
import { performance } from 'node:perf_hooks';
import type { Compute, StageSpec } from '../../../runtime/compute.ts';
import { layerCount } from '../../../runtime/model/spec.ts';
import { i32Tensor, type Tensor } from '../../../runtime/tensor.ts';
import type { Measurement, ModelGroup } from './measurements.ts';

const WARM_UPS = 2;

export interface Budget {
  repeats: number;
  /** Of one measurement in one round; at least one call is made. */
  maxMs: number;
}

/** One call: wall clock, and what this process took of its processors meanwhile. */
export interface Call {
  ms: number;
  processorMs: number;
}

/** Stages of one model, one for each precision, open until `close`. */
export interface OpenModel {
  measure(measurement: Measurement, budget: Budget): Promise<Call[]>;
  close(): Promise<void>;
}

export async function openModel(compute: Compute, { model, vocabulary, measurements }: ModelGroup): Promise<OpenModel> {
  const stages = new Map<string, number>();
  const warm = new Set<string>();
  for (const precision of new Set(measurements.map((measurement) => measurement.precision))) {
    const trains = measurements.some(({ kind, precision: own }) => kind === 'train' && own === precision);
    const spec = { model, from: 0, to: layerCount(model), seed: 1, optimizer: optimizerOf(trains), precision };
    stages.set(precision, (await compute.open(spec)).stage);
  }
  const ids = (batch: number, tokens: number, step: number): Tensor =>
    i32Tensor(
      [batch, tokens],
      Int32Array.from({ length: batch * tokens }, (_, i) => (i * step + 7) % vocabulary),
    );

  async function once(stage: number, { kind, batch, tokens }: Measurement): Promise<void> {
    const x = ids(batch, tokens, 31);
    if (kind !== 'train') {
      await compute.forward(stage, '', x, { keep: false, lastOnly: kind === 'last' });
      return;
    }
    const options = { scale: 1 / (batch * tokens), train: true, accumulate: true };
    await compute.loss(stage, x, ids(batch, tokens, 17), options);
    await compute.step(stage);
  }

  return {
    async measure(measurement, { repeats, maxMs }) {
      const stage = stages.get(measurement.precision);
      if (stage === undefined) throw new Error(`no stage in ${measurement.precision}`);
      if (!warm.has(measurement.name)) for (let i = 0; i < WARM_UPS; i++) await once(stage, measurement);
      warm.add(measurement.name);
      const calls: Call[] = [];
      const beginMs = performance.now();
      while (calls.length < repeats && (calls.length === 0 || performance.now() - beginMs < maxMs)) {
        const startMs = performance.now();
        const before = process.cpuUsage();
        await once(stage, measurement);
        const { user, system } = process.cpuUsage(before);
        calls.push({ ms: performance.now() - startMs, processorMs: (user + system) / 1000 });
      }
      return calls;
    },
    async close() {
      for (const stage of stages.values()) await compute.close(stage);
    },
  };
}

/** PyTorch's half trains with the same; what only runs forward keeps no moments. */
const optimizerOf = (trains: boolean): StageSpec['optimizer'] =>
  trains
    ? { name: 'adamw', lr: 1e-4, beta1: 0.9, beta2: 0.95, eps: 1e-8, weightDecay: 0.1 }
    : { name: 'sgd', lr: 1e-4, momentum: 0, weightDecay: 0 };
