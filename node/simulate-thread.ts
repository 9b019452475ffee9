// One thread of `skein simulate`: runs what it is told, one run after the other.
import { parentPort, workerData } from 'node:worker_threads';
import { toMeshError, type MeshErrorShape } from '../runtime/errors.ts';
import type { SimulationConfig } from '../runtime/simulate/config.ts';
import type { SimulationData } from '../runtime/simulate/learner.ts';
import type { SystemRun } from '../runtime/simulate/measure.ts';
import { simulate, type RunSpec } from '../runtime/simulate/simulate.ts';

export interface SimulationThreadData {
  config: SimulationConfig;
  data: SimulationData;
}

export type SimulationReply =
  { kind: 'run'; index: number; run: SystemRun } | { kind: 'failed'; error: MeshErrorShape };

const { config, data } = workerData as SimulationThreadData;
const port = parentPort;
port?.on('message', ({ index, spec }: { index: number; spec: RunSpec }) => {
  let reply: SimulationReply;
  try {
    reply = { kind: 'run', index, run: simulate(config, spec, data) };
  } catch (cause) {
    reply = { kind: 'failed', error: toMeshError(cause).toShape() };
  }
  port.postMessage(reply);
});
