// Federated workers in one process for tests: real peers with links over TCP, a monitor, one compute worker with a stage for each. What a
// worker shows to others can be tampered with, which is how hostile ones are made.
import type { TestContext } from 'node:test';
import { loadDataset } from '../../node/datasets.ts';
import { joinFromNode } from '../../node/peer.ts';
import { platform } from '../../node/platform.ts';
import type { Compute } from '../../runtime/compute.ts';
import type { EventOf, MeshEvent } from '../../runtime/events.ts';
import { parseWorkerConfig, type WorkerConfig } from '../../runtime/federated/config.ts';
import { labelledShare } from '../../runtime/federated/data.ts';
import { runWorker } from '../../runtime/federated/worker.ts';
import { StageHost } from '../../runtime/server/host.ts';
import { elements, type Tensor, type Tensors } from '../../runtime/tensor.ts';
import { batch, type Dataset, type DatasetSplits } from '../../runtime/train/data.ts';
import type { Handlers } from '../../runtime/wire/channel.ts';
import { startMonitor } from '../signaling/helpers.ts';

/** The first rows of MNIST. */
export async function someMnist(rows: number, testRows: number): Promise<DatasetSplits> {
  const { train, test } = await loadDataset('mnist');
  return { train: firstRows(train, rows), test: firstRows(test, testRows) };
}

function firstRows(data: Dataset, rows: number): Dataset {
  const features = elements(data.inputShape);
  return { ...data, rows, images: data.images.slice(0, rows * features), labels: data.labels.slice(0, rows) };
}

export interface TestWorker {
  readonly config: WorkerConfig;
  readonly events: MeshEvent[];
  /** Resolves with `worker.done`, or with the reason why it failed. */
  readonly ended: Promise<EventOf<'worker.done'> | Error>;
  all<K extends MeshEvent['kind']>(kind: K): EventOf<K>[];
  /** Mean loss on the held-out rows, as its model was when it ended. */
  readonly loss: Promise<number>;
  traffic(): { bytesIn: number; bytesOut: number };
  /** Ends it at once, links and all. */
  stop(): void;
}

export interface Workers {
  readonly compute: Compute;
  start(config: object, tamper?: (handlers: Handlers) => Handlers): TestWorker;
}

export async function startWorkers(t: TestContext, splits: DatasetSplits): Promise<Workers> {
  const monitor = await startMonitor(t);
  const worker = await platform.startCompute();
  t.after(() => worker.end());
  const gpu = await worker.compute.describe();
  return {
    compute: worker.compute,
    start: (given, tamper = (handlers) => handlers) => {
      const config = parseWorkerConfig(given);
      const events: MeshEvent[] = [];
      const stop = new AbortController();
      t.after(() => stop.abort());
      const loss = Promise.withResolvers<number>();
      loss.promise.catch(() => undefined); // not every test asks
      let traffic = (): { bytesIn: number; bytesOut: number } => ({ bytesIn: 0, bytesOut: 0 });
      const emit = (event: MeshEvent): void => void events.push(event);
      const run = async (): Promise<EventOf<'worker.done'>> => {
        const { signal } = stop;
        const link = { host: '127.0.0.1', port: 0, tls: 'off' as const, allow: ['tcp' as const] };
        const peer = await joinFromNode({ join: monitor.joinUrl, role: 'worker', emit, signal, ...link });
        traffic = () => peer.links.traffic();
        const host = new StageHost({
          ...{ self: peer.id, host: 'node' as const, compute: worker.compute, gpu, ask: peer.ask, emit },
          isConnected: (id) => peer.isConnected(id),
          addresses: () => peer.addresses(),
          traffic: () => peer.links.traffic(),
        });
        Object.assign(host.handlers, tamper({ ...host.handlers }));
        const left = (): void => void peer.close('the worker was stopped');
        signal.addEventListener('abort', left, { once: true });
        // Its last figure is taken while its stage is still there.
        const save = async (tensors: ReadonlyMap<string, Tensor>): Promise<string> => {
          loss.resolve(await testLoss(worker.compute, host.stages[0]?.run?.handle ?? -1, splits.test));
          return String(tensors.size);
        };
        try {
          const data = labelledShare(splits, config);
          return await runWorker({ peer, host, compute: worker.compute, config, data, emit, signal, save });
        } finally {
          if (peer.monitor && !signal.aborted) await host.withdraw(peer.monitor);
          host.close();
          await peer.close('the worker is done');
        }
      };
      const ended = run().catch((cause: unknown) => {
        const error = cause instanceof Error ? cause : new Error(String(cause));
        loss.reject(error);
        return error;
      });
      return {
        config,
        events,
        ended,
        all: (kind) => events.filter((event): event is EventOf<typeof kind> => event.kind === kind),
        loss: loss.promise,
        traffic: () => traffic(),
        stop: () => stop.abort(),
      };
    },
  };
}

async function testLoss(compute: Compute, handle: number, test: Dataset): Promise<number> {
  const rows = Uint32Array.from({ length: test.rows }, (_, i) => i);
  let loss = 0;
  for (let start = 0; start < rows.length; start += 250) {
    const { x, y } = batch(test, rows.subarray(start, start + 250));
    const scale = 1 / test.rows;
    loss += (await compute.loss(handle, x, y, { scale, train: false, accumulate: false })).loss;
  }
  return loss;
}

/** Values that travel, changed. */
export function changed(tensors: Tensors | undefined, change: (values: Float32Array) => void): Map<string, Tensor> {
  const data = tensors?.get('data');
  if (!data) throw new Error('there is nothing to change');
  const values = new Float32Array(data.data.slice().buffer);
  change(values);
  return new Map([['data', { ...data, data: new Uint8Array(values.buffer) }]]);
}
