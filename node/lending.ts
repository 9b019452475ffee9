// What every process that lends its GPU begins with: the compute worker, a peer in the mesh, a host for stages. What it then hosts, and when it
// ends, is its caller's business.
import type { ComputeWorker } from '../runtime/platform.ts';
import type { GpuDescription } from '../runtime/compute.ts';
import type { Emit } from '../runtime/events.ts';
import type { Role } from '../runtime/mesh/monitor-client.ts';
import { StageHost } from '../runtime/server/host.ts';
import { parseBytes } from './bytes.ts';
import { joinFromNode, type NodePeer } from './peer.ts';
import { platform } from './platform.ts';

export interface LendingOptions {
  join: string;
  role: Role;
  host: string;
  port: number;
  tls: 'auto' | 'on' | 'off';
  transports?: ('tcp' | 'webrtc' | 'relay')[] | undefined;
  /** GPU memory to lend, such as 4GiB. */
  memory?: string | undefined;
  emit: Emit;
  signal: AbortSignal;
}

export interface Lending {
  worker: ComputeWorker;
  gpu: GpuDescription;
  peer: NodePeer;
  host: StageHost;
}

/** Throws `no-gpu`, `unauthorized`, `unreachable`, `usage`. */
export async function startLending(options: LendingOptions): Promise<Lending> {
  const { join, role, host: address, port, tls, transports, memory, emit, signal } = options;
  // The compute worker reads it from the environment that it inherits.
  if (memory !== undefined) process.env.SKEIN_MEMORY = String(parseBytes(memory));
  const worker = await platform.startCompute();
  const gpu = await worker.compute.describe();
  emit({
    kind: 'gpu.found',
    device: gpu.description || `${gpu.vendor} ${gpu.architecture}`,
    isSoftware: gpu.isSoftware,
  });
  const peer = await joinFromNode({
    ...{ join, role, host: address, port, tls, emit, signal },
    ...(transports ? { allow: transports } : {}),
  });
  const host = new StageHost({
    self: peer.id,
    host: 'node',
    compute: worker.compute,
    gpu,
    ask: peer.ask,
    emit,
    isConnected: (id) => peer.isConnected(id),
    addresses: () => peer.addresses(),
    traffic: () => peer.links.traffic(),
  });
  return { worker, gpu, peer, host };
}
