// A server with the layout of the Hugging Face Hub, for tests: large files redirect to another path that has the bytes, small ones are
// answered at once. It can break off, stall, lie and refuse, as told.
import { createHash } from 'node:crypto';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';

export interface HubServer {
  endpoint: string;
  files: Map<string, Uint8Array>;
  /** `METHOD file range`, in order; of redirected requests only where the bytes come from. */
  log: string[];
  /** Authorization headers, by path. */
  tokens: Map<string, string | undefined>;
  behaviour: {
    /** Ends the connection after so many bytes of a large file, so many times. */
    breakAfter?: number;
    breaks?: number;
    /** Sends so many bytes of a large file and then nothing. */
    stallAfter?: number;
    /** So many times; always, if absent. */
    stalls?: number;
    needsToken?: string;
    /** Answers ranges with the whole file. */
    ignoresRanges?: boolean;
    /** What large files are said to hash to. */
    falseHash?: string;
    status?: number;
    /** Another server that has the bytes of large files. */
    store?: string;
  };
  /** Ends the connections that stall. */
  cut(): void;
  close(): Promise<void>;
}

const REPO = /^\/some\/model\/resolve\/[^/]+\//;
const isLarge = (name: string): boolean => name.endsWith('.safetensors');

export async function startHub(files: Record<string, Uint8Array | string>): Promise<HubServer> {
  const bytes = (value: Uint8Array | string): Uint8Array =>
    typeof value === 'string' ? new TextEncoder().encode(value) : value;
  const stalled: Socket[] = [];
  const server = createServer((request, response) => answer(hub, request, response, stalled));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const hub: HubServer = {
    endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    files: new Map(Object.entries(files).map(([name, value]) => [name, bytes(value)])),
    log: [],
    tokens: new Map(),
    behaviour: {},
    cut: () => {
      for (const socket of stalled.splice(0)) socket.destroy();
    },
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
  return hub;
}

function answer(hub: HubServer, request: IncomingMessage, response: ServerResponse, stalled: Socket[]): void {
  const { behaviour } = hub;
  const url = request.url ?? '';
  const { authorization } = request.headers;
  hub.tokens.set(url, authorization);
  const isBlob = url.startsWith('/blobs/');
  const name = decodeURIComponent(isBlob ? url.slice('/blobs/'.length) : url.replace(REPO, ''));
  const file = isBlob || REPO.test(url) ? hub.files.get(name) : undefined;
  if (behaviour.status !== undefined) return void response.writeHead(behaviour.status).end();
  if (behaviour.needsToken !== undefined && authorization !== `Bearer ${behaviour.needsToken}`)
    return void response.writeHead(401).end();
  if (!file) return void response.writeHead(404).end('Entry not found');
  const head = { 'content-length': file.byteLength, 'accept-ranges': 'bytes' };
  if (!isBlob && isLarge(name)) {
    const hash = behaviour.falseHash ?? createHash('sha256').update(file).digest('hex');
    const linked = { 'x-linked-etag': `"${hash}"`, 'x-linked-size': file.byteLength };
    return void response
      .writeHead(302, { location: `${behaviour.store ?? ''}/blobs/${name}`, etag: '"pointer"', ...linked })
      .end();
  }
  hub.log.push(`${request.method} ${name} ${request.headers.range ?? ''}`.trim());
  const git = createHash('sha1').update(`blob ${file.byteLength}\0`).update(file).digest('hex');
  const etag = isBlob ? '"of-the-store"' : `W/"${git}"`;
  if (request.method === 'HEAD') return void response.writeHead(200, { etag, ...head }).end();
  const from = behaviour.ignoresRanges ? 0 : Number(/bytes=(\d+)-/.exec(request.headers.range ?? '')?.[1] ?? 0);
  const rest = file.subarray(from);
  response.writeHead(from > 0 ? 206 : 200, { etag, ...head, 'content-length': rest.byteLength });
  const isStall = isBlob && behaviour.stallAfter !== undefined && (behaviour.stalls ?? 1) > 0;
  const isBreak = isBlob && (behaviour.breaks ?? 0) > 0;
  if (!isStall && !isBreak) return void response.end(rest);
  if (isStall && behaviour.stalls !== undefined) behaviour.stalls -= 1;
  else if (isBreak) behaviour.breaks = (behaviour.breaks ?? 1) - 1;
  if (isStall) stalled.push(request.socket);
  response.write(rest.subarray(0, isStall ? behaviour.stallAfter : behaviour.breakAfter), () => {
    if (!isStall) request.socket.end();
  });
}
