// The HTTP side of the monitor: the built web app, /healthz, and who may ask. Files only, from one directory, nothing computed; what
// is under /data/ is another file's business.
import { createReadStream } from 'node:fs';
import { realpath, stat } from 'node:fs/promises';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { isIP } from 'node:net';
import { extname, join, sep } from 'node:path';
import { pipeline } from 'node:stream/promises';

const CONTENT_SECURITY_POLICY = [
  "default-src 'self'",
  "script-src 'self'",
  "worker-src 'self'",
  "connect-src 'self' ws: wss:",
  "img-src 'self' data:",
  "object-src 'none'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join('; ');

const HEADERS = {
  'Content-Security-Policy': CONTENT_SECURITY_POLICY,
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Cross-Origin-Resource-Policy': 'same-origin',
  'Referrer-Policy': 'no-referrer',
  'X-Content-Type-Options': 'nosniff',
};

const TYPES: ReadonlyMap<string, string> = new Map([
  ['.html', 'text/html; charset=utf-8'],
  ['.js', 'text/javascript; charset=utf-8'],
  ['.css', 'text/css; charset=utf-8'],
  ['.json', 'application/json; charset=utf-8'],
  ['.webmanifest', 'application/manifest+json; charset=utf-8'],
  ['.wgsl', 'text/plain; charset=utf-8'],
  ['.svg', 'image/svg+xml'],
  ['.png', 'image/png'],
  ['.ico', 'image/x-icon'],
  ['.woff2', 'font/woff2'],
  ['.gz', 'application/gzip'],
]);

const NOT_BUILT = `<!doctype html><html lang="en"><meta charset="utf-8"><title>Skein monitor</title>
<h1>The monitor runs; its web page is not built</h1>
<p>Build it with <code>npm run build:web</code> and load this page again.</p>
<p>A machine without a browser joins with <code>node node/serve.ts --join 'LINK' --stage front.0.0.0</code>,
where LINK is the join link that the monitor printed.</p></html>
`;

/**
 * True for the Host headers of this monitor. A page of another site can make its own name resolve to this machine, but not change
 * the name that its browser sends; addresses are no names and cannot be used so.
 */
export function createHostCheck(names: readonly string[]): (host: string | undefined) => boolean {
  const known = new Set(names.map((name) => name.toLowerCase()));
  return (host) => {
    const name = (host ?? '').toLowerCase().replace(/:\d+$/, '').replace(/\.$/, '');
    return known.has(name) || isIP(name.replace(/^\[(.*)\]$/, '$1')) !== 0;
  };
}

/** True for requests of the monitor's own page, and of programs, which send no Origin. */
export function isOwnOrigin(request: IncomingMessage): boolean {
  const { origin, host } = request.headers;
  if (origin === undefined) return true;
  return URL.canParse(origin) && new URL(origin).host === host;
}

/** Answers a decoded path that does not climb, of a GET or HEAD to one of this monitor's names. */
export type Route = (path: string, request: IncomingMessage, response: ServerResponse) => Promise<void>;

export interface WebPageOptions {
  webRoot: string;
  /** Everything under /data/. */
  data: Route;
  isHost: (host: string | undefined) => boolean;
  health: () => object;
}

export function createWebPage(options: WebPageOptions): (request: IncomingMessage, response: ServerResponse) => void {
  return (request, response) => {
    answer(options, request, response).catch(() => {
      // The reader went away, or the file could not be read to its end: there is nobody left to tell.
      response.destroy();
    });
  };
}

async function answer(options: WebPageOptions, request: IncomingMessage, response: ServerResponse): Promise<void> {
  for (const [name, value] of Object.entries(HEADERS)) response.setHeader(name, value);
  if (!options.isHost(request.headers.host))
    return plain(response, 421, 'This monitor does not answer to that host name. Start it with --public-host NAME.\n');
  if (request.method !== 'GET' && request.method !== 'HEAD') return plain(response, 405, 'Only GET and HEAD.\n');
  const path = pathOf(request.url ?? '/');
  if (path === null) return plain(response, 400, 'That is not a path.\n');
  if (path === '/healthz') {
    response.setHeader('Content-Type', 'application/json; charset=utf-8');
    response.end(`${JSON.stringify(options.health())}\n`);
    return;
  }
  if (path.startsWith('/data/')) return options.data(path, request, response);
  const file = await findFile(options.webRoot, path === '/' ? '/index.html' : path);
  if (file) return send(file, path, request, response);
  if (path !== '/') return plain(response, 404, 'There is no such page.\n');
  response.statusCode = 503;
  response.setHeader('Content-Type', 'text/html; charset=utf-8');
  response.end(NOT_BUILT);
}

/** The decoded path, or null where it is none or tries to climb. */
function pathOf(url: string): string | null {
  try {
    const path = decodeURIComponent(url.split(/[?#]/, 1)[0] ?? '/');
    const isClean = path.startsWith('/') && !/[\0\\]/.test(path) && !path.split('/').includes('..');
    return isClean ? path : null;
  } catch {
    return null; // broken percent-encoding
  }
}

/** The real file beneath the root, symbolic links followed; null for everything else. */
async function findFile(webRoot: string, path: string): Promise<{ path: string; size: number } | null> {
  try {
    const root = await realpath(webRoot);
    const file = await realpath(join(root, path));
    const status = await stat(file);
    return file.startsWith(root + sep) && status.isFile() ? { path: file, size: status.size } : null;
  } catch {
    return null; // no such file
  }
}

async function send(
  file: { path: string; size: number },
  path: string,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  response.setHeader('Content-Type', TYPES.get(extname(file.path)) ?? 'application/octet-stream');
  response.setHeader('Content-Length', file.size);
  // Names under assets/ carry a hash of their content.
  response.setHeader('Cache-Control', path.startsWith('/assets/') ? 'public, max-age=31536000, immutable' : 'no-cache');
  if (request.method === 'HEAD') response.end();
  else await pipeline(createReadStream(file.path), response);
}

export function plain(response: ServerResponse, status: number, text: string): void {
  response.statusCode = status;
  response.setHeader('Content-Type', 'text/plain; charset=utf-8');
  response.end(text);
}
