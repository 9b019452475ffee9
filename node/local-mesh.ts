// A whole mesh on this machine: a monitor and a peer for each replica of each stage, as processes of their own. What is trained on it is
// the caller's business.
import { existsSync } from 'node:fs';
import os from 'node:os';
import { fileURLToPath } from 'node:url';
import { toMeshError } from '../runtime/errors.ts';
import { EventBus, type Emit, type MeshEvent } from '../runtime/events.ts';
import { planStages, type RunConfig } from '../runtime/train/config.ts';
import { startChild, type Child } from './children.ts';
import type { CommandContext } from './command.ts';
import { whenAborted } from './options.ts';

const FIRST_STAGE_PORT = 50_500;

export interface LocalMeshOptions {
  /** Peers for each stage. */
  replicas: number;
  /** Of the monitor. */
  port?: number | undefined;
  state?: string | undefined;
}

/** Events of the peers that concern a person who watches the whole. */
const SHOWN: ReadonlySet<MeshEvent['kind']> = new Set([
  'stage.rejected',
  'hop.replaced',
  'stage.adopted',
  'port.moved',
]);

export class LocalMesh {
  readonly #context: CommandContext;
  readonly #bus = new EventBus();
  readonly #children: Child[] = [];

  constructor(context: CommandContext) {
    this.#context = context;
    this.#bus.on(context.emit);
  }

  get emit(): Emit {
    return this.#bus.emit;
  }

  /** Up once it resolves, with the join link. */
  start(config: RunConfig, options: LocalMeshOptions): Promise<string> {
    const { signal } = this.#context;
    return unlessAborted(signal, async () => {
      const join = await this.#startMonitor(options);
      signal.throwIfAborted();
      await this.#startPeers(config, options.replicas, join);
      return join;
    });
  }

  /** The monitor alone; resolves with the join link. */
  startMonitor(options: Omit<LocalMeshOptions, 'replicas'>): Promise<string> {
    return unlessAborted(this.#context.signal, () => this.#startMonitor(options));
  }

  /** Peers first: they say goodbye to a monitor that is still there. */
  async end(): Promise<void> {
    const [monitor, ...peers] = this.#children;
    await Promise.all(peers.map((peer) => peer.end()));
    await monitor?.end();
  }

  async #startMonitor({ port, state }: Omit<LocalMeshOptions, 'replicas'>): Promise<string> {
    const args = [
      ...(port === undefined ? [] : ['--port', String(port)]),
      ...(state === undefined ? [] : ['--state', state]),
    ];
    const monitor = startChild('the monitor', 'signaling/main.ts', args, {}, (event) => {
      if (event.kind === 'port.moved' || event.kind === 'monitor.ready') this.emit(event);
    });
    this.#children.push(monitor);
    const ready = await monitor.event('monitor.ready');
    this.emit({ kind: 'process.started', what: 'monitor', pid: monitor.pid });
    const { say } = this.#context;
    say(`\n  Watch it live, or lend another GPU:  ${ready.joinUrl}\n`);
    if (!existsSync(fileURLToPath(new URL('../dist/web/index.html', import.meta.url))))
      say('The page is not built yet: npm run build:web');
    return ready.joinUrl;
  }

  /** One peer for each replica of each stage. Software drivers get one thread each when there are more peers than cores. */
  async #startPeers(config: RunConfig, replicas: number, join: string): Promise<void> {
    const names = planStages(config).map((plan) => plan.name);
    const { version, subversion } = config;
    const uids = Array.from({ length: replicas }, (_, index) =>
      names.map((name) => `${name}.${version}.${index}.${subversion}`),
    ).flat();
    const threads = String(Math.max(1, Math.floor(os.availableParallelism() / uids.length)));
    const env = { LP_NUM_THREADS: process.env.LP_NUM_THREADS ?? threads };
    const peers = uids.map((uid, i) => {
      const args = ['--join', join, '--stage', uid, '--port', String(FIRST_STAGE_PORT + i)];
      const child = startChild(uid, 'node/serve.ts', args, env, (event) => {
        if (SHOWN.has(event.kind)) this.emit(event);
      });
      this.#children.push(child);
      return child;
    });
    await Promise.all(
      peers.map(async (peer) => {
        await peer.event('stage.ready');
        this.emit({ kind: 'process.started', what: peer.name, pid: peer.pid });
      }),
    );
  }
}

/** Work whose end is not waited for once the person has had enough. */
function unlessAborted<T>(signal: AbortSignal, work: () => Promise<T>): Promise<T> {
  const aborted = whenAborted(signal).then(() => {
    throw toMeshError(signal.reason);
  });
  return Promise.race([work(), aborted]);
}
