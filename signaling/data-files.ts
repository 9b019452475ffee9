// The data sets that the monitor's machine has, for tabs that train: /data/NAME/FILE, the known names and files only. Gzipped on the
// wire where the asker takes that; a file that lies here as it is gets compressed once and is kept so in memory (MNIST: 11 MB).
import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { pipeline } from 'node:stream/promises';
import { createGunzip, createGzip } from 'node:zlib';
import { IDX_FILES, NAMED_DATASETS, namedDatasetSchema, type NamedDataset } from '../runtime/train/dataset-spec.ts';
import { isOwnOrigin, plain, type Route } from './web-page.ts';

/** The path of a file, as it is or gzipped (then it ends in .gz); null where this machine does not have it. */
export type FindDataFile = (name: NamedDataset, file: string) => Promise<string | null>;

const FILES: ReadonlySet<string> = new Set(Object.values(IDX_FILES).flatMap((pair) => Object.values(pair)));

/** Answers every path under /data/; host and method have been looked at. */
export function createDataRoute(find: FindDataFile): Route {
  const packed = new Packed();
  return async (path, request, response) => {
    if (!isOwnOrigin(request)) return plain(response, 403, 'Data are for the page of this monitor.\n');
    const asked = parsePath(path);
    if (!asked) return plain(response, 404, 'There is no such file.\n');
    const file = await find(asked.name, asked.file);
    if (file === null) {
      const { install } = NAMED_DATASETS[asked.name];
      return plain(response, 404, `The monitor's machine does not have ${asked.name}. There, run: ${install}\n`);
    }
    await send(file, packed, request, response);
  };
}

function parsePath(path: string): { name: NamedDataset; file: string } | null {
  const [, data, given, file, ...more] = path.split('/');
  const name = namedDatasetSchema.safeParse(given);
  if (data !== 'data' || !name.success || file === undefined || !FILES.has(file) || more.length > 0) return null;
  return { name: name.data, file };
}

async function send(file: string, packed: Packed, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const { size, mtimeMs } = await stat(file);
  const isGzip = takesGzip(request.headers['accept-encoding']);
  const isPacked = file.endsWith('.gz');
  const version = `${size.toString(36)}-${Math.floor(mtimeMs).toString(36)}`;
  const etag = `"${version}${isGzip ? '-gzip' : ''}"`;
  response.setHeader('Vary', 'Accept-Encoding');
  response.setHeader('ETag', etag);
  response.setHeader('Cache-Control', 'no-cache'); // kept, and asked after each time: then the answer is 304
  if (isNamed(etag, request.headers['if-none-match'])) {
    response.statusCode = 304;
    response.end();
    return;
  }
  response.setHeader('Content-Type', 'application/octet-stream');
  if (isGzip) response.setHeader('Content-Encoding', 'gzip');
  if (isGzip && !isPacked) {
    const bytes = await packed.get(file, version);
    response.setHeader('Content-Length', bytes.byteLength);
    response.end(bytes); // Node leaves out the body of a HEAD
    return;
  }
  if (isGzip === isPacked) response.setHeader('Content-Length', size);
  if (request.method === 'HEAD') response.end();
  else if (isGzip === isPacked) await pipeline(createReadStream(file), response);
  else await pipeline(createReadStream(file), createGunzip(), response);
}

/** Files in memory, compressed at the first request, each once. */
class Packed {
  readonly #files = new Map<string, { version: string; bytes: Promise<Buffer> }>();

  get(file: string, version: string): Promise<Buffer> {
    const known = this.#files.get(file);
    if (known?.version === version) return known.bytes;
    const made = { version, bytes: pack(file) };
    this.#files.set(file, made);
    made.bytes.catch(() => {
      if (this.#files.get(file) === made) this.#files.delete(file); // whoever waits is told; the next one tries anew
    });
    return made.bytes;
  }
}

async function pack(file: string): Promise<Buffer> {
  const parts: Buffer[] = [];
  await pipeline(createReadStream(file), createGzip(), async (packed: AsyncIterable<Buffer>) => {
    for await (const part of packed) parts.push(part);
  });
  return Buffer.concat(parts);
}

/** Whether an Accept-Encoding names gzip, or everything, and not with a weight of 0. */
function takesGzip(accepted: string | string[] | undefined): boolean {
  const weights = new Map<string, number>();
  for (const entry of [accepted ?? ''].flat().join(',').split(',')) {
    const [coding = '', ...parameters] = entry.split(';').map((text) => text.trim().toLowerCase());
    const weight = parameters.find((parameter) => parameter.startsWith('q='));
    weights.set(coding, weight === undefined ? 1 : Number(weight.slice(2)));
  }
  return (weights.get('gzip') ?? weights.get('*') ?? 0) > 0;
}

const isNamed = (etag: string, ifNoneMatch: string | undefined): boolean =>
  (ifNoneMatch ?? '').split(',').some((given) => [etag, '*'].includes(given.trim().replace(/^W\//, '')));
