// The compute worker of a Node process: runtime/worker.ts on a worker thread. It must never be torn down while Dawn owes an
// answer, because Dawn's binding then aborts the whole process; so it ends by itself: see node/compute-thread.ts.
import { parentPort, workerData } from 'node:worker_threads';
import { serveCompute } from '../runtime/worker.ts';
import { endpointOf } from './comlink-endpoint.ts';
import { isStopRequest, type ThreadData, type ThreadFailure } from './compute-thread.ts';
import { installDawnPacing } from './dawn-pacing.ts';

if (parentPort === null) throw new Error('node/compute-worker.ts runs as a worker thread: see node/compute-thread.ts');
const port = parentPort;
const { ended } = workerData as ThreadData;

installDawnPacing();
const stop = serveCompute(endpointOf(port));

async function end(code: number): Promise<void> {
  await stop();
  Atomics.store(ended, 0, 1);
  Atomics.notify(ended, 0);
  process.exit(code); // this thread only
}

port.on('message', (message: unknown) => {
  if (isStopRequest(message)) void end(0);
});
process.on('uncaughtException', (cause) => {
  const failure: ThreadFailure = {
    kind: 'skein-failed',
    reason: cause instanceof Error ? (cause.stack ?? cause.message) : String(cause),
  };
  port.postMessage(failure);
  void end(1);
});
