// `npm run example:federated`: three workers with skewed data on this machine. Each trains the same model on its own share of MNIST and pulls
// layers from its neighbours, until all of them know all ten classes; then the same three train alone, for comparison.
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import os, { tmpdir } from 'node:os';
import path from 'node:path';
import { z } from 'zod';
import type { EventOf, MeshEvent } from '../runtime/events.ts';
import { parseWorkerConfig, uidOf, type WorkerConfig } from '../runtime/federated/config.ts';
import type { Child } from './children.ts';
import { startChild } from './children.ts';
import { command, isOn, option, runCommand } from './command.ts';
import { LocalMesh } from './local-mesh.ts';
import { port, whenAborted } from './options.ts';

const FIRST_PORT = 50_500;

const count = z.coerce.number().int().min(1);
const schema = z.strictObject({
  exit: z.unknown().optional().transform(isOn),
  workers: count.max(16).default(3),
  epochs: count.optional(),
  method: z.string().default('mpls'),
  alpha: z.coerce.number().positive().default(0.5),
  port: port.optional(),
  state: z.string().optional(),
});

type Done = EventOf<'worker.done'>;
type Outcome = NonNullable<EventOf<'run.done'>['workers']>;

/** Events of the workers that concern a person who watches the whole. */
const SHOWN: ReadonlySet<MeshEvent['kind']> = new Set([
  'worker.ready',
  'worker.adopted',
  'worker.progress',
  'worker.evaluated',
  'worker.done',
  'peer.struck',
  'peer.banned',
  'port.moved',
]);

const example = command({
  name: 'npm run example:federated --',
  description: 'Three workers with skewed shares of MNIST reach all ten classes by pulling layers from each other.',
  options: [
    option('--exit', 'end when the run is done, instead of keeping the monitor up until Ctrl-C'),
    option('--workers <number>', 'default: 3, in a ring'),
    option('--epochs <number>', 'default: 8'),
    option('--method <name>', 'another planner, such as appg, ad-psgd, epidemic (default: mpls)'),
    option('--alpha <number>', "how skewed the shares are: Dirichlet's parameter, small is skewed (default: 0.5)"),
    option('--port <number>', "the monitor's port (default: 50000, next free if taken)"),
    option('--state <directory>', "where the monitor's token is kept (default: ~/.local/state/skein)"),
  ],
  schema,
  examples: [
    'npm run example:federated',
    'npm run example:federated -- --exit --json',
    'npm run example:federated -- --workers 5 --method epidemic',
  ],
  run: async (options, context) => {
    const { workers, epochs = 8, method, alpha } = options;
    const config = (worker: number, planner: string): WorkerConfig =>
      parseWorkerConfig({
        run: planner === 'none' ? 'alone' : 'federated',
        ...{ worker, workers, topology: 'ring', epochs },
        version: planner === 'none' ? 1 : 0,
        partition: { kind: 'dirichlet', alpha },
        optimizer: { name: 'sgd', lr: 0.1 },
        schedule: { kind: 'linear', final: 0.02 },
        average: { planner, intervalMs: 200, share: 0.5 },
      });
    config(0, method); // what is wrong is said before anything is started
    const mesh = new LocalMesh(context);
    const folder = await mkdtemp(path.join(tmpdir(), 'skein-federated-'));
    let done: EventOf<'run.done'> | null = null;
    try {
      const join = await mesh.startMonitor(options);
      const started = performance.now();
      const run = async (planner: string): Promise<Done[]> => {
        const configs = Array.from({ length: workers }, (_, worker) => config(worker, planner));
        return runWorkers(configs, join, folder, mesh, context.signal);
      };
      context.say(`\nThree of a kind, each with data of its own: ${workers} workers train together (${method}).`);
      const together = await run(method);
      context.say('\nThe same workers alone, without a word to each other:');
      const alone = await run('none');
      done = doneOf(together, alone, (performance.now() - started) / 1_000);
      for (const line of table(together, alone)) context.say(line);
      if (!options.exit) {
        context.emit(done);
        context.say('\nThe monitor stays up until Ctrl-C.');
        await whenAborted(context.signal);
      }
    } finally {
      await mesh.end();
      await rm(folder, { recursive: true, force: true });
    }
    // The last thing to be said, whatever the processes said as they ended.
    if (options.exit && done) context.emit(done);
    return 0;
  },
});

/** One process for each; software drivers get one thread each when there are more workers than cores. */
async function runWorkers(
  configs: readonly WorkerConfig[],
  join: string,
  folder: string,
  mesh: LocalMesh,
  signal: AbortSignal,
): Promise<Done[]> {
  const threads = String(Math.max(1, Math.floor(os.availableParallelism() / configs.length)));
  const env = { LP_NUM_THREADS: process.env.LP_NUM_THREADS ?? threads };
  const children: Child[] = [];
  const end = (): void => void Promise.all(children.map((child) => child.end()));
  signal.addEventListener('abort', end, { once: true });
  try {
    for (const [i, config] of configs.entries()) {
      const file = path.join(folder, `${config.run}-${i}.yaml`);
      await writeFile(file, JSON.stringify(config)); // JSON is YAML
      const args = ['--join', join, '--worker', '--config', file, '--port', String(FIRST_PORT + i)];
      const child = startChild(uidOf(config, i), 'node/serve.ts', args, env, (event) => {
        if (SHOWN.has(event.kind)) mesh.emit(event);
      });
      children.push(child);
      mesh.emit({ kind: 'process.started', what: child.name, pid: child.pid });
    }
    const done = await Promise.all(children.map((child) => child.event('worker.done')));
    await Promise.all(children.map((child) => child.ended));
    return done;
  } finally {
    signal.removeEventListener('abort', end);
    await Promise.all(children.map((child) => child.end()));
  }
}

const outcomeOf = (done: readonly Done[]): Outcome =>
  done.map(({ uid, accuracy, perClassAccuracy }) => ({ id: uid, accuracy, perClassAccuracy }));

const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;

function doneOf(together: readonly Done[], alone: readonly Done[], seconds: number): EventOf<'run.done'> {
  const [first] = together;
  return {
    kind: 'run.done',
    run: first?.run ?? '',
    accuracy: mean(together.map(({ accuracy }) => accuracy)),
    perClassAccuracy: (first?.perClassAccuracy ?? []).map((_, label) =>
      mean(together.map(({ perClassAccuracy }) => perClassAccuracy[label] ?? 0)),
    ),
    samplesPerSecond: Math.round(together.reduce((sum, one) => sum + one.samplesPerSecond, 0)),
    peers: together.length,
    trainers: together.length,
    plannedMicrobatches: together.reduce((sum, { steps }) => sum + steps, 0),
    appliedMicrobatches: together.reduce((sum, { steps }) => sum + steps, 0),
    seconds: Math.round(seconds * 10) / 10,
    model: '',
    workers: outcomeOf(together),
    alone: outcomeOf(alone),
  };
}

function table(together: readonly Done[], alone: readonly Done[]): string[] {
  const show = (done: Done | undefined): string => {
    const worst = Math.min(...(done?.perClassAccuracy ?? [0]));
    return `${((done?.accuracy ?? 0) * 100).toFixed(2)} %, worst class ${(worst * 100).toFixed(1).padStart(5)} %`;
  };
  return [
    '',
    '  worker        together                        alone',
    ...together.map((done, i) => `  ${done.uid}  ${show(done)}   ${show(alone[i])}`),
  ];
}

await runCommand(example);
