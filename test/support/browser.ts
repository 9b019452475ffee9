// A real Chromium with WebGPU on its software driver, and the page as the monitor serves it. Figures are read by data-testid.
import { existsSync, globSync, statSync } from 'node:fs';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { chromium, type Browser, type Page } from 'playwright';
import { ROOT, start } from './processes.ts';

const PATHS = [
  process.env.SKEIN_CHROMIUM ?? '',
  '/usr/bin/chromium',
  '/usr/bin/chromium-browser',
  '/usr/bin/google-chrome-stable',
  '/usr/bin/google-chrome',
  '/Applications/Google Chrome.app/Contents/MacOS/Google Chrome',
];

const FLAGS = [
  '--no-sandbox',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  '--no-first-run',
  // Two tabs of one window: the one behind must not be slowed down in a test that measures neither.
  '--disable-background-timer-throttling',
  '--disable-backgrounding-occluded-windows',
  '--disable-renderer-backgrounding',
  // Host candidates as addresses: mDNS names need a service that a test machine may lack.
  '--disable-features=WebRtcHideLocalIpsWithMdns',
];
const WEBGPU = ['--enable-unsafe-webgpu', '--use-webgpu-adapter=swiftshader'];

export interface BrowserOptions {
  hasWebGpu?: boolean;
  flags?: readonly string[];
}

/** Ends with the test. */
export async function startBrowser(t: TestContext, options: BrowserOptions = {}): Promise<Browser> {
  await buildPage();
  const executablePath = PATHS.find((path) => path !== '' && existsSync(path));
  if (!executablePath) throw new Error('No Chromium was found: install it, or set SKEIN_CHROMIUM to its path.');
  const browser = await chromium.launch({
    executablePath,
    headless: true,
    args: [...FLAGS, ...(options.hasWebGpu === false ? [] : WEBGPU), ...(options.flags ?? [])],
    ignoreDefaultArgs: ['--disable-gpu'],
    timeout: 30_000,
  });
  t.after(() => browser.close());
  return browser;
}

export interface TestPage {
  readonly page: Page;
  /** What the page threw, and what it logged as an error. */
  readonly complaints: readonly string[];
  text(testId: string): Promise<string>;
  /** The figure shown there; NaN where there is none. */
  figure(testId: string): Promise<number>;
  click(testId: string): Promise<void>;
  /** Waits until the element's attribute, or its text where `attribute` is null, fits. */
  until(testId: string, attribute: string | null, fits: RegExp, timeoutMs?: number): Promise<void>;
}

export async function openPage(browser: Browser, url: string): Promise<TestPage> {
  const context = await browser.newContext({ viewport: { width: 1200, height: 900 } });
  const page = await context.newPage();
  page.setDefaultTimeout(15_000);
  const complaints: string[] = [];
  page.on('pageerror', (error) => complaints.push(error.message));
  page.on('console', (message) => {
    if (message.type() === 'error') complaints.push(message.text());
  });
  await page.goto(url);
  const text = async (testId: string): Promise<string> => (await page.getByTestId(testId).innerText()).trim();
  return {
    page,
    complaints,
    text,
    figure: async (testId) => Number((await text(testId)).replace(/[^0-9.]/g, '') || NaN),
    click: (testId) => page.getByTestId(testId).click(),
    until: async (testId, attribute, fits, timeoutMs = 20_000) => {
      const element = page.getByTestId(testId);
      const until = performance.now() + timeoutMs;
      let last = '';
      while (performance.now() < until) {
        const isThere = (await element.count()) > 0;
        last = !isThere
          ? '(absent)'
          : ((attribute === null
              ? await element.textContent({ timeout: 1_000 }).catch(() => null)
              : await element.getAttribute(attribute, { timeout: 1_000 }).catch(() => null)) ?? '');
        if (fits.test(last)) return;
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
      throw new Error(
        `${testId} is ${JSON.stringify(last)} after ${timeoutMs} ms, not ${String(fits)}\n${complaints.join('\n')}`,
      );
    },
  };
}

/** Opens the page, lends its GPU as the given stage, and waits until it is announced. */
export async function lendTab(browser: Browser, joinUrl: string, uid: string): Promise<TestPage> {
  const tab = await openPage(browser, joinUrl.replace('/#', `/?stage=${uid}#`));
  await tab.page.getByTestId('contribute').and(tab.page.locator(':enabled')).click();
  await tab.until('lend-state', 'data-state', /^(waiting|working)$/, 30_000);
  return tab;
}

/** Builds dist/web where it is older than what it is made of. */
async function buildPage(): Promise<void> {
  const sources = globSync(['web/**/*', 'runtime/**/*.ts', 'kernels/*.wgsl', 'package-lock.json'], { cwd: ROOT });
  const newest = Math.max(...sources.map((file) => statSync(join(ROOT, file)).mtimeMs));
  const built = join(ROOT, 'dist/web/index.html');
  if (existsSync(built) && statSync(built).mtimeMs > newest) return;
  const vite = join(ROOT, 'node_modules/vite/bin/vite.js');
  const build = start(process.execPath, [vite, 'build', 'web', '--logLevel', 'warn']);
  const timer = setTimeout(() => void build.kill('SIGKILL'), 60_000);
  const { code } = await build.exit.finally(() => clearTimeout(timer));
  if (code !== 0) throw new Error(`The page could not be built:\n${build.stderr()}`);
}
