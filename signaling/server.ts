// The monitor: one HTTP(S) server that carries the web page and the Socket.IO protocol of runtime/wire/monitor-messages.ts. It
// introduces peers and keeps the directory in memory; nothing that runs over links needs it.
import { createServer as createHttpServer } from 'node:http';
import { createServer as createHttpsServer } from 'node:https';
import type { Socket } from 'node:net';
import { hostname } from 'node:os';
import { fileURLToPath } from 'node:url';
import { Server } from 'socket.io';
import { MeshError } from '../runtime/errors.ts';
import type { Emit } from '../runtime/events.ts';
import { formatJoinUrl, TOKEN_PATTERN } from '../runtime/mesh/join-url.ts';
import { MAX_RELAY_BYTES } from '../runtime/wire/monitor-messages.ts';
import type { MeshRecord } from '../runtime/wire/records.ts';
import { createDataRoute, type FindDataFile } from './data-files.ts';
import { Peers, type IceServer } from './peers.ts';
import { defaultStateDir, loadTls, loadToken, machineAddresses, type TlsIdentity } from './state.ts';
import { createHostCheck, createWebPage, isOwnOrigin } from './web-page.ts';

export const DEFAULT_PORT = 50_000;
/** How many ports above the wanted one are tried where the port may move. */
const PORTS_TRIED = 20;
/** Joined or not. */
const MAX_SOCKETS = 6_000;
/** Connections that have not ended by then are cut when the monitor closes. */
const CLOSE_WITHIN_MS = 300;
const LOOPBACK = new Set(['127.0.0.1', '::1', 'localhost']);
const ANY_HOST = new Set(['0.0.0.0', '::']);

export interface MonitorOptions {
  /** Address to listen on, 127.0.0.1 by default: this machine only. */
  host?: string;
  /** 50000 by default; 0 for any free one. */
  port?: number;
  /** Take the next free port, and say so, where the wanted one is taken. */
  mayMovePort?: boolean;
  /** The join token; by default the one kept in `stateDir`, made at the first start. */
  token?: string;
  stateDir?: string;
  /** HTTPS with the kept certificate; by default wherever other machines can reach the monitor. */
  tls?: boolean;
  /** The name under which others reach this machine. */
  publicHost?: string;
  iceServers?: IceServer[];
  /** The built web app. */
  webRoot?: string;
  /** Where the machine's data sets are; without it the monitor serves none. */
  findDataFile?: FindDataFile;
  emit?: Emit;
  now?: () => number;
}

export interface MonitorServer {
  /** Scheme, host and port. */
  readonly url: string;
  /** With the token in its fragment, and the certificate's fingerprint where there is one. */
  readonly joinUrl: string;
  readonly port: number;
  records(): MeshRecord[];
  close(): Promise<void>;
}

/** Throws `port-in-use`, `usage`, `bad-file`. */
export async function createMonitor(options: MonitorOptions = {}): Promise<MonitorServer> {
  const { host = '127.0.0.1', publicHost, emit = () => undefined, now = Date.now } = options;
  const stateDir = options.stateDir ?? defaultStateDir();
  const token = options.token ?? (await loadToken(stateDir));
  if (!TOKEN_PATTERN.test(token))
    throw new MeshError(
      'usage',
      'The token is not 8 to 200 letters, digits, _ or -.',
      'Leave it out to have one made.',
    );
  const tls = (options.tls ?? !isLoopback(host)) ? await loadTls(stateDir, publicHost) : null;

  const peers = new Peers({ token, iceServers: options.iceServers ?? [], emit, now });
  const isHost = createHostCheck([
    'localhost',
    host,
    ...(publicHost ? [publicHost] : []),
    ...(isLoopback(host) ? [] : [hostname(), `${hostname()}.local`]),
  ]);
  const page = createWebPage({
    webRoot: options.webRoot ?? fileURLToPath(new URL('../dist/web', import.meta.url)),
    data: createDataRoute(options.findDataFile ?? (() => Promise.resolve(null))),
    isHost,
    health: () => ({ ok: true, peers: peers.size, records: peers.directory.size }),
  });
  const http = tls ? createHttpsServer({ cert: tls.cert, key: tls.key }, page) : createHttpServer(page);
  const port = await listen(http, host, options.port ?? DEFAULT_PORT, options.mayMovePort ?? false, emit).catch(
    (cause: unknown) => {
      peers.close();
      throw cause;
    },
  );

  // Such as too many open files while accepting: the next connection may succeed.
  http.on('error', (error) => emit({ kind: 'log', level: 'warn', message: `The HTTP server: ${error.message}` }));
  const connections = new Set<Socket>();
  http.on('connection', (socket: Socket) => {
    connections.add(socket);
    socket.once('close', () => connections.delete(socket));
  });
  const io = new Server(http, {
    transports: ['websocket'],
    serveClient: false,
    maxHttpBufferSize: MAX_RELAY_BYTES + 32 * 1024,
    connectTimeout: 5_000,
    pingInterval: 5_000,
    pingTimeout: 10_000,
    allowRequest: (request, decide) =>
      decide(null, isHost(request.headers.host) && isOwnOrigin(request) && io.engine.clientsCount < MAX_SOCKETS),
  });
  io.on('connection', (socket) => peers.admit(socket));
  io.engine.on('connection', (raw: { request: unknown }) => {
    raw.request = null; // the first HTTP request, some 20 KB a peer, is not needed any more
  });

  const { url, joinUrl } = addressesOf({ host, port, publicHost, token, tls });
  emit({ kind: 'monitor.ready', url, joinUrl, host, port });
  return {
    url,
    joinUrl,
    port,
    records: () => peers.directory.find('').map(({ record }) => record),
    close: async () => {
      peers.close();
      const closed = io.close();
      const linger = setTimeout(() => connections.forEach((socket) => socket.destroy()), CLOSE_WITHIN_MS);
      http.closeAllConnections();
      await closed;
      clearTimeout(linger);
    },
  };
}

export const isLoopback = (host: string): boolean => LOOPBACK.has(host);

type ListeningServer = ReturnType<typeof createHttpServer> | ReturnType<typeof createHttpsServer>;

async function listen(
  http: ListeningServer,
  host: string,
  wanted: number,
  mayMove: boolean,
  emit: Emit,
): Promise<number> {
  for (let port = wanted; ; port += 1) {
    const outcome = await tryPort(http, host, port);
    if (typeof outcome === 'number') {
      if (outcome !== wanted && wanted !== 0)
        emit({ kind: 'port.moved', wanted, port: outcome, reason: `port ${wanted} is taken by another program` });
      return outcome;
    }
    if (outcome.code === 'EADDRINUSE' && mayMove && port < Math.min(wanted + PORTS_TRIED, 65_535)) continue;
    throw listenError(outcome, host, port);
  }
}

function tryPort(http: ListeningServer, host: string, port: number): Promise<number | NodeJS.ErrnoException> {
  return new Promise((resolve) => {
    const onError = (error: NodeJS.ErrnoException) => resolve(error);
    http.once('error', onError);
    http.listen({ host, port, exclusive: true }, () => {
      http.off('error', onError);
      const address = http.address();
      resolve(typeof address === 'object' && address ? address.port : port);
    });
  });
}

function listenError(error: NodeJS.ErrnoException, host: string, port: number): MeshError {
  if (error.code === 'EADDRINUSE')
    return new MeshError(
      'port-in-use',
      `Port ${port} on ${host} is taken by another program.`,
      `Choose another with --port, or end the program that has it (ss -ltnp 'sport = :${port}' shows which).`,
      { cause: error },
    );
  const fix =
    error.code === 'EACCES'
      ? 'Choose a port above 1023.'
      : 'Give --host an address of this machine, or 0.0.0.0 for all.';
  return new MeshError('usage', `Listening on ${host}:${port} failed: ${error.message}.`, fix, { cause: error });
}

interface Address {
  host: string;
  port: number;
  publicHost: string | undefined;
  token: string;
  tls: TlsIdentity | null;
}

function addressesOf({ host, port, publicHost, token, tls }: Address): { url: string; joinUrl: string } {
  const reachable = ANY_HOST.has(host) ? (machineAddresses()[0] ?? 'localhost') : host;
  const name = publicHost ?? (isLoopback(host) && host !== '::1' ? 'localhost' : reachable);
  const url = `${tls ? 'https' : 'http'}://${name.includes(':') ? `[${name}]` : name}:${port}`;
  return { url, joinUrl: formatJoinUrl({ url, token, ...(tls ? { certificateSha256: tls.sha256 } : {}) }) };
}
