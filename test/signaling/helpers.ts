// What the tests of the monitor share: monitors on loopback, peers that end with their test, raw sockets, bounded waiting.
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { io, type Socket } from 'socket.io-client';
import { pinnedTls } from '../../node/pinned-tls.ts';
import type { MeshEvent } from '../../runtime/events.ts';
import { createIdentity, type Identity } from '../../runtime/mesh/identity.ts';
import { joinMonitor, parseJoinUrl, type JoinOptions, type Monitor } from '../../runtime/mesh/monitor-client.ts';
import type { PeerId } from '../../runtime/wire/ids.ts';
import { stageRecordOf } from './records.ts';
import { createMonitor, type MonitorOptions, type MonitorServer } from '../../signaling/server.ts';

export { stageRecordOf };

export async function temporaryDirectory(t: TestContext): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), 'skein-test-'));
  t.after(() => rm(path, { recursive: true, force: true }));
  return path;
}

export async function startMonitor(t: TestContext, options: MonitorOptions = {}): Promise<MonitorServer> {
  const stateDir = options.stateDir ?? (await temporaryDirectory(t));
  const server = await createMonitor({ port: 0, stateDir, webRoot: join(stateDir, 'web'), ...options });
  t.after(() => server.close());
  return server;
}

export interface TestPeer {
  monitor: Monitor;
  identity: Identity;
  events: MeshEvent[];
}

export async function joinAs(t: TestContext, joinUrl: string, options: Partial<JoinOptions> = {}): Promise<TestPeer> {
  const target = options.target ?? parseJoinUrl(joinUrl);
  const identity = options.identity ?? (await createIdentity());
  const events: MeshEvent[] = [];
  const monitor = await joinMonitor({
    target,
    identity,
    role: 'server',
    emit: (event) => events.push(event),
    transportOptions: pinnedTls(target),
    ...options,
  });
  t.after(() => monitor.close());
  return { monitor, identity, events };
}

export interface RawPeer {
  socket: Socket;
  nonce: string;
  identity: Identity;
  /** The acknowledgement of one message. */
  ask(name: string, ...payload: unknown[]): Promise<Reply>;
}

export interface Reply {
  ok: boolean;
  error?: { code: string; message: string; fix: string };
  records?: unknown[];
  refused?: { name: string; error: { code: string; message: string } }[];
}

/** A socket that has got its challenge and may now misbehave. */
export async function connectRaw(t: TestContext, url: string, options: object = {}): Promise<RawPeer> {
  const socket = io(url, { transports: ['websocket'], forceNew: true, reconnection: false, ...options });
  t.after(() => void socket.disconnect());
  const nonce = await new Promise<string>((resolve, reject) => {
    socket.once('challenge', (challenge: { nonce: string }) => resolve(challenge.nonce));
    socket.once('connect_error', reject);
  });
  const ask = (name: string, ...payload: unknown[]): Promise<Reply> =>
    socket.timeout(4_000).emitWithAck(name, ...payload) as Promise<Reply>;
  return { socket, nonce, identity: await createIdentity(), ask };
}

export async function joinRaw(t: TestContext, server: MonitorServer): Promise<RawPeer> {
  const raw = await connectRaw(t, server.url);
  const { token } = parseJoinUrl(server.joinUrl);
  const signature = await raw.identity.sign('join', raw.nonce);
  const reply = await raw.ask('join', { peer: raw.identity.peer, role: 'server', token, signature });
  if (!reply.ok) throw new Error(reply.error?.message);
  return raw;
}

/** Waits until `condition` holds; fails with `what` after `withinMs`. */
export async function until(what: string, condition: () => boolean, withinMs = 4_000): Promise<void> {
  const endsAt = performance.now() + withinMs;
  while (!condition()) {
    if (performance.now() > endsAt) throw new Error(`Not within ${withinMs} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/** Announces a stage under that name. */
export const host = (peer: TestPeer, name: string, fields: { load?: number } = {}): Promise<void> =>
  peer.monitor.announce(name, () => stageRecordOf(peer.identity.peer as PeerId, name, Date.now(), fields));
