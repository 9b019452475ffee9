// The lending half of the page, the browser's sibling of node/serve.ts: a compute worker, a peer of its own, one hosted stage.
import { platform } from '#platform';
import type { ComputeWorker } from '../runtime/platform.ts';
import { MeshError, toMeshError } from '../runtime/errors.ts';
import { EventBus, type Emit } from '../runtime/events.ts';
import type { JoinTarget } from '../runtime/mesh/join-url.ts';
import { joinMesh, type Peer } from '../runtime/mesh/peer.ts';
import type { Monitor } from '../runtime/mesh/monitor-client.ts';
import { publishTo } from '../runtime/mesh/publish.ts';
import { StageHost } from '../runtime/server/host.ts';
import type { Uid } from '../runtime/wire/ids.ts';
import type { Figures } from './state.ts';

const DRAIN_MS = 4_000;
const MAX_TRIES = 16;

export interface LendOptions {
  target: JoinTarget;
  /** The UID to host. Asked again, with those that turned out to be held by others, until one is free. */
  pick: (taken: ReadonlySet<string>) => Uid;
  emit: Emit;
  /** What is being done, for the person who waits. */
  tell: (doing: string) => void;
  signal: AbortSignal;
}

export interface Loan {
  readonly uid: Uid;
  /** Resolves with the reason when the compute worker dies. */
  readonly died: Promise<string>;
  figures(): Figures;
  /** While paused the record says so, and trainers go round this stage; its place and its weights stay. */
  pause(isPaused: boolean): Promise<void>;
  /** Finishes what was begun, withdraws, closes every link and ends the worker. */
  leave(): Promise<void>;
  /** For a page that is going away: says goodbye without waiting. */
  abandon(): void;
}

/** Throws `no-gpu`, `unauthorized`, `unreachable`, `busy`; nothing is left behind then. */
export async function lend(options: LendOptions): Promise<Loan> {
  options.tell('Starting the compute worker');
  const worker = await platform.startCompute();
  let peer: Peer | null = null;
  try {
    const bus = new EventBus();
    bus.on(options.emit);
    const gpu = await worker.compute.describe();
    options.tell('Joining the mesh');
    const { target, signal } = options;
    peer = await joinMesh({ target, role: 'server', emit: bus.emit, signal, transports: () => [] });
    const monitor = monitorOf(peer);
    publishTo(monitor, bus);
    const device = gpu.description || `${gpu.vendor} ${gpu.architecture}`;
    bus.emit({ kind: 'gpu.found', device, isSoftware: gpu.isSoftware });
    options.tell('Announcing the stage');
    const { id, ask, links, isConnected } = peer;
    const make = (): StageHost =>
      new StageHost({
        self: id,
        host: 'browser',
        compute: worker.compute,
        gpu,
        ask,
        emit: bus.emit,
        isConnected,
        addresses: () => [],
        traffic: () => links.traffic(),
      });
    const { host, uid } = await announceFree(peer, monitor, make, options.pick);
    bus.emit({ kind: 'stage.ready', uid, port: null });
    return loanOf({ worker, peer, monitor, host, uid });
  } catch (cause) {
    await peer?.close('lending did not begin');
    await worker.end();
    throw cause;
  }
}

function monitorOf(peer: Peer): Monitor {
  if (!peer.monitor) throw new MeshError('internal', 'The page joined no monitor.', 'Reload the page.');
  return peer.monitor;
}

/** Others may take the same index in the same moment: the monitor says who was first, and the rest take the next one. */
async function announceFree(
  peer: Peer,
  monitor: Monitor,
  make: () => StageHost,
  pick: (taken: ReadonlySet<string>) => Uid,
): Promise<{ host: StageHost; uid: Uid }> {
  const taken = new Set<string>();
  for (;;) {
    const uid = pick(taken);
    const host = make();
    host.add(uid);
    peer.serve(host.handlers);
    try {
      await host.announce(monitor);
      return { host, uid };
    } catch (cause) {
      host.close();
      taken.add(uid);
      if (toMeshError(cause).code !== 'busy' || taken.size >= MAX_TRIES) throw cause;
    }
  }
}

interface LoanParts {
  worker: ComputeWorker;
  peer: Peer;
  monitor: Monitor;
  host: StageHost;
  uid: Uid;
}

function loanOf({ worker, peer, monitor, host, uid }: LoanParts): Loan {
  const close = async (): Promise<void> => {
    host.close();
    await peer.close('the tab leaves the mesh');
    await worker.end();
  };
  return {
    uid,
    died: worker.died,
    figures: () => {
      const [stage] = host.stages;
      return {
        run: stage?.run?.run ?? null,
        samplesPerSecond: stage?.meter.rate ?? 0,
        samples: stage?.meter.samples ?? 0,
        loss: stage?.meter.loss ?? null,
        ...peer.links.traffic(),
        links: peer.links.open(),
      };
    },
    pause: async (isPaused) => {
      for (const stage of host.stages) stage.pause(isPaused);
      await host.announce(monitor);
    },
    leave: async () => {
      try {
        await host.withdraw(monitor);
        await host.drain(DRAIN_MS);
      } finally {
        await close();
      }
    },
    abandon: () => {
      // Nobody is left to tell: the page is gone before this settles.
      close().catch(() => undefined);
    },
  };
}
