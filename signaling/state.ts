// What a monitor keeps between its starts: the join token and the TLS certificate with its key, readable by their owner only.
import { X509Certificate } from 'node:crypto';
import { chmod, mkdir, open, readFile } from 'node:fs/promises';
import { homedir, hostname, networkInterfaces } from 'node:os';
import { isIP } from 'node:net';
import { join } from 'node:path';
import { generate } from 'selfsigned';
import { MeshError } from '../runtime/errors.ts';
import { randomText } from '../runtime/mesh/identity.ts';
import { TOKEN_PATTERN } from '../runtime/mesh/join-url.ts';

/** Apple's limit for certificates of any origin. */
const CERTIFICATE_DAYS = 825;
const DAY_MS = 86_400_000;

export interface TlsIdentity {
  /** PEM, certificate and key. */
  cert: string;
  key: string;
  /** SHA-256 of the certificate, 64 hex digits: what join links carry. */
  sha256: string;
}

export const defaultStateDir = (): string =>
  join(process.env['XDG_STATE_HOME'] || join(homedir(), '.local', 'state'), 'skein');

export async function loadToken(stateDir: string): Promise<string> {
  const path = join(stateDir, 'monitor-token');
  const token = (await readOrCreate(stateDir, path, async () => `${randomText()}\n`)).trim();
  if (!TOKEN_PATTERN.test(token)) throw badFile(path, 'a join token');
  return token;
}

/** The kept certificate, or a new one where there is none, or it ends within a week. */
export async function loadTls(stateDir: string, publicHost: string | undefined): Promise<TlsIdentity> {
  const path = join(stateDir, 'monitor-tls.pem');
  const make = () => makeCertificate(publicHost);
  const kept = parsePem(path, await readOrCreate(stateDir, path, make));
  if (kept.endsAtMs > Date.now() + 7 * DAY_MS) return kept.tls;
  const renewed = await make();
  await writeSecret(path, renewed, 'w');
  return parsePem(path, renewed).tls;
}

function parsePem(path: string, pem: string): { tls: TlsIdentity; endsAtMs: number } {
  const cert = /-----BEGIN CERTIFICATE-----[^]+?-----END CERTIFICATE-----/.exec(pem)?.[0];
  const key = /-----BEGIN (?:EC |RSA )?PRIVATE KEY-----[^]+?-----END (?:EC |RSA )?PRIVATE KEY-----/.exec(pem)?.[0];
  if (!cert || !key) throw badFile(path, 'a certificate and its key');
  const { fingerprint256, validTo } = new X509Certificate(cert);
  return {
    tls: { cert, key, sha256: fingerprint256.replaceAll(':', '').toLowerCase() },
    endsAtMs: Date.parse(validTo),
  };
}

async function makeCertificate(publicHost: string | undefined): Promise<string> {
  const names = new Set(['localhost', '127.0.0.1', '::1', hostname(), ...machineAddresses()]);
  if (publicHost) names.add(publicHost);
  const { cert, private: key } = await generate([{ name: 'commonName', value: 'Skein monitor' }], {
    keyType: 'ec',
    algorithm: 'sha256',
    notAfterDate: new Date(Date.now() + CERTIFICATE_DAYS * DAY_MS),
    extensions: [
      { name: 'basicConstraints', cA: false, critical: true },
      { name: 'keyUsage', digitalSignature: true, critical: true },
      { name: 'extKeyUsage', serverAuth: true },
      {
        name: 'subjectAltName',
        altNames: [...names].map((name) =>
          isIP(name) ? { type: 7 as const, ip: name } : { type: 2 as const, value: name },
        ),
      },
    ],
  });
  return `${cert.trim()}\n${key.trim()}\n`;
}

/** Addresses under which other machines reach this one, IPv4 first. */
export function machineAddresses(): string[] {
  const addresses = Object.values(networkInterfaces()).flatMap((list) => list ?? []);
  return addresses
    .filter(({ internal, address }) => !internal && !address.startsWith('fe80:'))
    .sort((a, b) => a.family.localeCompare(b.family))
    .map(({ address }) => address);
}

async function readOrCreate(stateDir: string, path: string, make: () => Promise<string>): Promise<string> {
  try {
    return await readSecret(path);
  } catch (cause) {
    if (codeOf(cause) !== 'ENOENT') throw cause;
  }
  await mkdir(stateDir, { recursive: true, mode: 0o700 });
  try {
    const text = await make();
    await writeSecret(path, text, 'wx');
    return text;
  } catch (cause) {
    if (codeOf(cause) !== 'EEXIST') throw cause; // another monitor was faster: its secret is as good
    return readSecret(path);
  }
}

async function readSecret(path: string): Promise<string> {
  const text = await readFile(path, 'utf8');
  await chmod(path, 0o600);
  return text;
}

async function writeSecret(path: string, text: string, flag: 'w' | 'wx'): Promise<void> {
  const file = await open(path, flag, 0o600);
  try {
    await file.writeFile(text);
    await file.sync();
  } finally {
    await file.close();
  }
}

const codeOf = (cause: unknown): unknown =>
  typeof cause === 'object' && cause !== null && 'code' in cause ? cause.code : undefined;

const badFile = (path: string, what: string): MeshError =>
  new MeshError('bad-file', `${path} does not hold ${what}.`, `Delete ${path}; the monitor makes a new one.`);
