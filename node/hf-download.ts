// One file from a server with the layout of the Hugging Face Hub: looked at, then got, from where the last try ended, and checked
// against the hash that the server gave. Redirects are followed here, because the first answer has the hash and the last the bytes.
import { createHash, type Hash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { open, rename, rm, stat } from 'node:fs/promises';
import { MeshError, toMeshError } from '../runtime/errors.ts';
import { sizeOf, unwritable } from './files.ts';

export interface DownloadOptions {
  /** An access token, sent to the endpoint itself and never to where it redirects. */
  token?: string;
  signal?: AbortSignal;
  onProgress?: (progress: { file: string; doneBytes: number; totalBytes: number | null }) => void;
  /** Without a byte for so long, a connection counts as lost. */
  stallMs?: number;
  /** The first pause before another try; each is twice as long as the last. */
  pauseMs?: number;
}

export interface RemoteFile {
  name: string;
  /** SHA-256 of large files, git's hash of small ones; empty where the server gives none. */
  etag: string;
  size: number | null;
}

const MAX_REDIRECTS = 8;
const MAX_TRIES = 5;
const STALL_MS = 30_000;
const PAUSE_MS = 500;

export class Download {
  readonly #base: string;
  readonly #options: DownloadOptions;

  /** `base` ends in a slash; names of files are appended to it. */
  constructor(base: string, options: DownloadOptions) {
    this.#base = base;
    this.#options = options;
  }

  /** Null where there is no such file. */
  look(name: string): Promise<RemoteFile | null> {
    return this.#trying(name, async (watch) => {
      const { response, etag, linkedSize } = await this.#request(name, 'HEAD', {}, watch);
      if (response.status === 404) return null;
      expectOk(response, name);
      const length = response.headers.get('content-length');
      return { name, etag, size: linkedSize ?? (length === null ? null : Number(length)) };
    });
  }

  /** Writes it to `target`, whole or not at all; what a broken try left in `target`.part is gone on from. Returns its size. */
  async fetch(remote: RemoteFile, target: string): Promise<number> {
    // Named by the version, so that halves of two versions are never joined.
    const part = `${target}.${versionOf(remote)}.part`;
    let furthest = 0;
    await this.#trying(remote.name, (watch, progressed) =>
      this.#append(remote, part, watch, (done) => {
        // A server without ranges begins anew each time: that is no progress.
        if (done > furthest) progressed();
        furthest = Math.max(furthest, done);
      }),
    );
    try {
      await this.#check(remote, part);
    } catch (cause) {
      await rm(part, { force: true });
      throw cause;
    }
    await rename(part, target);
    return (await stat(target)).size;
  }

  async #append(remote: RemoteFile, part: string, watch: Watch, reached: (done: number) => void): Promise<void> {
    let done = await sizeOf(part);
    if (done > 0 && done === remote.size) return;
    // Without a version to compare, or with more than there is, begin anew.
    if (remote.etag === '' || (remote.size !== null && done > remote.size)) done = 0;
    const range: Record<string, string> = done > 0 ? { range: `bytes=${done}-` } : {};
    const { response, etag } = await this.#request(remote.name, 'GET', range, watch);
    if (response.status === 416) {
      await rm(part, { force: true });
      throw lost(remote.name, 'the server has no bytes after those that are here');
    }
    expectOk(response, remote.name);
    if (etag !== remote.etag) throw changed(remote.name);
    if (response.status !== 206) done = 0;
    const handle = await open(part, done > 0 ? 'r+' : 'w').catch(onDisk(part));
    try {
      const report = (): void =>
        this.#options.onProgress?.({ file: remote.name, doneBytes: done, totalBytes: remote.size });
      report();
      for await (const chunk of response.body ?? []) {
        watch.touch();
        await handle.write(chunk, 0, chunk.byteLength, done).catch(onDisk(part));
        done += chunk.byteLength;
        reached(done);
        report();
      }
    } finally {
      await handle.close();
    }
    if (remote.size !== null && done < remote.size)
      throw lost(remote.name, `the connection ended after ${done} of ${remote.size} bytes`);
  }

  async #check(remote: RemoteFile, part: string): Promise<void> {
    const { size } = await stat(part);
    if (remote.size !== null && size !== remote.size)
      throw corrupt(remote.name, `${size} bytes came, ${remote.size} were announced`);
    const hash = hashFor(remote.etag, size);
    if (!hash) return;
    for await (const chunk of createReadStream(part, { signal: this.#options.signal })) hash.update(chunk as Buffer);
    const got = hash.digest('hex');
    if (got !== remote.etag) throw corrupt(remote.name, `its hash is ${got}, the server says ${remote.etag}`);
  }

  async #request(
    name: string,
    method: 'HEAD' | 'GET',
    headers: Record<string, string>,
    watch: Watch,
  ): Promise<{ response: Response; etag: string; linkedSize: number | null }> {
    let url = new URL(encodeURI(name), this.#base);
    const { origin } = url;
    let etag: string | null = null;
    let linkedSize: number | null = null;
    for (let hop = 0; hop < MAX_REDIRECTS; hop += 1) {
      const { token } = this.#options;
      const authorization: Record<string, string> =
        token && url.origin === origin ? { authorization: `Bearer ${token}` } : {};
      const response = await fetch(url, {
        method,
        // Compressed bytes would have another length, and no ranges.
        headers: { 'accept-encoding': 'identity', ...authorization, ...headers },
        redirect: 'manual',
        signal: watch.signal,
      });
      watch.touch();
      etag ??= plainEtag(response.headers.get('x-linked-etag'));
      const size = response.headers.get('x-linked-size');
      if (size !== null) linkedSize ??= Number(size);
      const location = response.headers.get('location');
      if (response.status < 300 || response.status >= 400 || location === null)
        return { response, etag: etag ?? plainEtag(response.headers.get('etag')) ?? '', linkedSize };
      await response.body?.cancel();
      url = new URL(location, url);
    }
    throw new MeshError(
      'unreachable',
      `${this.#base}${name} redirects more than ${MAX_REDIRECTS} times.`,
      'Check the endpoint.',
    );
  }

  /** Tries again while it fails for reasons of the network; a try that got on does not count. */
  async #trying<T>(name: string, work: (watch: Watch, progressed: () => void) => Promise<T>): Promise<T> {
    const { signal, stallMs = STALL_MS, pauseMs = PAUSE_MS } = this.#options;
    for (let tries = 1; ; tries += 1) {
      signal?.throwIfAborted();
      const watch = new Watch(stallMs, signal);
      try {
        return await work(watch, () => {
          tries = 0;
        });
      } catch (cause) {
        signal?.throwIfAborted();
        if (cause instanceof MeshError && cause.code !== 'link-lost') throw cause;
        if (tries >= MAX_TRIES) throw unreachable(`${this.#base}${name}`, cause);
        await pause(pauseMs * 2 ** Math.max(0, tries - 1), signal);
      } finally {
        watch.end();
      }
    }
  }
}

/** Aborts when nothing came for `stallMs`, or when the caller does. */
class Watch {
  readonly #stalled = new AbortController();
  readonly #stallMs: number;
  #timer: ReturnType<typeof setTimeout> | undefined;
  readonly signal: AbortSignal;

  constructor(stallMs: number, signal: AbortSignal | undefined) {
    this.#stallMs = stallMs;
    this.signal = signal ? AbortSignal.any([this.#stalled.signal, signal]) : this.#stalled.signal;
    this.touch();
  }

  touch(): void {
    this.end();
    const reason = new Error(`nothing came for ${this.#stallMs / 1000} s`);
    this.#timer = setTimeout(() => this.#stalled.abort(reason), this.#stallMs);
  }

  end(): void {
    clearTimeout(this.#timer);
  }
}

const pause = (ms: number, signal: AbortSignal | undefined): Promise<void> =>
  new Promise((resolve) => {
    const done = (): void => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal?.addEventListener('abort', done);
  });

const plainEtag = (etag: string | null): string | null => etag?.replace(/^W\//, '').replaceAll('"', '') ?? null;

const versionOf = ({ etag, size }: RemoteFile): string =>
  createHash('sha256').update(`${etag} ${size}`).digest('hex').slice(0, 12);

/** The Hub's etags: SHA-256 of a large file, git's blob hash of a small one. Others are versions, not hashes. */
function hashFor(etag: string, size: number): Hash | null {
  if (/^[0-9a-f]{64}$/.test(etag)) return createHash('sha256');
  if (/^[0-9a-f]{40}$/.test(etag)) return createHash('sha1').update(`blob ${size}\0`);
  return null;
}

function expectOk(response: Response, name: string): void {
  if (response.ok) return;
  const { status } = response;
  if (status === 401 || status === 403)
    throw new MeshError(
      'unauthorized',
      `The server refuses ${name} (HTTP ${status}).`,
      'Give an access token of an account that may read the model, and accept its terms on its page.',
    );
  if (status === 429 || status >= 500) throw lost(name, `the server answered HTTP ${status}`);
  throw new MeshError('bad-file', `The server answers HTTP ${status} for ${name}.`, 'Check the name of the model.');
}

/** No trouble of the network, so nothing to try again. */
const onDisk =
  (file: string) =>
  (cause: unknown): never => {
    throw unwritable(file, cause);
  };

const lost = (name: string, why: string): MeshError => new MeshError('link-lost', `${name}: ${why}.`, 'Try again.');

const changed = (name: string): MeshError =>
  new MeshError('bad-file', `${name} changed on the server while it was downloaded.`, 'Download it again.');

const corrupt = (name: string, why: string): MeshError =>
  new MeshError('bad-file', `${name} came over broken: ${why}.`, 'Download it again.');

function unreachable(url: string, cause: unknown): MeshError {
  const { message } = toMeshError(cause);
  const deeper = cause instanceof Error && cause.cause instanceof Error ? ` (${cause.cause.message})` : '';
  return new MeshError(
    'unreachable',
    `${url} could not be downloaded: ${message}${deeper}`,
    'Check the network and the endpoint (HF_ENDPOINT), then start again: what has come is kept.',
    { cause },
  );
}
