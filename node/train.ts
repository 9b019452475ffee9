// The client (trainer manager): finds the stages of a run, forms pipelines, trains, evaluates, exports.
//   node node/train.ts --join URL --config run.yaml
import { createWriteStream, type WriteStream } from 'node:fs';
import { once } from 'node:events';
import { z } from 'zod';
import { MeshError } from '../runtime/errors.ts';
import { EventBus, type EventOf } from '../runtime/events.ts';
import type { Tensors } from '../runtime/tensor.ts';
import { runClient, type RunData } from '../runtime/train/client.ts';
import { batch, epochOrder } from '../runtime/train/data.ts';
import type { RunConfig } from '../runtime/train/config.ts';
import { command, option, runCommand, type CommandContext } from './command.ts';
import { loadDataset } from './datasets.ts';
import { expectWritable, saveModel, unwritable } from './model-file.ts';
import { allowSchema, port, publishTo } from './options.ts';
import { joinFromNode } from './peer.ts';
import { readRunConfig } from './run-config.ts';

const CLIENT_PORT = 51_000;

const schema = z.strictObject({
  join: z.string({ error: 'is needed: the join link that the monitor printed' }),
  config: z.string().optional(),
  out: z.string().default('model.safetensors'),
  log: z.string().optional(),
  host: z.string().default('127.0.0.1'),
  port: port.default(CLIENT_PORT),
  mode: z.enum(['sync', 'async']).optional(),
  policy: z.enum(['all', 'disjoint', 'routed']).optional(),
  epochs: z.coerce.number().int().min(1).optional(),
  tls: z.enum(['auto', 'on', 'off']).default('auto'),
  transports: allowSchema,
});

export const train = command({
  name: 'train',
  description: 'Drive a run: discover the stages, form pipelines, train, evaluate, export the model.',
  options: [
    option('--join <url>', 'join link of the mesh, printed by the monitor'),
    option('--config <file>', 'the run, in YAML (default: MNIST with an MLP 784-64-10 over front and back)'),
    option('--out <file>', 'where the trained model goes (default: model.safetensors)'),
    option('--log <file>', 'write every event of the run to this file, one JSON a line'),
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
  ],
  run: async (options, context) => {
    const { mode, policy, epochs } = options;
    const config = readRunConfig(options.config, { mode, policy, epochs });
    await trainOnce({ ...options, config }, context);
  },
});

export interface TrainOptions {
  join: string;
  config: RunConfig;
  out: string;
  log?: string | undefined;
  host: string;
  port: number;
  tls?: 'auto' | 'on' | 'off' | undefined;
  transports?: ('tcp' | 'webrtc' | 'relay')[] | undefined;
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
  const data = await loadRunData(options.config, signal);
  await expectWritable(options.out);
  const log = options.log === undefined ? null : await openLog(options.log);
  if (log) bus.on((event) => log.write(`${JSON.stringify({ time: Date.now(), ...event })}\n`));
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
    const save = (tensors: Tensors): Promise<string> => saveModel(options.out, tensors);
    done = await runClient({ peer, config: options.config, data, emit: bus.emit, signal, save });
  } finally {
    await peer.close('the run ended');
    if (log) await new Promise<void>((resolve) => log.end(() => resolve()));
  }
  show(done);
  return done;
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

export async function loadRunData(config: RunConfig, signal?: AbortSignal): Promise<RunData> {
  const { train: training, test } = await loadDataset(config.data, signal);
  const inputs = config.model.sizes[0];
  const outputs = config.model.sizes.at(-1);
  if (training.inputShape[0] !== inputs || (outputs ?? 0) < training.classes)
    throw new MeshError(
      'stage-shapes',
      `The model maps ${inputs} to ${outputs}; ${training.name} has ${training.inputShape[0]} features and ${training.classes} classes.`,
      'Change the first and last of model.sizes.',
    );
  return {
    train: {
      rows: training.rows,
      batch: (rows) => batch(training, rows),
      order: (epoch) => epochOrder(training.rows, config.seed, epoch),
    },
    test: { rows: test.rows, batch: (rows) => batch(test, rows) },
    classes: outputs ?? 0,
  };
}

if (import.meta.main) await runCommand(train);
