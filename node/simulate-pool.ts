// Runs of a simulation on the cores of this machine, a thread each. What a run gives does not depend on the thread it ran on.
import { Worker } from 'node:worker_threads';
import { MeshError } from '../runtime/errors.ts';
import type { SystemRun } from '../runtime/simulate/measure.ts';
import type { RunSpec } from '../runtime/simulate/simulate.ts';
import type { SimulationReply, SimulationThreadData } from './simulate-thread.ts';

export interface PoolOptions {
  threads: number;
  signal: AbortSignal;
  onRun: (run: SystemRun) => void;
}

/** In the order of `specs`. Rejects with the first run that failed, or where it is aborted; every thread has ended then. */
export async function runAll(
  data: SimulationThreadData,
  specs: readonly RunSpec[],
  { threads, signal, onRun }: PoolOptions,
): Promise<SystemRun[]> {
  const waiting = [...specs.entries()];
  const runs: SystemRun[] = [];
  const lanes = Array.from({ length: Math.min(threads, specs.length) }, () =>
    lane(data, waiting, signal, (index, run) => {
      runs[index] = run;
      onRun(run);
    }),
  );
  try {
    await Promise.all(lanes.map(({ done }) => done));
  } finally {
    await Promise.all(lanes.map(({ end }) => end()));
  }
  return runs;
}

/** One thread, until nothing waits. */
function lane(
  workerData: SimulationThreadData,
  waiting: [number, RunSpec][],
  signal: AbortSignal,
  onRun: (index: number, run: SystemRun) => void,
): { done: Promise<void>; end: () => Promise<unknown> } {
  // No execArgv: flags such as --input-type, meant for the main script, would stop the thread from loading.
  const thread = new Worker(new URL('./simulate-thread.ts', import.meta.url), {
    name: 'skein-simulate',
    workerData,
    execArgv: [],
  });
  const done = new Promise<void>((resolve, reject) => {
    const next = (): void => {
      const job = waiting.shift();
      if (job === undefined) resolve();
      else thread.postMessage({ index: job[0], spec: job[1] });
    };
    thread.on('message', (reply: SimulationReply) => {
      if (reply.kind === 'failed') reject(MeshError.fromShape(reply.error));
      else {
        onRun(reply.index, reply.run);
        next();
      }
    });
    thread.once('error', reject);
    thread.once('exit', () => reject(new MeshError('internal', 'A thread of the simulation ended.', 'Try again.')));
    signal.addEventListener('abort', () => reject(signal.reason as Error), { once: true });
    if (signal.aborted) reject(signal.reason as Error);
    else next();
  });
  return { done, end: () => thread.terminate() };
}
