// Connected pipes by every transport that this host has, for the suites that run on all of them. The two ends live in one process;
// what lies between them is real: sockets, data channels, a monitor.
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { generate } from 'selfsigned';
import { platform } from '../../node/platform.ts';
import { tcpTransport } from '../../node/tcp.ts';
import { createIdentity } from '../../runtime/mesh/identity.ts';
import { LocalHub } from '../../runtime/mesh/local.ts';
import { joinMonitor, parseJoinUrl, type Monitor } from '../../runtime/mesh/monitor-client.ts';
import { relayTransport } from '../../runtime/mesh/relay.ts';
import { Sessions } from '../../runtime/mesh/sessions.ts';
import type { Target, Transport } from '../../runtime/mesh/transport.ts';
import { webrtcTransport } from '../../runtime/mesh/webrtc.ts';
import type { Pipe } from '../../runtime/wire/pipe.ts';
import type { PeerId } from '../../runtime/wire/ids.ts';
import { createMonitor, type MonitorServer } from '../../signaling/server.ts';

export interface Pair {
  a: Pipe;
  b: Pipe;
  /** Ends the process of b, as far as a can tell: no goodbye. */
  kill(): void;
  close(): Promise<void>;
}

export interface PairMaker {
  name: string;
  /** Why it cannot run here; null if it can. */
  skip: string | null;
  /** By a monitor. */
  isIntroduced: boolean;
  make(): Promise<Pair>;
}

const SILENT = (): void => undefined;

/** A monitor of its own on loopback, with its state in a folder that goes with it. */
export async function testMonitor(): Promise<MonitorServer> {
  const stateDir = await mkdtemp(join(tmpdir(), 'skein-pipes-'));
  const server = await createMonitor({ port: 0, stateDir, webRoot: join(stateDir, 'web') });
  return {
    ...server,
    close: async () => {
      await server.close();
      await rm(stateDir, { recursive: true, force: true });
    },
  };
}

async function joined(server: MonitorServer): Promise<Monitor> {
  const identity = await createIdentity();
  return joinMonitor({ target: parseJoinUrl(server.joinUrl), identity, role: 'server', emit: SILENT });
}

async function connect(near: Transport, far: Transport, target: Target): Promise<{ a: Pipe; b: Pipe }> {
  const { promise, resolve, reject } = Promise.withResolvers<Pipe>();
  far.listen(resolve);
  near.listen(SILENT);
  const limit = AbortSignal.timeout(20_000);
  limit.addEventListener('abort', () => reject(new Error(`${far.kind}: dialled, and the other end was never told`)));
  const a = await near.dial(target, limit);
  return { a, b: await promise };
}

async function localPipes(): Promise<Pair> {
  const [{ peer: near }, { peer: far }] = [await createIdentity(), await createIdentity()];
  const hub = new LocalHub();
  const { a, b } = await connect(hub.transport(near), hub.transport(far), { peer: far, addresses: [] });
  return { a, b, kill: () => b.close('killed'), close: () => Promise.resolve(a.close('test over')) };
}

async function tcpPipes(tls?: { cert: string; key: string }): Promise<Pair> {
  const options = { host: '127.0.0.1', port: 0, nextFree: false, emit: SILENT, ...(tls ? { tls } : {}) };
  const near = await tcpTransport(options);
  const far = await tcpTransport(options);
  const address = { transport: tls ? ('tls' as const) : ('tcp' as const), host: '127.0.0.1', port: far.port };
  const pipes = await connect(near, far, { peer: 'x'.repeat(43) as PeerId, addresses: [address] });
  return {
    ...pipes,
    kill: () => void far.close(),
    close: async () => {
      await Promise.all([near.close(), far.close()]);
    },
  };
}

/** Signed by nobody but itself. */
export async function testCertificate(): Promise<{ cert: string; key: string }> {
  const { cert, private: key } = await generate([{ name: 'commonName', value: 'localhost' }], {
    keyType: 'ec',
    curve: 'P-256',
    algorithm: 'sha256',
  });
  return { cert, key };
}

async function introduced(server: MonitorServer, make: (sessions: Sessions) => Promise<Transport>): Promise<Pair> {
  const monitors = [await joined(server), await joined(server)] as const;
  const sessions = monitors.map((monitor) => new Sessions(monitor)) as [Sessions, Sessions];
  const [near, far] = [await make(sessions[0]), await make(sessions[1])];
  const pipes = await connect(near, far, { peer: monitors[1].peer, addresses: [] });
  return {
    ...pipes,
    kill: () => {
      if (far.kind === 'relay') void monitors[1].close();
      else void far.close();
    },
    close: async () => {
      await Promise.all([near.close(), far.close()]);
      for (const session of sessions) session.close();
      await Promise.all(monitors.map((monitor) => monitor.close()));
    },
  };
}

export const webrtcOf = async (sessions: Sessions): Promise<Transport> => {
  const { wrtc } = await platform.webrtc();
  return webrtcTransport(sessions, { ...(wrtc ? { wrtc } : {}), iceServers: () => [] });
};

export async function hasWebRtc(): Promise<string | null> {
  try {
    await platform.webrtc();
    return null;
  } catch (cause) {
    return `wrtc does not load here: ${cause instanceof Error ? cause.message : String(cause)}`;
  }
}

/** All of them. `server` introduces and relays. */
export async function pairMakers(server: MonitorServer): Promise<PairMaker[]> {
  return [
    { name: 'local', skip: null, isIntroduced: false, make: localPipes },
    { name: 'tcp', skip: null, isIntroduced: false, make: () => tcpPipes() },
    { name: 'tcp with TLS', skip: null, isIntroduced: false, make: async () => tcpPipes(await testCertificate()) },
    { name: 'webrtc', skip: await hasWebRtc(), isIntroduced: true, make: () => introduced(server, webrtcOf) },
    {
      name: 'relay',
      skip: null,
      isIntroduced: true,
      make: () => introduced(server, (sessions) => Promise.resolve(relayTransport(sessions))),
    },
  ];
}
