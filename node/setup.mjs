// Makes a checkout ready: npm packages, a Node that runs TypeScript, a Vulkan driver, for tests a browser, the web page.
// Each step is skipped where it is already done. Plain JavaScript for Node 18 and newer, before any package exists.
//   node node/setup.mjs [--quiet] [--browser]     exit 0 ready, 1 failed, 3 no GPU
// Everything is said on stderr: stdout belongs to the command that follows.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { bundledName, isModern, modernNode, tooOld } from './modern-node.mjs';
import { isInstalled, namesBackports, plan } from './setup-plan.mjs';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const STAMP = join(ROOT, 'node_modules/.skein-setup.json');
/** A download that stalls is tried again after half a minute, not after npm's five. */
const NPM_OPTIONS = [
  '--ignore-scripts',
  '--no-audit',
  '--no-fund',
  '--loglevel=error',
  '--fetch-timeout=30000',
  '--fetch-retries=5',
];
const CHROMIUM = [
  '/usr/bin/chromium',
  '/usr/bin/google-chrome',
  '/Applications/Google Chrome.app/Contents/MacOS/Google Chrome',
];

const isQuiet = process.argv.includes('--quiet');
const wantsBrowser = process.argv.includes('--browser');

/** @param {string} text */
const say = (text) => console.error(`setup: ${text}`);

/**
 * @param {string} text
 * @param {number} code
 * @returns {never}
 */
function stop(text, code) {
  console.error(text);
  process.exit(code);
}

/** @param {string} path */
const readText = (path) => (existsSync(path) ? readFileSync(path, 'utf8') : '');

/**
 * @param {string} path
 * @returns {unknown}
 */
function readJson(path) {
  const text = readText(path);
  try {
    return text === '' ? null : JSON.parse(text);
  } catch (error) {
    say(`${path} is not readable (${String(error)}); it will be made again`);
    return null;
  }
}

/**
 * Runs a command to its end with its output kept back; shows that output where it fails.
 * @param {string} label
 * @param {string} command
 * @param {readonly string[]} args
 * @param {{ shell?: boolean, env?: NodeJS.ProcessEnv }} [options]
 */
function work(label, command, args, options = {}) {
  say(`${label} …`);
  const started = Date.now();
  const result = spawnSync(command, args, { cwd: ROOT, encoding: 'utf8', maxBuffer: 1 << 28, ...options });
  const isDone = result.status === 0;
  const seconds = ((Date.now() - started) / 1000).toFixed(1);
  if (!isDone) console.error(`${result.stdout ?? ''}${result.stderr ?? ''}${result.error?.message ?? ''}`);
  say(`${label}: ${isDone ? 'done' : 'failed'} in ${seconds} s`);
  return isDone;
}

function installPackages() {
  const lock = readJson(join(ROOT, 'package-lock.json'));
  const installed = readJson(join(ROOT, 'node_modules/.package-lock.json'));
  if (isInstalled(lock, installed)) return;
  const args = [lock === null ? 'install' : 'ci', ...NPM_OPTIONS];
  // npm must not run under the Node inside node_modules, which it is about to replace.
  const path = (process.env.PATH ?? '').split(delimiter).filter((folder) => !folder.includes('node_modules'));
  const env = { ...process.env, PATH: path.join(delimiter) };
  const [command, before] = npmOf(env);
  if (!work('npm packages', command, [...before, ...args], { env, shell: process.platform === 'win32' }))
    stop('setup: npm could not install the packages: see its output above, then run the command again.', 1);
}

/**
 * What runs npm. An npm under a Node older than 20.19 leaves out, without a word, optional packages whose `engines` ask for a newer one
 * (native bindings among them): there a Node 24 is fetched first, and npm runs under that.
 * @param {NodeJS.ProcessEnv} env
 * @returns {[string, string[]]}
 */
function npmOf(env) {
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
  const name = bundledName();
  if (major > 20 || (major === 20 && minor >= 19) || name === undefined || process.platform === 'win32')
    return ['npm', []];
  const folder = mkdtempSync(join(tmpdir(), 'skein-node-'));
  process.on('exit', () => rmSync(folder, { recursive: true, force: true }));
  const args = ['install', '--prefix', folder, '--no-save', ...NPM_OPTIONS];
  const node = join(folder, 'node_modules', name, 'bin/node');
  if (!work('Node 24 for npm', 'npm', [...args, `${name}@24`], { env }) || !existsSync(node))
    stop('setup: npm could not fetch Node 24: see its output above, then run the command again.', 1);
  const cli = spawnSync('sh', ['-c', 'readlink -f "$(command -v npm)"'], { encoding: 'utf8', env }).stdout.trim();
  // Debian keeps the modules of its npm in a place that only its own Node knows.
  env.NODE_PATH = [env.NODE_PATH, '/usr/share/nodejs'].filter(Boolean).join(delimiter);
  return [node, ['--no-deprecation', cli]];
}

/** @returns {string} */
function requireNode() {
  const node = modernNode();
  return node ?? stop(tooOld(process.versions.node), 1);
}

/** What a probe's answer depends on: packages, drivers, and the variables that choose among them. */
function gpuKey() {
  const hash = createHash('sha256').update(readText(join(ROOT, 'package-lock.json')));
  for (const folder of ['/usr/share/vulkan/icd.d', '/etc/vulkan/icd.d', '/usr/local/share/vulkan/icd.d'])
    for (const name of existsSync(folder) ? readdirSync(folder).sort() : []) {
      const path = join(folder, name);
      hash.update(`${path} ${existsSync(path) ? statSync(path).mtimeMs : 0}\n`);
    }
  for (const name of ['VK_DRIVER_FILES', 'VK_ICD_FILENAMES', 'VK_LOADER_DRIVERS_SELECT', 'LD_LIBRARY_PATH'])
    hash.update(`${name}=${process.env[name] ?? ''}\n`);
  return hash.digest('hex');
}

/**
 * @param {string} node
 * @returns {{ ok: boolean, device: string, reason: string }}
 */
function probeGpu(node) {
  const probe = join(ROOT, 'node/gpu-probe.mjs');
  const result = spawnSync(node, [probe], { encoding: 'utf8', timeout: 120_000 });
  const line = result.stdout?.trim().split('\n').at(-1) ?? '';
  if (line.startsWith('{')) return JSON.parse(line);
  return {
    ok: false,
    device: '',
    reason: result.error?.message ?? `the driver crashed (${result.signal ?? result.status})`,
  };
}

/** @returns {import('./setup-plan.mjs').Machine} */
function machine() {
  const folder = '/etc/apt/sources.list.d';
  const sources = existsSync(folder) ? readdirSync(folder).filter((name) => /\.(list|sources)$/.test(name)) : [];
  const texts = [...sources.map((name) => readText(join(folder, name))), readText('/etc/apt/sources.list')];
  return {
    platform: process.platform,
    arch: process.arch,
    isRoot: process.getuid?.() === 0,
    osRelease: readText('/etc/os-release'),
    hasBackports: texts.some(namesBackports),
  };
}

const chromium = () =>
  process.env.SKEIN_CHROMIUM !== undefined
    ? existsSync(process.env.SKEIN_CHROMIUM)
    : CHROMIUM.some((path) => existsSync(path));

/** @param {string} node */
function needsOf(node) {
  /** @type {import('./setup-plan.mjs').Need[]} */
  const needs = [];
  const key = gpuKey();
  const stamp = readJson(STAMP);
  const isKnown = typeof stamp === 'object' && stamp !== null && 'gpu' in stamp && stamp.gpu === key;
  if (!isKnown) {
    const gpu = probeGpu(node);
    if (gpu.ok) {
      say(`WebGPU computes on ${gpu.device}`);
      writeFileSync(STAMP, `${JSON.stringify({ gpu: key, device: gpu.device })}\n`);
    } else {
      say(`WebGPU does not compute here yet: ${gpu.reason}`);
      needs.push('vulkan');
    }
  }
  if (wantsBrowser && !chromium()) needs.push('chromium');
  return needs;
}

/** @param {string} node */
function installSystem(node) {
  const needs = needsOf(node);
  if (needs.length === 0) return;
  const code = needs.includes('vulkan') ? 3 : 1;
  const todo = plan(machine(), needs);
  if (todo.kind === 'advice') stop(todo.text, code);
  if (todo.kind === 'copy') stop(todo.line, code);
  for (const command of todo.commands) {
    const label = /install -y (.*)$/.exec(command)?.[1] ?? (command.startsWith('echo') ? 'apt source' : 'apt lists');
    // One broken source of many must not stop us: whether the lists suffice shows in the install.
    if (!work(label, 'sh', ['-c', command]) && label !== 'apt lists')
      stop(`setup: this command failed: ${command}`, code);
  }
  const missing = needsOf(node);
  if (missing.includes('vulkan'))
    stop(
      'setup: the Vulkan driver is installed, but WebGPU still finds no GPU. Run "vulkaninfo --summary" (package vulkan-tools) to see why.',
      3,
    );
  if (missing.length > 0)
    stop('setup: Chromium is installed, but not where expected. Set SKEIN_CHROMIUM to its path.', 1);
}

/**
 * The newest change among the files below some folders, in milliseconds since the epoch.
 * @param {readonly string[]} paths
 * @returns {number}
 */
function newest(paths) {
  let latest = 0;
  for (const path of paths) {
    const info = statSync(path);
    const inner = info.isDirectory() ? newest(readdirSync(path).map((name) => join(path, name))) : 0;
    latest = Math.max(latest, info.mtimeMs, inner);
  }
  return latest;
}

/** @param {string} node */
function buildPage(node) {
  if (!existsSync(join(ROOT, 'web/index.html'))) return;
  const built = join(ROOT, 'dist/web/index.html');
  const sources = ['web', 'runtime', 'kernels', 'package-lock.json'].map((name) => join(ROOT, name)).filter(existsSync);
  if (existsSync(built) && statSync(built).mtimeMs >= newest(sources)) return;
  const vite = join(ROOT, 'node_modules/vite/bin/vite.js');
  if (!work('web page', node, [vite, 'build', 'web', '--logLevel', 'warn']) || !existsSync(built))
    stop('setup: the web page could not be built: see the output above.', 1);
}

if (Number(process.versions.node.split('.')[0]) < 18) stop(tooOld(process.versions.node), 1);
const started = Date.now();
installPackages();
const node = requireNode();
installSystem(node);
buildPage(node);
if (!isQuiet) {
  say(`ready in ${((Date.now() - started) / 1000).toFixed(1)} s`);
  if (!isModern(process.versions.node))
    say(
      `"node" is ${process.versions.node} here, too old to run Skein itself: type "npx skein serve …" and not "node node/serve.ts …"`,
    );
}
