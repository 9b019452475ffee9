// A headless GPU box: hosts stages of runs that others drive.
//   node node/serve.ts --join URL --stage front.0.0.0 --stage back.0.0.0
import { readFileSync } from 'node:fs';
import { z } from 'zod';
import { modelSpecSchema, type ModelSpec } from '../runtime/model-spec.ts';
import { MeshError, toMeshError } from '../runtime/errors.ts';
import { EventBus } from '../runtime/events.ts';
import { parseUid } from '../runtime/wire/ids.ts';
import { stageInfo } from '../runtime/model/spec.ts';
import { command, isOn, option, runCommand } from './command.ts';
import { startLending } from './lending.ts';
import { allowSchema, list, port, publishTo, whenAborted } from './options.ts';
import { noJoin, serveWorker } from './worker.ts';

/** Ports of hosted stages start here: 50500 + i for the i-th stage of a process. */
const FIRST_PORT = 50_500;
const DRAIN_MS = 8_000;

const schema = z.strictObject({
  join: z.string().optional(),
  stage: list(z.string()).refine((stages) => new Set(stages).size === stages.length, 'name each stage UID once'),
  worker: z.unknown().optional().transform(isOn),
  config: z.string().optional(),
  out: z.string().optional(),
  host: z.string().default('127.0.0.1'),
  port: port.default(FIRST_PORT),
  model: z.string().optional(),
  layers: z
    .string()
    .regex(/^\d+:\d+$/, 'is FROM:TO, such as 0:1')
    .optional(),
  tls: z.enum(['auto', 'on', 'off']).default('auto'),
  transports: allowSchema,
  memory: z.string().optional(),
});

export const serve = command({
  name: 'serve',
  description: 'Lend this machine: host one or more stages for the runs of a mesh.',
  options: [
    option('--join <url>', 'join link of the mesh, printed by the monitor'),
    option('--stage <uid...>', 'stage to host: {stage_name}.{version}.{expert_index}.{subversion}; may be repeated'),
    option('--worker', 'be a federated worker, as --config says: train a whole model on data of its own'),
    option('--config <file>', "a worker's YAML file; `skein config generate` makes them"),
    option('--out <file>', "where the worker's trained model goes (default: nowhere)"),
    option('--host <address>', 'address for direct links from other machines; 0.0.0.0 for all (default: 127.0.0.1)'),
    option(
      '--port <number>',
      `port of the first stage, the others follow (default: ${FIRST_PORT}, next free if taken)`,
    ),
    option('--model <file>', 'serve only this model: its spec.json (with --layers)'),
    option('--layers <from:to>', 'serve only these layers of --model'),
    option(
      '--memory <size>',
      'GPU memory to lend, such as 4GiB (default: half of the memory, where the GPU is software)',
    ),
    option('--tls <auto|on|off>', 'encrypt direct links to this peer (default: auto, when --host is not this machine)'),
    option('--transports <names...>', 'links may use only these: tcp, webrtc, relay (default: all)'),
  ],
  schema,
  examples: [
    "node node/serve.ts --join 'http://localhost:50000/#token=…' --stage front.0.0.0",
    "node node/serve.ts --join 'https://192.0.2.7:50000/#token=…' --host 0.0.0.0 --stage front.0.1.0 --stage back.0.1.0",
    `cat > worker-0.yaml <<'END'   # or: skein config generate --workers 3
    worker: 0
    workers: 3
    topology: ring
    model: { family: mlp, sizes: [784, 64, 10] }
    data: mnist
    partition: { kind: dirichlet, alpha: 0.5 }
    epochs: 8
    optimizer: { name: sgd, lr: 0.1 }
    average: { planner: mpls, intervalMs: 500 }
END`,
    "node node/serve.ts --join 'http://localhost:50000/#token=…' --worker --config worker-0.yaml",
  ],
  run: async ({ join, ...options }, context) => {
    const { emit: show, say, signal } = context;
    if (options.worker) {
      expectNoStages(options);
      return serveWorker({ ...options, join }, context);
    }
    expectStages(options);
    if (join === undefined) throw noJoin();
    const uids = options.stage.map((text) => parseUid(text).uid);
    const pinned = pinnedStage(options.model, options.layers);
    const bus = new EventBus();
    bus.on(show);
    const { emit } = bus;
    const { worker, peer, host } = await startLending({ ...options, join, role: 'server', emit, signal });
    peer.serve(host.handlers);
    for (const uid of uids) host.add(uid, pinned);
    if (peer.monitor) {
      publishTo(peer.monitor, bus);
      await host.announce(peer.monitor);
    }
    for (const [i, uid] of uids.entries()) {
      const stagePort = !peer.tcp ? null : i === 0 ? peer.tcp.port : await peer.tcp.listenAlso(peer.tcp.port + i);
      emit({ kind: 'stage.ready', uid, port: stagePort });
    }
    say('Ctrl-C leaves the mesh cleanly.');
    const died = await Promise.race([whenAborted(signal).then(() => null), worker.died]);
    if (peer.monitor)
      await host
        .withdraw(peer.monitor)
        .catch((cause: unknown) => say(`could not withdraw: ${toMeshError(cause).message}`));
    await host.drain(DRAIN_MS);
    host.close();
    await peer.close('the server leaves');
    await worker.end();
    if (died !== null)
      throw new MeshError(
        'gpu-lost',
        `The compute worker died: ${died}.`,
        'Start the server again; if it happens again, try another driver.',
      );
    return 0;
  },
});

function expectStages({
  stage,
  config,
  out,
}: {
  stage: string[];
  config?: string | undefined;
  out?: string | undefined;
}): void {
  if (config !== undefined || out !== undefined)
    throw new MeshError('usage', '--config and --out are those of a worker.', 'Add --worker, or leave them out.');
  if (stage.length === 0)
    throw new MeshError(
      'usage',
      '--stage (or SKEIN_STAGE): name at least one stage UID, such as front.0.0.0.',
      'See --help for what it takes; with --worker --config FILE this machine trains on its own data instead.',
    );
}

function expectNoStages({
  stage,
  model,
  layers,
}: {
  stage: string[];
  model?: string | undefined;
  layers?: string | undefined;
}): void {
  if (stage.length > 0 || model !== undefined || layers !== undefined)
    throw new MeshError(
      'usage',
      '--stage, --model and --layers are those of a server; a worker trains the model that --config names.',
      'Leave them out, or --worker.',
    );
}

function pinnedStage(
  file: string | undefined,
  layers: string | undefined,
): { model: ModelSpec; from: number; to: number } | undefined {
  if (file === undefined && layers === undefined) return undefined;
  if (file === undefined || layers === undefined)
    throw new MeshError(
      'usage',
      '--model and --layers go together.',
      'Give both, or neither to serve whatever a run asks for.',
    );
  let model: ModelSpec;
  try {
    model = modelSpecSchema.parse(JSON.parse(readFileSync(file, 'utf8')));
  } catch (cause) {
    throw new MeshError(
      'bad-file',
      `${file} is not a model spec: ${String((cause as Error).message).slice(0, 300)}.`,
      'It looks like {"family":"mlp","sizes":[784,64,10],"activation":"relu"}.',
      { cause },
    );
  }
  const [from = 0, to = 0] = layers.split(':').map(Number);
  stageInfo(model, from, to);
  return { model, from, to };
}

if (import.meta.main) await runCommand(serve);
