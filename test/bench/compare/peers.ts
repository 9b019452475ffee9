// The peers' packages: installed on demand into a folder of their own, test/bench/peers, and never part of the product.
import { execFile } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

export const PEERS = fileURLToPath(new URL('../peers/', import.meta.url));
const INSTALL_TIMEOUT_MS = 300_000;

interface Peers {
  /** Null where it is not there. */
  versions: Record<string, string | null>;
  /** Why they could not be installed. */
  failure: string | null;
}

interface PackageJson {
  version: string;
  dependencies: Record<string, string>;
}

const readPackage = (file: string): PackageJson => JSON.parse(readFileSync(file, 'utf8')) as PackageJson;

/** Installs what is missing or of another version. No package's script runs. */
export async function installPeers(log: (line: string) => void): Promise<Peers> {
  const wanted = readPackage(join(PEERS, 'package.json')).dependencies;
  let failure: string | null = null;
  if (Object.entries(wanted).some(([name, version]) => installed(name) !== version)) {
    log('installing the peers into test/bench/peers');
    const args = ['ci', '--ignore-scripts', '--no-audit', '--no-fund'];
    try {
      await promisify(execFile)('npm', args, { cwd: PEERS, timeout: INSTALL_TIMEOUT_MS });
    } catch (cause) {
      failure = reasonOf(cause);
    }
  }
  return { versions: Object.fromEntries(Object.keys(wanted).map((name) => [name, installed(name)])), failure };
}

/** The first lines that npm calls errors: all of them are a page. */
function reasonOf(cause: unknown): string {
  if (!(cause instanceof Error)) return String(cause);
  const stderr = 'stderr' in cause && typeof cause.stderr === 'string' ? cause.stderr : '';
  const errors = stderr.split('\n').filter((line) => line.startsWith('npm error'));
  return errors.length === 0 ? cause.message : errors.slice(0, 4).join('; ').replaceAll('npm error ', '');
}

function installed(name: string): string | null {
  const file = join(PEERS, 'node_modules', name, 'package.json');
  return existsSync(file) ? readPackage(file).version : null;
}
