// Federated workers in one process, for tests and benchmarks: real peers with links over TCP, a monitor, one compute worker with a stage for
// each. What a worker shows to others can be tampered with, which is how hostile ones are made.
import type { TestContext } from 'node:test';
import { loadDataset } from '../../node/datasets.ts';
import { joinFromNode } from '../../node/peer.ts';
import { platform } from '../../node/platform.ts';
import type { PreparedWorker } from '../../node/worker.ts';
import type { Compute } from '../../runtime/compute.ts';
import type { EventOf, MeshEvent } from '../../runtime/events.ts';
import { parseWorkerConfig, type WorkerConfig } from '../../runtime/federated/config.ts';
import { labelledShare } from '../../runtime/federated/data.ts';
import { runWorker } from '../../runtime/federated/worker.ts';
import { StageHost } from '../../runtime/server/host.ts';
import { elements, type Tensor, type Tensors } from '../../runtime/tensor.ts';
import type { RunData } from '../../runtime/train/client.ts';
import type { Dataset } from '../../runtime/train/data.ts';
import type { Handlers } from '../../runtime/wire/channel.ts';
import { startMonitor } from '../signaling/helpers.ts';

type Prepare = (config: WorkerConfig) => Promise<PreparedWorker>;
/** What ends with a test, or with a benchmark. */
export type Scope = Pick<TestContext, 'after'>;

/** The first rows of MNIST, shared out as each configuration says. */
export async function someMnist(rows: number, testRows: number): Promise<Prepare> {
  const { train, test } = await loadDataset('mnist');
  const splits = { train: firstRows(train, rows), test: firstRows(test, testRows) };
  return (config) => Promise.resolve({ config, data: labelledShare(splits, config) });
}

function firstRows(data: Dataset, rows: number): Dataset {
  const features = elements(data.inputShape);
  return { ...data, rows, images: data.images.slice(0, rows * features), labels: data.labels.slice(0, rows) };
}

export interface TestWorker {
  readonly events: MeshEvent[];
  /** Resolves with `worker.done`, or with the reason why it failed. */
  readonly ended: Promise<EventOf<'worker.done'> | Error>;
  all<K extends MeshEvent['kind']>(kind: K): EventOf<K>[];
  /** Mean loss on the held-out rows, as its model was when it ended. */
  readonly loss: Promise<number>;
  /** Ends it at once, links and all. */
  stop(): void;
}

export interface Workers {
  readonly compute: Compute;
  start(config: object, tamper?: (handlers: Handlers) => Handlers): TestWorker;
}

export async function startWorkers(t: Scope, prepare: Prepare): Promise<Workers> {
  const monitor = await startMonitor(t as TestContext);
  const worker = await platform.startCompute();
  t.after(() => worker.end());
  const { compute } = worker;
  const gpu = await compute.describe();

  const start: Workers['start'] = (given, tamper = (handlers) => handlers) => {
    const events: MeshEvent[] = [];
    const stop = new AbortController();
    t.after(() => stop.abort());
    const loss = Promise.withResolvers<number>();
    loss.promise.catch(() => undefined); // not every test asks
    const emit = (event: MeshEvent): void => void events.push(event);
    const run = async (): Promise<EventOf<'worker.done'>> => {
      const { signal } = stop;
      const link = { host: '127.0.0.1', port: 0, tls: 'off' as const, allow: ['tcp' as const] };
      const { config, data } = await prepare(parseWorkerConfig(given));
      const peer = await joinFromNode({ join: monitor.joinUrl, role: 'worker', emit, signal, ...link });
      const host = new StageHost({
        ...{ self: peer.id, host: 'node' as const, compute, gpu, ask: peer.ask, emit },
        isConnected: (id) => peer.isConnected(id),
        addresses: () => peer.addresses(),
        traffic: () => peer.links.traffic(),
      });
      Object.assign(host.handlers, tamper({ ...host.handlers }));
      signal.addEventListener('abort', () => void peer.close('the worker was stopped'), { once: true });
      // Its last figure is taken while its stage is still there.
      const save = async (tensors: ReadonlyMap<string, Tensor>): Promise<string> => {
        loss.resolve(await testLoss(compute, host.stages[0]?.run?.handle ?? -1, data.run));
        return `${tensors.size} tensors`;
      };
      try {
        return await runWorker({ peer, host, compute, config, data, emit, signal, save });
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
      events,
      ended,
      all: (kind) => events.filter((event): event is EventOf<typeof kind> => event.kind === kind),
      loss: loss.promise,
      stop: () => stop.abort(),
    };
  };
  return { compute, start };
}

const TEST_BATCH = 250;
const TEST_WINDOWS = 200;

async function testLoss(compute: Compute, handle: number, { kind, test }: RunData): Promise<number> {
  const rows = kind === 'tokens' ? Math.min(test.rows, TEST_WINDOWS) : test.rows;
  const size = kind === 'tokens' ? 8 : TEST_BATCH;
  let [sum, targets] = [0, 0];
  for (let start = 0; start < rows; start += size) {
    const list = Uint32Array.from({ length: Math.min(size, rows - start) }, (_, i) => start + i);
    const { x, y } = test.batch(list);
    const count = elements(y.shape);
    const { loss } = await compute.loss(handle, x, y, { scale: 1 / count, train: false, accumulate: false });
    sum += loss * count;
    targets += count;
  }
  return sum / targets;
}

/** Values that travel, changed. */
export function changed(tensors: Tensors | undefined, change: (values: Float32Array) => void): Map<string, Tensor> {
  const data = tensors?.get('data');
  if (!data) throw new Error('there is nothing to change');
  const values = new Float32Array(data.data.slice().buffer);
  change(values);
  return new Map([['data', { ...data, data: new Uint8Array(values.buffer) }]]);
}
