// `npm run example:lm`: a language model from nothing, over a mesh on this machine. A character-level GPT-2 learns the State of the
// Union addresses over two stages × two replicas, tells how good it is beside PyTorch, writes a few lines, and is saved as a folder.
import { readFileSync } from 'node:fs';
import { z } from 'zod';
import type { EventOf } from '../runtime/events.ts';
import { parseRunConfig } from '../runtime/train/config.ts';
import { command, isOn, option, runCommand, spelled } from './command.ts';
import { LocalMesh } from './local-mesh.ts';
import { port, whenAborted } from './options.ts';
import { trainOnce } from './train.ts';

const CLIENT_PORT = 51_000;
/** The run, and what the same training reaches in PyTorch; how that was found is said there. */
const fileSchema = z.strictObject({
  run: z.record(z.string(), z.unknown()),
  reference: z.strictObject({ heldOutLoss: z.number(), perSeed: z.array(z.number()), how: z.string() }),
});

const count = z.coerce.number().int().min(1);
const schema = z.strictObject({
  exit: z.unknown().optional().transform(isOn),
  steps: count.optional(),
  replicas: count.max(8).default(2),
  port: port.optional(),
  state: z.string().optional(),
  out: z.string().default('out/sotu-gpt/'),
  log: z.string().optional(),
});

const example = command({
  name: 'npm run example:lm --',
  description: 'Train a small GPT-2 on the State of the Union addresses over a mesh here, and let it write.',
  options: [
    option('--exit', 'end when the run is done, instead of keeping the monitor up until Ctrl-C'),
    option('--steps <number>', 'fewer or more steps than 1500; then it is not compared with PyTorch'),
    option('--replicas <number>', 'peers for each of the two stages (default: 2)'),
    option('--port <number>', "the monitor's port (default: 50000, next free if taken)"),
    option('--state <directory>', "where the monitor's token is kept (default: ~/.local/state/skein)"),
    option('--out <path>', 'where the trained model goes (default: out/sotu-gpt/, a Hugging Face folder)'),
    option('--log <file>', 'write every event of the run to this file, one JSON a line'),
  ],
  schema,
  examples: ['npm run example:lm', 'npm run example:lm -- --exit --json'],
  run: async (options, context) => {
    const file = fileSchema.parse(JSON.parse(readFileSync(new URL('example-lm.json', import.meta.url), 'utf8')));
    const given = options.steps === undefined ? {} : { maxSteps: options.steps, epochs: 1_000 };
    const config = parseRunConfig({ ...file.run, ...given });
    const more = options.steps === undefined ? { referenceLoss: file.reference.heldOutLoss } : {};
    const mesh = new LocalMesh(context);
    let done: EventOf<'run.done'>;
    try {
      const join = await mesh.start(config, options);
      const { out, log } = options;
      done = await trainOnce(
        { join, config, out, log, host: '127.0.0.1', port: CLIENT_PORT, more },
        {
          emit: (event) => {
            if (event.kind !== 'run.done' || !options.exit) mesh.emit(event);
          },
          signal: context.signal,
        },
      );
      if (!options.exit) {
        context.say('\nThe mesh stays up: open the join link to lend this or another GPU, or start another run with');
        context.say(`  ${spelled('train')} --join '${join}'`);
        context.say('Ctrl-C ends it.');
        await whenAborted(context.signal);
      }
    } finally {
      await mesh.end();
    }
    // The last thing to be said, whatever the peers said as they left.
    if (options.exit) context.emit(done);
    return 0;
  },
});

await runCommand(example);
