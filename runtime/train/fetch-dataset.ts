// A data set over HTTP, for a host without files: the monitor serves those that its machine has, under data/NAME/FILE.
import { MeshError } from '../errors.ts';
import { splitsFromIdx, type DatasetSplits } from './data.ts';
import { IDX_FILES, NAMED_DATASETS, type IdxPair, type NamedDataset } from './dataset-spec.ts';
import { declaredBytes, parseIdx, type IdxFile } from './idx.ts';

/** What the host's `fetch` does; whatever it rejects with counts as `unreachable`. */
export type FetchFunction = (url: string, init: { signal: AbortSignal }) => Promise<Response>;

export interface FetchDatasetOptions {
  signal: AbortSignal;
  /** Bytes as they are in memory, not on the wire. The total is null until the beginnings of all four files are here. */
  onProgress?: (progress: { doneBytes: number; totalBytes: number | null }) => void;
  /** Without a byte for so long, the server counts as lost; the first takes as long as compressing 47 MB does. */
  stallMs?: number;
  /** Of all four files together. */
  maxBytes?: number;
}

const STALL_MS = 30_000;
const MAX_BYTES = 64 * 1024 * 1024;

/**
 * The four files under `baseUrl`, the monitor's address, at the same time. Throws `unreachable`, `bad-file`, `too-large`, or the reason of
 * `signal`.
 */
export async function fetchDataset(
  name: NamedDataset,
  baseUrl: string,
  fetch: FetchFunction,
  options: FetchDatasetOptions,
): Promise<DatasetSplits> {
  const transfer = new Transfer(options);
  const get = async (file: string): Promise<IdxFile> => {
    const url = new URL(`data/${name}/${file}`, baseUrl).href;
    return parseIdx(await transfer.get(url, fetch, NAMED_DATASETS[name].install), url);
  };
  const pair = async ({ images, labels }: IdxPair): Promise<{ images: IdxFile; labels: IdxFile }> => {
    const [first, second] = await Promise.all([get(images), get(labels)]);
    return { images: first, labels: second };
  };
  try {
    const [train, test] = await Promise.all([pair(IDX_FILES.train), pair(IDX_FILES.test)]);
    return splitsFromIdx(name, { train, test }, NAMED_DATASETS[name]);
  } catch (cause) {
    options.signal.throwIfAborted();
    throw cause;
  } finally {
    transfer.end();
  }
}

const FILES = 4;

/** All files under way: their progress as one, one limit, and one watch for silence. */
class Transfer {
  readonly #options: FetchDatasetOptions;
  readonly #stop = new AbortController();
  readonly #signal: AbortSignal;
  /** By URL. */
  readonly #files = new Map<string, { done: number; declared: number | null }>();
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(options: FetchDatasetOptions) {
    this.#options = options;
    this.#signal = AbortSignal.any([options.signal, this.#stop.signal]);
    this.#touch();
  }

  /** Ends whatever is still under way. */
  end(): void {
    clearTimeout(this.#timer);
    this.#stop.abort(new DOMException('The other files are not needed any more.', 'AbortError'));
  }

  async get(url: string, fetch: FetchFunction, install: string): Promise<Uint8Array<ArrayBuffer>> {
    try {
      const response = await fetch(url, { signal: this.#signal });
      this.#touch();
      if (response.ok && response.body) return await this.#read(url, response.body.getReader());
      await response.body?.cancel();
      throw response.status === 404 ? missing(url, install) : lost(url, `it answers HTTP ${response.status}`);
    } catch (cause) {
      if (cause instanceof MeshError) throw cause;
      throw lost(url, cause instanceof Error ? cause.message : String(cause), cause);
    }
  }

  async #read(url: string, reader: ReadableStreamDefaultReader<Uint8Array>): Promise<Uint8Array<ArrayBuffer>> {
    const parts: Uint8Array[] = [];
    const file = { done: 0, declared: null as number | null };
    this.#files.set(url, file);
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return joined(parts, file.done);
      parts.push(value);
      file.done += value.byteLength;
      if (file.declared === null) {
        // The header is in the first part, but for servers that send byte by byte.
        const start = joined(parts.splice(0), file.done);
        parts.push(start);
        file.declared = declaredBytes(start);
      }
      this.#touch();
      this.#report();
    }
  }

  #report(): void {
    const files = [...this.#files.values()];
    const doneBytes = files.reduce((sum, { done }) => sum + done, 0);
    const wanted = files.reduce((sum, { done, declared }) => sum + Math.max(done, declared ?? 0), 0);
    const { maxBytes = MAX_BYTES, onProgress } = this.#options;
    if (wanted > maxBytes)
      throw new MeshError(
        'too-large',
        `The data set has ${wanted} bytes or more; ${maxBytes} is the limit.`,
        'Choose a smaller one.',
      );
    const isKnown = files.length === FILES && files.every(({ declared }) => declared !== null);
    onProgress?.({ doneBytes, totalBytes: isKnown ? wanted : null });
  }

  #touch(): void {
    clearTimeout(this.#timer);
    if (this.#signal.aborted) return;
    const { stallMs = STALL_MS } = this.#options;
    this.#timer = setTimeout(() => this.#stop.abort(new Error(`nothing came for ${stallMs / 1000} s`)), stallMs);
  }
}

function joined(parts: readonly Uint8Array[], bytes: number): Uint8Array<ArrayBuffer> {
  const whole = new Uint8Array(bytes);
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.byteLength;
  }
  return whole;
}

const missing = (url: string, install: string): MeshError =>
  new MeshError(
    'unreachable',
    `${url} is not there: the monitor's machine does not have the data set.`,
    `On the monitor's machine run: ${install} — or choose another data set.`,
  );

const lost = (url: string, why: string, cause?: unknown): MeshError =>
  new MeshError('unreachable', `${url} did not come: ${why}.`, 'See whether the monitor runs, then try again.', {
    cause,
  });
