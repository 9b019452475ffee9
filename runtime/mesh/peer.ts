// A peer, put together: identity, links by every transport that this host has, the monitor if there is one. `init` of the mesh.
import { platform } from '#platform';
import type { Emit } from '../events.ts';
import type { Handlers } from '../wire/channel.ts';
import type { PeerId } from '../wire/ids.ts';
import { askerOf, type Ask } from './ask.ts';
import { createIdentity, randomText } from './identity.ts';
import { Links, type LinksOptions } from './links.ts';
import { joinMonitor, type JoinTarget, type Monitor, type Role } from './monitor-client.ts';
import { relayTransport } from './relay.ts';
import { Sessions } from './sessions.ts';
import type { Transport } from './transport.ts';
import { webrtcTransport } from './webrtc.ts';

export interface PeerOptions {
  /** The monitor to join; null for a mesh without one (links by local or known TCP addresses only). */
  target: JoinTarget | null;
  /** The mesh's token, where there is no join link to hold it. */
  token?: string;
  role: Role;
  emit: Emit;
  signal?: AbortSignal;
  /** Transports of the host beside WebRTC and the relay. */
  transports: (self: PeerId) => Transport[];
  /** What this peer answers; may be given later by `serve`. */
  handlers?: Handlers;
  /** From the host: how to reach a monitor with a certificate of its own. */
  transportOptions?: object;
  /** Which transports may be used, for tests and for those who must not expose an address. All by default. */
  allow?: readonly Transport['kind'][];
  links?: Partial<LinksOptions>;
}

export interface Peer {
  readonly id: PeerId;
  readonly links: Links;
  readonly monitor: Monitor | null;
  readonly ask: Ask;
  isConnected(peer: PeerId): boolean;
  /** Adds to what this peer answers. */
  serve(handlers: Handlers): void;
  close(reason: string): Promise<void>;
}

export async function joinMesh(options: PeerOptions): Promise<Peer> {
  const identity = await createIdentity();
  const { target, role, emit } = options;
  const monitor = target
    ? await joinMonitor({
        target,
        identity,
        role,
        emit,
        ...(options.signal ? { signal: options.signal } : {}),
        ...(options.transportOptions ? { transportOptions: options.transportOptions } : {}),
      })
    : null;
  const sessions = monitor ? new Sessions(monitor) : null;
  const all = [...options.transports(identity.peer), ...(sessions ? await monitorTransports(sessions) : [])];
  const transports = all.filter((transport) => options.allow?.includes(transport.kind) ?? true);
  const handlers: Handlers = { ...options.handlers };
  const links = new Links({
    ...options.links,
    identity,
    token: target?.token ?? options.token ?? randomText(),
    transports,
    handlers,
    emit,
  });
  return {
    id: identity.peer,
    links,
    monitor,
    ask: askerOf(
      identity.peer,
      () => links,
      () => handlers,
    ),
    isConnected: (peer) => peer === identity.peer || links.current(peer) !== undefined,
    serve: (more) => Object.assign(handlers, more),
    close: async (reason) => {
      await links.close(reason);
      sessions?.close();
      await monitor?.close();
    },
  };
}

async function monitorTransports(sessions: Sessions): Promise<Transport[]> {
  const { wrtc } = await platform.webrtc();
  return [
    webrtcTransport(sessions, { ...(wrtc ? { wrtc } : {}), iceServers: () => sessions.monitor.iceServers }),
    relayTransport(sessions),
  ];
}
