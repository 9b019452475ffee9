// This tab as a peer of the mesh: a compute worker, a peer of its own with its events on the dashboards, hosts for stages. What it is there
// for, to lend or to train, is for those who ask for it.
import { platform } from '#platform';
import type { Compute } from '../runtime/compute.ts';
import { MeshError } from '../runtime/errors.ts';
import { EventBus, type Emit } from '../runtime/events.ts';
import type { JoinTarget } from '../runtime/mesh/join-url.ts';
import type { Monitor, Role } from '../runtime/mesh/monitor-client.ts';
import { joinMesh, type Peer } from '../runtime/mesh/peer.ts';
import { publishTo } from '../runtime/mesh/publish.ts';
import { StageHost } from '../runtime/server/host.ts';
import type { Uid } from '../runtime/wire/ids.ts';
import type { Figures } from './state.ts';

export interface JoinOptions {
  target: JoinTarget;
  emit: Emit;
  /** What is being done, for the person who waits. */
  tell: (doing: string) => void;
  signal: AbortSignal;
}

export interface TabPeer {
  readonly peer: Peer;
  readonly monitor: Monitor;
  readonly compute: Compute;
  readonly bus: EventBus;
  /** Resolves with the reason when the compute worker dies. */
  readonly died: Promise<string>;
  makeHost(): StageHost;
  close(reason: string): Promise<void>;
}

/** What a tab does for the mesh, as the buttons see it. */
export interface Loan {
  readonly uid: Uid;
  /** Resolves with the reason when the compute worker dies. */
  readonly died: Promise<string>;
  figures(): Figures;
  /** While paused the record says so, and others go round this stage; its place and its weights stay. */
  pause(isPaused: boolean): Promise<void>;
  /** Finishes what was begun, withdraws, closes every link and ends the worker. */
  leave(): Promise<void>;
  /** For a page that is going away: says goodbye without waiting. */
  abandon(): void;
}

/** Throws `no-gpu`, `unauthorized`, `unreachable`, `cancelled`; nothing is left behind then. */
export async function joinFromTab(role: Role, { target, emit, tell, signal }: JoinOptions): Promise<TabPeer> {
  tell('Starting the compute worker');
  const { compute, died, end } = await platform.startCompute();
  let peer: Peer | null = null;
  try {
    const bus = new EventBus();
    bus.on(emit);
    const gpu = await compute.describe();
    tell('Joining the mesh');
    peer = await joinMesh({ target, role, emit: bus.emit, signal, transports: () => [] });
    const { id, ask, links, isConnected } = peer;
    const joined = peer;
    const monitor = monitorOf(joined);
    publishTo(monitor, bus);
    const device = gpu.description || `${gpu.vendor} ${gpu.architecture}`;
    bus.emit({ kind: 'gpu.found', device, isSoftware: gpu.isSoftware });
    const makeHost = (): StageHost =>
      new StageHost({
        ...{ self: id, host: 'browser' as const, compute, gpu, ask, emit: bus.emit, isConnected },
        addresses: () => [],
        traffic: () => links.traffic(),
      });
    const close = async (reason: string): Promise<void> => {
      await joined.close(reason);
      await end();
    };
    return { peer: joined, monitor, compute, bus, died, makeHost, close };
  } catch (cause) {
    await peer?.close('it did not begin');
    await end();
    throw cause;
  }
}

export async function pauseStages(host: StageHost, monitor: Monitor, isPaused: boolean): Promise<void> {
  for (const stage of host.stages) stage.pause(isPaused);
  await host.announce(monitor);
}

export function figuresOf({ stages }: StageHost, { links }: Peer): Figures {
  const [stage] = stages;
  return {
    run: stage?.run?.run ?? null,
    samplesPerSecond: stage?.meter.rate ?? 0,
    samples: stage?.meter.samples ?? 0,
    loss: stage?.meter.loss ?? null,
    ...links.traffic(),
    links: links.open(),
  };
}

function monitorOf(peer: Peer): Monitor {
  if (!peer.monitor) throw new MeshError('internal', 'The page joined no monitor.', 'Reload the page.');
  return peer.monitor;
}
