// The client (trainer manager): finds the stages of a run, forms pipelines, trains, evaluates, exports.
//   node node/train.ts --join URL --config run.yaml
import { createWriteStream, type WriteStream } from 'node:fs';
import { once } from 'node:events';
import path from 'node:path';
import { z } from 'zod';
import { MeshError } from '../runtime/errors.ts';
import { EventBus, type Emit, type EventOf } from '../runtime/events.ts';
import { isLanguage } from '../runtime/model-spec.ts';
import { i32Of } from '../runtime/tensor.ts';
import { compareConfigs, namesOfStage, savedConfig, type Snapshot } from '../runtime/train/checkpoint.ts';
import { runClient, type TrainedModel } from '../runtime/train/client.ts';
import { parseRunConfig, planStages, type RunConfig } from '../runtime/train/config.ts';
import { contextOf, isText } from '../runtime/train/language.ts';
import { sampleTokens } from '../runtime/train/sample.ts';
import type { Resumed } from '../runtime/train/session-options.ts';
import { openCheckpoint, prepareFolder, writeCheckpoint } from './checkpoints.ts';
import { command, option, runCommand, type CommandContext } from './command.ts';
import { startFrom } from './hf-start.ts';
import { modelOut } from './model-out.ts';
import { unwritable } from './files.ts';
import { allowSchema, port, publishTo } from './options.ts';
import { joinFromNode } from './peer.ts';
import { readRunConfig } from './run-config.ts';
import { openMetrics } from './run-metrics.ts';
import { prepareRun, tokenizerReference, type PreparedRun } from './run-data.ts';

export { loadRunData } from './run-data.ts';

const CLIENT_PORT = 51_000;

const schema = z.strictObject({
  join: z.string({ error: 'is needed: the join link that the monitor printed' }),
  config: z.string().optional(),
  out: z.string().default('model.safetensors'),
  log: z.string().optional(),
  tensorboard: z.string().min(1).optional(),
  metrics: z.string().min(1).optional(),
  host: z.string().default('127.0.0.1'),
  port: port.default(CLIENT_PORT),
  mode: z.enum(['sync', 'async']).optional(),
  policy: z.enum(['all', 'disjoint', 'routed']).optional(),
  epochs: z.coerce.number().int().min(1).optional(),
  resume: z.string().min(1).optional(),
  tls: z.enum(['auto', 'on', 'off']).default('auto'),
  transports: allowSchema,
});

export const train = command({
  name: 'train',
  description: 'Drive a run: discover the stages, form pipelines, train, evaluate, export the model.',
  options: [
    option('--join <url>', 'join link of the mesh, printed by the monitor'),
    option('--config <file>', 'the run, in YAML (default: MNIST with an MLP 784-64-10 over front and back)'),
    option(
      '--out <path>',
      'where the trained model goes; a language model also as a Hugging Face folder: name/ (default: model.safetensors)',
    ),
    option('--resume <path>', 'go on from a checkpoint, or the latest in a folder; without --config, with its own'),
    option('--log <file>', 'write every event of the run to this file, one JSON a line'),
    option(
      '--tensorboard <folder>',
      'write loss, learning rate, gradient norm and speed for TensorBoard into this folder',
    ),
    option('--metrics <file>', 'write the same to this file, one JSON a step'),
    option('--mode <sync|async>', 'overrides the file'),
    option('--policy <all|disjoint|routed>', 'overrides the file'),
    option('--epochs <number>', 'overrides the file'),
    option('--host <address>', 'address for direct links (default: 127.0.0.1)'),
    option('--port <number>', `port for direct links (default: ${CLIENT_PORT}, next free if taken)`),
    option('--tls <auto|on|off>', 'encrypt direct links to this peer (default: auto, when --host is not this machine)'),
    option('--transports <names...>', 'links may use only these: tcp, webrtc, relay (default: all)'),
  ],
  schema,
  examples: [
    "node node/train.ts --join 'http://localhost:50000/#token=…'",
    "node node/train.ts --join 'http://localhost:50000/#token=…' --config run.yaml --log run.jsonl --json",
    `cat > run.yaml <<'END'
    model: { family: mlp, sizes: [784, 64, 10], activation: relu }
    stages: [front, back]        # or [{ name: front, layers: 1 }, back]
    policy: all                  # all, disjoint, routed
    mode: sync                   # sync, async
    data: mnist
    batch: 128
    microbatch: 32
    epochs: 8
    optimizer: { name: sgd, lr: 0.02, momentum: 0.9 }
END`,
    `cat > text.yaml <<'END'
    model: { family: gpt2, n_layer: 4, n_embd: 128, n_head: 4, resid_pdrop: 0, embd_pdrop: 0, attn_pdrop: 0 }
    data: { text: book.txt, tokenizer: char, contextLength: 64 }
    batch: 12
    microbatch: 6
    maxSteps: 1500
    optimizer: { name: adamw, lr: 0.001, beta2: 0.95, weightDecay: 0.1, decay: matrices }
    schedule: { warmup: 50, kind: cosine, final: 0.1 }
    clip: 1
    evalEvery: 250
    checkpoints: { folder: checkpoints, every: 250, keep: 3 }
END`,
    "node node/train.ts --join 'http://localhost:50000/#token=…' --config text.yaml --out my-gpt/",
    "node node/train.ts --join 'http://localhost:50000/#token=…' --resume checkpoints",
  ],
  run: async (options, context) => {
    const { mode, policy, epochs, resume: from } = options;
    const config = await configOf(options.config, { mode, policy, epochs, resume: from });
    await trainOnce({ ...options, config }, context);
  },
});

export interface TrainOptions {
  join: string;
  config: RunConfig;
  out: string;
  log?: string | undefined;
  tensorboard?: string | undefined;
  metrics?: string | undefined;
  host: string;
  port: number;
  tls?: 'auto' | 'on' | 'off' | undefined;
  transports?: ('tcp' | 'webrtc' | 'relay')[] | undefined;
  /** What else is to be said in the last event. */
  more?: Partial<EventOf<'run.done'>>;
}

/** One run from this process; resolves with its last event. */
export async function trainOnce(
  options: TrainOptions,
  { emit: show, signal }: Pick<CommandContext, 'emit' | 'signal'>,
): Promise<EventOf<'run.done'>> {
  const bus = new EventBus();
  // The end of the run is the last thing to be said.
  bus.on((event) => {
    if (event.kind !== 'run.done') show(event);
  });
  const output = await modelOut(options.out, options.config.model);
  const prepared = await prepareRun(options.config, signal);
  const { config, data, tokenizer } = prepared;
  const sampler = samplerOf(prepared);
  const resumed = await beginning(prepared, bus.emit);
  if (config.checkpoints) await prepareFolder(config.checkpoints.folder);
  const log = options.log === undefined ? null : await openLog(options.log);
  if (log) bus.on((event) => log.write(`${JSON.stringify({ time: Date.now(), ...event })}\n`));
  const metrics = await openMetrics(options, (text) => process.stderr.write(`warning: ${text}\n`));
  if (metrics) bus.on(metrics.add);
  const peer = await joinFromNode({
    join: options.join,
    role: 'client',
    host: options.host,
    port: options.port,
    tls: options.tls ?? 'auto',
    emit: bus.emit,
    signal,
    ...(options.transports ? { allow: options.transports } : {}),
  });
  let done: EventOf<'run.done'>;
  try {
    if (peer.monitor) publishTo(peer.monitor, bus);
    let saved = '';
    done = await runClient({
      ...{ peer, config, data, emit: bus.emit, signal, resumed, keep: keeperOf(prepared, bus.emit) },
      save: async (tensors) => (saved = await output.save(config.model, tensors, tokenizer)),
      finish: async (model) => {
        if (sampler) bus.emit(await sampler(model));
        bus.emit({ kind: 'model.saved', path: saved, format: output.format });
      },
    });
  } finally {
    await peer.close('the run ended');
    if (log) await new Promise<void>((resolve) => log.end(() => resolve()));
    await metrics?.close();
  }
  const last = { ...done, ...options.more };
  show(last);
  return last;
}

type Sampler = (model: TrainedModel) => Promise<EventOf<'text.sampled'>>;

/** Writes the text that the configuration asks for. Throws at once where the tokenizer lacks a character of the prompt. */
function samplerOf({ config, data, tokenizer }: PreparedRun): Sampler | null {
  const { sample, model } = config;
  if (!sample || !tokenizer || !isLanguage(model) || !isText(config.data)) return null;
  const { tokens, temperature, seed } = sample;
  const contextLength = contextOf(model, config.data);
  const { endOfText } = tokenizer;
  // Without a prompt the text begins as the held-out text does.
  const ids =
    sample.prompt === undefined
      ? i32Of(data.test.batch(Uint32Array.of(0)).x).slice(0, 1)
      : tokenizer.encode(sample.prompt);
  return async ({ nextLogits }) => {
    const written = await sampleTokens(nextLogits, ids, { tokens, temperature, seed, contextLength, endOfText });
    const prompt = tokenizer.decode(ids);
    return { kind: 'text.sampled', prompt, text: tokenizer.decode(written), temperature, seed };
  };
}

function keeperOf({ config, tokenizer }: PreparedRun, emit: Emit): ((snapshot: Snapshot) => Promise<void>) | undefined {
  const { checkpoints } = config;
  if (!checkpoints) return undefined;
  const folder = {
    ...{ folder: checkpoints.folder, keep: checkpoints.keep, config: savedConfig(config) },
    tokenizer: tokenizerReference(config, tokenizer),
  };
  return async (snapshot) =>
    emit({ kind: 'checkpoint.saved', step: snapshot.step, path: await writeCheckpoint(folder, snapshot) });
}

/** The state that a run begins with, where that is not the seed's. A checkpoint is further than the folder its run began with. */
async function beginning(prepared: PreparedRun, emit: Emit): Promise<Resumed | undefined> {
  const { resume: checkpoint, start } = prepared.config;
  if (checkpoint !== undefined) return resume(checkpoint, prepared, emit);
  return start === undefined ? undefined : startFrom(start, prepared.config);
}

/** The state of a checkpoint for a run that goes on from it. Throws where it is not whole, or is of another model. */
async function resume(from: string, { config, tokenizer }: PreparedRun, emit: Emit): Promise<Resumed> {
  const checkpoint = await openCheckpoint(from);
  const { run } = checkpoint;
  const name = path.basename(checkpoint.path);
  const others: string[] = compareConfigs(config, run.config, name);
  const reference = tokenizerReference(config, tokenizer);
  if (reference?.sha256 !== run.tokenizer?.sha256)
    throw new MeshError(
      'usage',
      `${name} was trained with another tokenizer than the one that the configuration makes.`,
      'Use the same text and data.tokenizer, or name the tokenizer.json of the first run.',
    );
  if (others.length > 0) {
    const message = `${name} was written by a run with other ${others.join(', ')}: what follows is not what that run would have done`;
    emit({ kind: 'log', level: 'warn', message });
  }
  const plans = planStages(config);
  return {
    step: run.step,
    lossScale: run.lossScale,
    stateOf: async (stage) => {
      const names = namesOfStage(config, plans[stage] ?? { from: 0, to: 0 });
      const weights = await checkpoint.weights(names.weights);
      const optimizer = await checkpoint.optimizer(names.optimizer);
      return new Map([
        ...[...weights].map(([key, tensor]) => [`weights/${key}`, tensor] as const),
        ...[...optimizer].map(([key, tensor]) => [`optimizer/${key}`, tensor] as const),
      ]);
    },
  };
}

/** The configuration of a command that may name a file, a checkpoint, both or neither. */
export async function configOf(
  file: string | undefined,
  over: Record<string, unknown> & { resume?: string | undefined },
): Promise<RunConfig> {
  if (file !== undefined || over.resume === undefined) return readRunConfig(file, over);
  const { run } = await openCheckpoint(over.resume);
  const given = Object.fromEntries(Object.entries(over).filter(([, value]) => value !== undefined));
  return parseRunConfig({ ...run.config, ...given });
}

async function openLog(file: string): Promise<WriteStream> {
  const log = createWriteStream(file);
  await once(log, 'open').catch((cause: unknown) => {
    throw unwritable(file, cause);
  });
  // A disk that fills up later ends the log, not the run.
  log.on('error', (cause) => process.stderr.write(`warning: ${file}: ${cause.message}\n`));
  return log;
}

if (import.meta.main) await runCommand(train);
