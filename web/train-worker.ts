// A federated worker in this tab, the browser's sibling of node/worker.ts: it loads its data from the monitor, trains a whole model on its share
// of them, and pulls layers from its neighbours. Only those who train load it.
import { MeshError, toMeshError } from '../runtime/errors.ts';
import type { EventOf } from '../runtime/events.ts';
import { parseWorkerConfig, uidOf, type WorkerConfig } from '../runtime/federated/config.ts';
import { labelledShare } from '../runtime/federated/data.ts';
import { runWorker } from '../runtime/federated/worker.ts';
import { isLanguage } from '../runtime/model-spec.ts';
import type { StageHost } from '../runtime/server/host.ts';
import type { DatasetSplits } from '../runtime/train/data.ts';
import { namedDatasetSchema } from '../runtime/train/dataset-spec.ts';
import { fetchDataset } from '../runtime/train/fetch-dataset.ts';
import { expectKind } from '../runtime/train/language.ts';
import { expectSamples } from '../runtime/train/samples.ts';
import type { Uid } from '../runtime/wire/ids.ts';
import { problemOf } from './federations.ts';
import { mebibytes } from './format.ts';
import { figuresOf, joinFromTab, pauseStages, type JoinOptions, type Loan, type TabPeer } from './tab-peer.ts';

export interface TrainOptions extends JoinOptions {
  /** With the index to take. */
  config: WorkerConfig;
  /** Another index, when those turned out to be held by others; null where none is free. */
  next: (taken: ReadonlySet<number>) => number | null;
}

export interface Training extends Loan {
  /** Resolves when the worker is done, and only `leave` is left to do; rejects with the reason when it cannot go on. */
  readonly done: Promise<EventOf<'worker.done'>>;
}

/** A worker's configuration out of the directory, for another index. Throws `malformed` or `usage`. */
export function readFederation(text: string, worker: number): WorkerConfig {
  let document: unknown;
  try {
    document = JSON.parse(text);
  } catch (cause) {
    const fix = 'Ask whoever runs it to start it again, or choose another run.';
    throw new MeshError('malformed', 'The configuration of this run is no JSON.', fix, { cause });
  }
  return parseWorkerConfig({ ...(document as object), worker });
}

/** Resolves when the tab has its place. Throws what `fetchDataset` and `joinFromTab` do, and `usage`, `busy`; nothing is left behind then. */
export async function trainWorker(options: TrainOptions): Promise<Training> {
  const splits = await load(options);
  const tab = await joinFromTab('worker', options);
  try {
    return await takePlace(tab, splits, options);
  } catch (cause) {
    await tab.close('training did not begin');
    throw cause;
  }
}

async function load({ config, target, tell, signal }: TrainOptions): Promise<DatasetSplits> {
  const { model } = config;
  const problem = problemOf(config);
  if (problem) throw problem;
  const name = namedDatasetSchema.parse(config.data);
  expectKind(model, name);
  tell(`Loading ${name}`);
  const splits = await fetchDataset(name, target.url, (url, init) => fetch(url, init), {
    signal,
    onProgress: ({ doneBytes, totalBytes }) => {
      const total = totalBytes === null ? '' : ` of ${mebibytes(totalBytes)}`;
      tell(`Loading ${name}: ${mebibytes(doneBytes)}${total}`);
    },
  });
  if (!isLanguage(model)) expectSamples(model, splits.train);
  return splits;
}

/** Others may take the same place in the same moment: the monitor says who was first, and the rest take the next one. */
async function takePlace(tab: TabPeer, splits: DatasetSplits, options: TrainOptions): Promise<Training> {
  const taken = new Set<number>();
  for (let config = options.config; ;) {
    options.tell('Building the model');
    const attempt = begin(tab, splits, config, options.signal);
    try {
      await attempt.placed;
      return attempt.training;
    } catch (cause) {
      const isHeld = toMeshError(cause).code === 'busy';
      const worker = isHeld ? options.next(taken.add(config.worker)) : null;
      if (worker === null) throw cause;
      config = { ...config, worker };
    }
  }
}

interface Attempt {
  /** Resolves when the directory shows it, or it has gone on without a monitor; rejects when it ended before. */
  placed: Promise<void>;
  training: Training;
}

function begin(tab: TabPeer, splits: DatasetSplits, config: WorkerConfig, starting: AbortSignal): Attempt {
  const { peer, compute, bus, makeHost } = tab;
  const { emit } = bus;
  const uid = uidOf(config, config.worker);
  const stop = new AbortController();
  const cancel = (): void => stop.abort(starting.reason);
  starting.addEventListener('abort', cancel, { once: true });
  starting.throwIfAborted();
  const data = labelledShare(splits, config);
  const host = makeHost();
  const { promise: seen, resolve } = Promise.withResolvers<void>();
  const unwatch = bus.on((event) => {
    const isListed = event.kind === 'record.added' && event.name === uid && event.peer === peer.id;
    if (isListed || (event.kind.startsWith('worker.') && event.kind !== 'worker.ready')) resolve();
  });
  const ran = runWorker({ peer, host, compute, config, data, emit, signal: stop.signal });
  const placed = Promise.race([seen, ran.then(() => undefined)]).finally(() => {
    unwatch();
    starting.removeEventListener('abort', cancel);
  });
  ran.catch(() => host.close()); // no reports of a stage that nobody trains
  return { placed, training: trainingOf({ tab, host, uid, stop, ran }) };
}

interface TrainingParts {
  tab: TabPeer;
  host: StageHost;
  uid: Uid;
  stop: AbortController;
  ran: ReturnType<typeof runWorker>;
}

function trainingOf({ tab, host, uid, stop, ran }: TrainingParts): Training {
  const { monitor, peer, died } = tab;
  const close = async (): Promise<void> => {
    host.close();
    await tab.close('the tab leaves the mesh');
  };
  return {
    ...{ uid, died, done: ran },
    figures: () => figuresOf(host, peer),
    pause: (isPaused) => pauseStages(host, monitor, isPaused),
    leave: async () => {
      stop.abort(new DOMException('The tab leaves the run.', 'AbortError'));
      await ran.catch(() => undefined); // it was told to end
      try {
        await host.withdraw(monitor);
      } finally {
        await close();
      }
    },
    abandon: () => {
      stop.abort(new DOMException('The page goes away.', 'AbortError'));
      // Nobody is left to tell: the page is gone before this settles.
      close().catch(() => undefined);
    },
  };
}
