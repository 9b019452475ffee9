// `npm start`: a whole mesh on this machine. A monitor and four peers (two stages × two replicas) as processes of their own, a client
// here that trains on the full MNIST over their links, the page on http://localhost:50000, the model in a file at the end.
import { z } from 'zod';
import { command, isOn, option, runCommand, spelled } from './command.ts';
import { LocalMesh } from './local-mesh.ts';
import { port, whenAborted } from './options.ts';
import { configOf, trainOnce } from './train.ts';

const CLIENT_PORT = 51_000;

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
    const config = await configOf(options.config, { mode, policy, epochs });
    const mesh = new LocalMesh(context);
    try {
      const join = await mesh.start(config, options);
      const { out, log } = options;
      await trainOnce(
        { join, config, out, log, host: '127.0.0.1', port: CLIENT_PORT },
        { emit: mesh.emit, signal: context.signal },
      );
      if (options.exit) return 0;
      context.say('\nThe mesh stays up: open the join link to lend this or another GPU, or start another run with');
      context.say(`  ${spelled('train')} --join '${join}'`);
      context.say('Ctrl-C ends it.');
      await whenAborted(context.signal);
      return 0;
    } finally {
      await mesh.end();
    }
  },
});

await runCommand(start);
