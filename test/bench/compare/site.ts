// The contenders' page: built into a temporary folder, served on loopback with the peers' packages beside it, opened in Chromium.
// Cross-origin isolated, so that WASM peers have their threads and a timer that is not coarse.
import { createReadStream, existsSync, mkdtempSync, rmSync, statSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { extname, join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';
import { chromium, type Browser } from 'playwright';
import { build } from 'vite';
import { PEERS } from './peers.ts';

const TYPES: Record<string, string> = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript',
  '.mjs': 'text/javascript',
  '.wasm': 'application/wasm',
  '.json': 'application/json',
};

export interface Site {
  url: string;
  close(): void;
}

export async function serveSite(): Promise<Site> {
  const outDir = mkdtempSync(join(tmpdir(), 'skein-compare-'));
  const remove = (): void => rmSync(outDir, { recursive: true, force: true });
  process.once('exit', remove); // also where Ctrl-C ends the run
  try {
    await build({
      configFile: false,
      logLevel: 'error',
      root: fileURLToPath(new URL('.', import.meta.url)),
      base: './',
      publicDir: false,
      worker: { format: 'es' },
      build: { outDir, emptyOutDir: true, target: 'es2022', modulePreload: { polyfill: false } },
    });
  } catch (cause) {
    remove();
    throw cause;
  }
  const server = createServer((request, response) => {
    const path = normalize(decodeURIComponent(new URL(request.url ?? '/', 'http://localhost').pathname));
    const file = path.startsWith('/peers/')
      ? join(PEERS, 'node_modules', path.slice('/peers/'.length))
      : join(outDir, path === '/' ? 'index.html' : path);
    if (!existsSync(file) || !statSync(file).isFile()) {
      response.writeHead(404).end();
      return;
    }
    response.writeHead(200, {
      'content-type': TYPES[extname(file)] ?? 'application/octet-stream',
      'cross-origin-opener-policy': 'same-origin',
      'cross-origin-embedder-policy': 'require-corp',
      'cross-origin-resource-policy': 'same-origin',
    });
    createReadStream(file).pipe(response);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/`,
    close() {
      server.close();
      server.closeAllConnections();
      remove();
      process.off('exit', remove);
    },
  };
}

const PATHS = [
  process.env.SKEIN_CHROMIUM ?? '',
  '/usr/bin/chromium',
  '/usr/bin/chromium-browser',
  '/usr/bin/google-chrome-stable',
  '/usr/bin/google-chrome',
  '/Applications/Google Chrome.app/Contents/MacOS/Google Chrome',
];

/** WebGPU on Chromium's own software driver. It ends with this process, however that ends but by SIGKILL. */
export async function launchChromium(): Promise<Browser> {
  const executablePath = PATHS.find((path) => path !== '' && existsSync(path));
  if (!executablePath) throw new Error('No Chromium was found: install it, or set SKEIN_CHROMIUM to its path.');
  return chromium.launch({
    executablePath,
    headless: true,
    args: [
      '--no-sandbox',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
      '--no-first-run',
      '--disable-background-timer-throttling',
      '--disable-backgrounding-occluded-windows',
      '--disable-renderer-backgrounding',
      '--enable-unsafe-webgpu',
      '--use-webgpu-adapter=swiftshader',
    ],
    ignoreDefaultArgs: ['--disable-gpu'],
    timeout: 30_000,
    // Else Playwright would end the browser alone, and the run would go on without it.
    handleSIGINT: false,
    handleSIGTERM: false,
  });
}
