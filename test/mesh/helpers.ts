// Peers for the tests of links: real identities, transports that can be broken by hand, every event kept.
import type { TestContext } from 'node:test';
import { tcpTransport, type TcpTransport } from '../../node/tcp.ts';
import type { MeshEvent, TransportKind } from '../../runtime/events.ts';
import { createIdentity } from '../../runtime/mesh/identity.ts';
import { Links, type LinksOptions } from '../../runtime/mesh/links.ts';
import { LocalHub } from '../../runtime/mesh/local.ts';
import { joinMonitor, parseJoinUrl, type Monitor } from '../../runtime/mesh/monitor-client.ts';
import { relayTransport } from '../../runtime/mesh/relay.ts';
import { Sessions } from '../../runtime/mesh/sessions.ts';
import type { Target, Transport } from '../../runtime/mesh/transport.ts';
import type { Handlers } from '../../runtime/wire/channel.ts';
import type { Pipe } from '../../runtime/wire/pipe.ts';
import type { MonitorServer } from '../../signaling/server.ts';
import { webrtcOf } from '../conformance/pipes.ts';

export const TOKEN = 'the-token-of-this-mesh';

export interface TestPeer {
  links: Links;
  monitor: Monitor | null;
  target: Target;
  events: MeshEvent[];
  handlers: Handlers;
  /** How often each transport dialled. */
  dials: TransportKind[];
  of<K extends MeshEvent['kind']>(kind: K): Extract<MeshEvent, { kind: K }>[];
  /** Closes the pipes of that transport and lets no new one be dialled until mended. */
  block(kind: TransportKind): void;
  mend(kind: TransportKind): void;
  close(): Promise<void>;
}

export interface PeerOptions {
  kinds: readonly TransportKind[];
  hub?: LocalHub;
  server?: MonitorServer;
  token?: string;
  options?: Partial<LinksOptions>;
}

export async function testPeer(t: TestContext, { kinds, hub, server, token, options }: PeerOptions): Promise<TestPeer> {
  const identity = await createIdentity();
  const events: MeshEvent[] = [];
  const emit = (event: MeshEvent): void => void events.push(event);
  const monitor = server
    ? await joinMonitor({ target: parseJoinUrl(server.joinUrl), identity, role: 'server', emit })
    : null;
  const sessions = monitor ? new Sessions(monitor) : null;
  const make = async (kind: TransportKind): Promise<Transport> => {
    switch (kind) {
      case 'local':
        return (hub ?? new LocalHub()).transport(identity.peer);
      case 'tcp':
        return tcpTransport({ host: '127.0.0.1', port: 0, nextFree: false, emit });
      case 'webrtc':
      case 'relay':
        if (!sessions) throw new Error(`${kind} needs a monitor`);
        return kind === 'relay' ? relayTransport(sessions) : webrtcOf(sessions);
      default:
        return kind satisfies never;
    }
  };
  const blocked = new Set<TransportKind>();
  const pipes: Pipe[] = [];
  const dials: TransportKind[] = [];
  const made = await Promise.all(kinds.map(make));
  const tcp = made.find((transport): transport is TcpTransport => transport.kind === 'tcp');
  const breakable = made.map((transport): Transport => {
    const { kind } = transport;
    return {
      kind,
      unreachable: (target) => (blocked.has(kind) ? 'blocked by the test' : transport.unreachable(target)),
      dial: async (target, signal) => {
        dials.push(kind);
        const pipe = await transport.dial(target, signal);
        pipes.push(pipe);
        return pipe;
      },
      listen: (onPipe) =>
        transport.listen((pipe) => {
          pipes.push(pipe);
          onPipe(pipe);
        }),
      close: () => transport.close(),
    };
  });
  const handlers: Handlers = {};
  const links = new Links({ ...options, identity, token: token ?? TOKEN, transports: breakable, handlers, emit });
  const address = tcp ? [{ transport: 'tcp' as const, host: '127.0.0.1', port: tcp.port }] : [];
  const peer: TestPeer = {
    links,
    monitor,
    target: { peer: identity.peer, addresses: address },
    events,
    handlers,
    dials,
    of: (kind) => events.filter((event): event is Extract<MeshEvent, { kind: typeof kind }> => event.kind === kind),
    block: (kind) => {
      blocked.add(kind);
      for (const pipe of pipes) if (pipe.transport === kind) pipe.close('cut by the test');
    },
    mend: (kind) => void blocked.delete(kind),
    close: async () => {
      await links.close('test over');
      sessions?.close();
      await monitor?.close();
    },
  };
  t.after(() => peer.close());
  return peer;
}

export const probe = (from: TestPeer, to: TestPeer, deadlineMs = 15_000): Promise<unknown> =>
  from.links.request(to.target, 'link.probe', {}, { deadlineMs });
