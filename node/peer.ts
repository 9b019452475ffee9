// A mesh peer in a Node process: TCP beside WebRTC and the relay, certificates pinned by the join link.
import os from 'node:os';
import { generate } from 'selfsigned';
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
  /** Encrypt direct links to this peer; `auto`: when others than this machine can reach it. */
  tls?: 'auto' | 'on' | 'off';
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
  const isTls = options.tls === 'on' || ((options.tls ?? 'auto') === 'auto' && !isLoopback(host));
  const makeTcp = async (): Promise<TcpTransport> =>
    tcpTransport({ host, port, nextFree: true, emit, ...(isTls ? { tls: await makeCertificate() } : {}) });
  const tcp = (options.allow?.includes('tcp') ?? true) ? await makeTcp() : null;
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
        tcp
          ? reachable(host).map((address) => ({ transport: isTls ? 'tls' : 'tcp', host: address, port: tcp.port }))
          : [],
    };
  } catch (cause) {
    await tcp?.close();
    throw cause;
  }
}

const isLoopback = (host: string): boolean => host === 'localhost' || host === '::1' || host.startsWith('127.');

/** Good for this process only: nobody trusts it by itself, the handshake binds the peers' keys to the session. */
async function makeCertificate(): Promise<{ cert: string; key: string }> {
  const { cert, private: key } = await generate([{ name: 'commonName', value: 'skein peer' }], {
    algorithm: 'sha256',
    keyType: 'ec',
  });
  return { cert, key };
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
