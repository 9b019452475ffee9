// `npm start`: a whole mesh on this machine. A monitor and four peers (two stages × two replicas) as processes of their own, a client
// here that trains on the full MNIST over their links, the page on http://localhost:50000, the model in a file at the end.
import { existsSync } from 'node:fs';
import os from 'node:os';
import { fileURLToPath } from 'node:url';
import { z } from 'zod';
import { toMeshError } from '../runtime/errors.ts';
import { EventBus } from '../runtime/events.ts';
import { planStages } from '../runtime/train/config.ts';
import { startChild, type Child } from './children.ts';
import { command, isOn, option, runCommand, spelled, type CommandContext } from './command.ts';
import { port, whenAborted } from './options.ts';
import { readRunConfig } from './run-config.ts';
import { trainOnce } from './train.ts';

const CLIENT_PORT = 51_000;
const FIRST_STAGE_PORT = 50_500;

const count = z.coerce.number().int().min(1);
const schema = z.strictObject({
  exit: z.unknown().optional().transform(isOn),
  config: z.string().optional(),
  replicas: count.max(8).default(2),
  epochs: count.optional(),
  mode: z.enum(['sync', 'async']).optional(),
  policy: z.enum(['all', 'disjoint', 'routed']).optional(),
  port: port.optional(),
  state: z.string().optional(),
  out: z.string().default('out/model.safetensors'),
  log: z.string().optional(),
});

const start = command({
  name: 'npm start --',
  description: 'Raise a monitor and four peers here, train on MNIST to the end, show it live, export the model.',
  options: [
    option('--exit', 'end when the run is done, instead of keeping the monitor up until Ctrl-C'),
    option('--config <file>', 'another run, in YAML'),
    option('--replicas <number>', 'peers for each stage (default: 2)'),
    option('--epochs <number>', 'default: 8'),
    option('--mode <sync|async>', 'default: sync'),
    option('--policy <all|disjoint|routed>', 'default: all'),
    option('--port <number>', "the monitor's port (default: 50000, next free if taken)"),
    option('--state <directory>', "where the monitor's token is kept (default: ~/.local/state/skein)"),
    option('--out <file>', 'where the trained model goes (default: out/model.safetensors)'),
    option('--log <file>', 'write every event of the run to this file, one JSON a line'),
  ],
  schema,
  examples: ['npm start', 'npm start -- --exit --json', 'npm start -- --replicas 3 --mode async --policy routed'],
  run: async (options, context) => {
    const { mode, policy, epochs } = options;
    const config = readRunConfig(options.config, { mode, policy, epochs });
    const bus = new EventBus();
    bus.on(context.emit);
    const children: Child[] = [];
    try {
      const join = await unlessAborted(context.signal, async () => {
        const joinUrl = await startMonitor(options, context, children, bus);
        context.signal.throwIfAborted();
        const names = planStages(config).map((plan) => plan.name);
        await startPeers(names, config, options.replicas, joinUrl, children, bus);
        return joinUrl;
      });
      const { out, log } = options;
      await trainOnce(
        { join, config, out, log, host: '127.0.0.1', port: CLIENT_PORT },
        { emit: bus.emit, signal: context.signal },
      );
      if (options.exit) return 0;
      context.say('\nThe mesh stays up: open the join link to lend this or another GPU, or start another run with');
      context.say(`  ${spelled('train')} --join '${join}'`);
      context.say('Ctrl-C ends it.');
      await whenAborted(context.signal);
      return 0;
    } finally {
      // Peers first: they say goodbye to a monitor that is still there.
      const [monitor, ...peers] = children;
      await Promise.all(peers.map((peer) => peer.end()));
      await monitor?.end();
    }
  },
});

/** Work whose end is not waited for once the person has had enough. */
function unlessAborted<T>(signal: AbortSignal, work: () => Promise<T>): Promise<T> {
  const aborted = whenAborted(signal).then(() => {
    throw toMeshError(signal.reason);
  });
  return Promise.race([work(), aborted]);
}

async function startMonitor(
  options: z.infer<typeof schema>,
  { say }: CommandContext,
  children: Child[],
  bus: EventBus,
): Promise<string> {
  const args = [
    ...(options.port === undefined ? [] : ['--port', String(options.port)]),
    ...(options.state === undefined ? [] : ['--state', options.state]),
  ];
  const monitor = startChild('the monitor', 'signaling/main.ts', args, {}, (event) => {
    if (event.kind === 'port.moved' || event.kind === 'monitor.ready') bus.emit(event);
  });
  children.push(monitor);
  const ready = await monitor.event('monitor.ready');
  bus.emit({ kind: 'process.started', what: 'monitor', pid: monitor.pid });
  say(`\n  Watch it live, or lend another GPU:  ${ready.joinUrl}\n`);
  if (!existsSync(fileURLToPath(new URL('../dist/web/index.html', import.meta.url))))
    say('The page is not built yet: npm run build:web');
  return ready.joinUrl;
}

/** One peer for each replica of each stage. Software drivers get one thread each when there are more peers than cores. */
async function startPeers(
  names: string[],
  { version, subversion }: { version: number; subversion: number },
  replicas: number,
  join: string,
  children: Child[],
  bus: EventBus,
): Promise<void> {
  const uids = Array.from({ length: replicas }, (_, index) =>
    names.map((name) => `${name}.${version}.${index}.${subversion}`),
  ).flat();
  const threads = String(Math.max(1, Math.floor(os.availableParallelism() / uids.length)));
  const env = { LP_NUM_THREADS: process.env.LP_NUM_THREADS ?? threads };
  const peers = uids.map((uid, i) => {
    const args = ['--join', join, '--stage', uid, '--port', String(FIRST_STAGE_PORT + i)];
    const child = startChild(uid, 'node/serve.ts', args, env, (event) => {
      if (
        event.kind === 'stage.rejected' ||
        event.kind === 'hop.replaced' ||
        event.kind === 'stage.adopted' ||
        event.kind === 'port.moved'
      )
        bus.emit(event);
    });
    children.push(child);
    return child;
  });
  await Promise.all(
    peers.map(async (peer) => {
      await peer.event('stage.ready');
      bus.emit({ kind: 'process.started', what: peer.name, pid: peer.pid });
    }),
  );
}

await runCommand(start);
