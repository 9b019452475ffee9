// A federated worker in a process: `node node/serve.ts --worker --config worker-0.yaml`. It trains a whole model on its share of the data and
// pulls layers from its neighbours.
import { EventBus } from '../runtime/events.ts';
import { MeshError, toMeshError } from '../runtime/errors.ts';
import { parseWorkerConfig, workerConfigSchema, type WorkerConfig } from '../runtime/federated/config.ts';
import { labelledShare, textShare, type WorkerData } from '../runtime/federated/data.ts';
import { runWorker } from '../runtime/federated/worker.ts';
import { isLanguage } from '../runtime/model-spec.ts';
import { contextOf, expectKind, isText, withVocabulary } from '../runtime/train/language.ts';
import { expectSamples } from '../runtime/train/samples.ts';
import type { CommandContext } from './command.ts';
import { loadDataset } from './datasets.ts';
import { expectWritable, saveModel } from './model-file.ts';
import { startLending } from './lending.ts';
import { publishTo } from './options.ts';
import { loadText, textRun } from './text-data.ts';
import { readYaml } from './yaml-config.ts';

export interface ServeWorkerOptions {
  join?: string | undefined;
  config?: string | undefined;
  out?: string | undefined;
  host: string;
  port: number;
  tls: 'auto' | 'on' | 'off';
  transports?: ('tcp' | 'webrtc' | 'relay')[] | undefined;
  memory?: string | undefined;
}

const GRACE_MS = 3_000;

export const noJoin = (): MeshError =>
  new MeshError(
    'usage',
    '--join (or SKEIN_JOIN): is needed: the join link that the monitor printed.',
    'See --help for what it takes.',
  );

/** Throws `bad-file` or `usage`, with file:line. */
export const readWorkerConfig = (file: string): WorkerConfig => parseWorkerConfig(readYaml(file, workerConfigSchema));

/** Resolves with the exit code when the worker is done or was interrupted. */
export async function serveWorker(options: ServeWorkerOptions, context: CommandContext): Promise<number> {
  const { emit: show, say, signal } = context;
  if (options.config === undefined)
    throw new MeshError('usage', '--worker needs --config.', 'Make one: skein config generate --workers 3');
  const given = readWorkerConfig(options.config);
  const join = options.join ?? given.join;
  if (join === undefined) throw noJoin();
  if (options.out !== undefined) await expectWritable(options.out);
  const { config, data } = await prepareWorker(given, signal);
  const bus = new EventBus();
  bus.on(show);
  const { emit } = bus;
  const { worker, peer, host } = await startLending({ ...options, join, role: 'worker', emit, signal });
  if (peer.monitor) publishTo(peer.monitor, bus);
  say('Ctrl-C leaves the mesh cleanly.');
  try {
    const { out } = options;
    const save = out === undefined ? undefined : (tensors: Parameters<typeof saveModel>[1]) => saveModel(out, tensors);
    const { compute, died } = worker;
    const reason = await Promise.race([
      runWorker({ peer, host, compute, config, data, emit, signal, save }).then(() => null),
      died,
    ]);
    if (reason === null) return 0;
    throw new MeshError('gpu-lost', `The compute worker died: ${reason}.`, 'Start the worker again.');
  } catch (cause) {
    if (signal.aborted) return 130;
    throw cause;
  } finally {
    const { monitor } = peer;
    if (monitor)
      await host.withdraw(monitor).catch((cause: unknown) => say(`could not withdraw: ${toMeshError(cause).message}`));
    host.close();
    // What was published last is on its way still.
    await Promise.race([peer.close('the worker leaves'), new Promise((resolve) => setTimeout(resolve, GRACE_MS))]);
    await worker.end();
  }
}

export interface PreparedWorker {
  /** With nothing left open. */
  config: WorkerConfig;
  data: WorkerData;
}

/** Loads the data and takes this worker's share. Throws `bad-file`, `usage`, `stage-shapes`. */
export async function prepareWorker(given: WorkerConfig, signal?: AbortSignal): Promise<PreparedWorker> {
  const { isVocabularyOpen = false, ...config } = given;
  const { model, data } = config;
  if (isLanguage(model) && isText(data)) {
    const contextLength = contextOf(model, data);
    const loaded = await loadText(data, signal ? { signal } : {});
    const whole = {
      kind: 'tokens' as const,
      targetsPerRow: contextLength,
      ...textRun(loaded, contextLength, config.seed),
    };
    const known = { ...config, model: withVocabulary(model, isVocabularyOpen, loaded.tokenizer.vocabularySize) };
    return { config: known, data: textShare(whole, known) };
  }
  if (isLanguage(model) || isText(data)) {
    expectKind(model, data);
    throw new MeshError('internal', 'The data fits no model.', 'This is a defect: please report it.');
  }
  const splits = await loadDataset(data, signal);
  expectSamples(model, splits.train);
  return { config, data: labelledShare(splits, config) };
}
