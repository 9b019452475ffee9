// A mesh peer in a Node process: TCP beside WebRTC and the relay, certificates pinned by the join link.
import os from 'node:os';
import type { Emit } from '../runtime/events.ts';
import { joinMesh, type Peer } from '../runtime/mesh/peer.ts';
import { parseJoinUrl, type Role } from '../runtime/mesh/monitor-client.ts';
import type { Transport } from '../runtime/mesh/transport.ts';
import type { Address } from '../runtime/wire/records.ts';
import { pinnedTls } from './pinned-tls.ts';
import { tcpTransport, type TcpTransport } from './tcp.ts';

export interface NodePeerOptions {
  join: string;
  role: Role;
  /** Where TCP listens; loopback unless told otherwise. */
  host: string;
  port: number;
  emit: Emit;
  signal: AbortSignal;
  /** Which transports may carry links; all by default. */
  allow?: Transport['kind'][];
}

export interface NodePeer extends Peer {
  readonly tcp: TcpTransport | null;
  /** What others may dial. */
  addresses(): Address[];
}

export async function joinFromNode(options: NodePeerOptions): Promise<NodePeer> {
  const { emit, host, port, role, signal } = options;
  const target = parseJoinUrl(options.join);
  const tcp =
    (options.allow?.includes('tcp') ?? true) ? await tcpTransport({ host, port, nextFree: true, emit }) : null;
  try {
    const peer = await joinMesh({
      target,
      role,
      emit,
      signal,
      transports: () => (tcp ? [tcp] : []),
      transportOptions: pinnedTls(target),
      ...(options.allow ? { allow: options.allow } : {}),
    });
    return {
      ...peer,
      tcp,
      addresses: () =>
        tcp ? reachable(host).map((address) => ({ transport: 'tcp', host: address, port: tcp.port })) : [],
    };
  } catch (cause) {
    await tcp?.close();
    throw cause;
  }
}

/** The addresses under which a listener on `host` is found: itself, or every address of the machine if it listens on all. */
function reachable(host: string): string[] {
  if (host !== '0.0.0.0' && host !== '::') return [host];
  const all = Object.values(os.networkInterfaces()).flatMap((entries) => entries ?? []);
  return all
    .filter((entry) => !entry.internal && entry.family === 'IPv4')
    .map((entry) => entry.address)
    .slice(0, 7)
    .concat('127.0.0.1');
}
