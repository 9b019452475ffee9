// Starts and ends the compute worker's thread. Ending is a request, not worker.terminate(): Dawn's Node binding (webgpu 0.6.2,
// src/dawn/node/interop) aborts the process where a thread goes away while one of its promises is pending ("Promise not resolved
// or rejected: mapAsync()"), and so would process.exit() with work in flight.
import { Worker } from 'node:worker_threads';
import { wrap } from 'comlink';
import { computeClient, type RemoteCompute } from '../runtime/compute-client.ts';
import type { ComputeWorker } from '../runtime/platform.ts';
import { endpointOf } from './comlink-endpoint.ts';

const STOP_TIMEOUT_MS = 5000;
const EXIT_TIMEOUT_MS = 2000;

export interface ThreadData {
  /** Becomes 1 when the thread has given its device up. */
  ended: Int32Array<SharedArrayBuffer>;
}

export interface ThreadFailure {
  kind: 'skein-failed';
  reason: string;
}

const STOP = { kind: 'skein-stop' } as const;

const hasKind = (message: unknown, kind: string): boolean =>
  typeof message === 'object' && message !== null && 'kind' in message && message.kind === kind;

export const isStopRequest = (message: unknown): boolean => hasKind(message, STOP.kind);
const isFailure = (message: unknown): message is ThreadFailure => hasKind(message, 'skein-failed');

export function startComputeThread(): ComputeWorker {
  const ended = new Int32Array(new SharedArrayBuffer(4));
  const workerData: ThreadData = { ended };
  // No execArgv: flags such as --input-type, meant for the main script, would stop the worker from loading.
  const worker = new Worker(new URL('./compute-worker.ts', import.meta.url), {
    name: 'skein-compute',
    workerData,
    execArgv: [],
  });
  let isEnding = false;

  // A process that exits with work in flight waits here, blocked, until the thread has given its device up.
  const atProcessExit = (): void => {
    worker.postMessage(STOP);
    Atomics.wait(ended, 0, 0, EXIT_TIMEOUT_MS);
  };
  process.once('exit', atProcessExit);

  const exited = new Promise<void>((resolve) => worker.once('exit', () => resolve()));
  const died = new Promise<string>((resolve) => {
    worker.on('message', (message: unknown) => {
      if (isFailure(message)) resolve(message.reason);
    });
    worker.once('error', (cause) => resolve(cause instanceof Error ? cause.message : String(cause)));
    worker.once('exit', (code) => {
      process.off('exit', atProcessExit);
      resolve(isEnding ? 'it was ended' : `exit code ${code}`);
    });
  });

  return {
    compute: computeClient(wrap<RemoteCompute>(endpointOf(worker)), died),
    died,
    async end() {
      isEnding = true;
      worker.postMessage(STOP);
      let timer: NodeJS.Timeout | undefined;
      const patience = new Promise<void>((resolve) => {
        timer = setTimeout(resolve, STOP_TIMEOUT_MS);
      });
      await Promise.race([exited, patience]);
      clearTimeout(timer);
      worker.unref(); // a thread that hangs in its driver must not keep the process alive
    },
  };
}
