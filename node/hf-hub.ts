// A model folder from the Hugging Face Hub, or from any server with its layout, into a cache on disk: which files, and whether what is
// here is still what is there. Getting one file is hf-download.ts.
import { mkdir, readFile, stat } from 'node:fs/promises';
import path from 'node:path';
import { z } from 'zod';
import { MeshError, toMeshError } from '../runtime/errors.ts';
import { ifThere, writeWhole } from './files.ts';
import { Download, type DownloadOptions, type RemoteFile } from './hf-download.ts';
import { CONFIG_FILE, INDEX_FILE, shardsOf, WEIGHTS_FILE } from './hf-folder.ts';
import { readUtf8, TOKENIZER_FILE } from './tokenizer-files.ts';

export interface HubOptions extends DownloadOptions {
  /** `owner/name`, or a name alone. */
  repo: string;
  /** Branch, tag or commit; `main` if absent. */
  revision?: string;
  /** HF_ENDPOINT or https://huggingface.co if absent. */
  endpoint?: string;
  /** Models are in folders below it. */
  cacheDir: string;
}

/** What is known of files, by name, in the folder beside them: those that are here whole, and null for what the other side lacks. */
const RECORD_FILE = '.downloaded.json';
const recordSchema = z.record(z.string(), z.strictObject({ etag: z.string(), size: z.int().min(0) }).nullable());
type FileRecord = z.infer<typeof recordSchema>;

const NAME = /^[\w-][\w.-]*(\/[\w-][\w.-]*)?$/;
const REVISION = /^[\w-][\w./-]*$/;
/** A commit never changes, so nothing needs to be asked about its files. */
const COMMIT = /^[0-9a-f]{40}$/;

/**
 * The folder with the model's config, weights and tokenizer, downloaded where they are not in the cache. Without a network the cache
 * serves what it holds. Throws `usage` for a bad name, `bad-file` for a model that is not there or has no safetensors, `unauthorized`,
 * `unreachable`, and the signal's reason.
 */
export async function hubFolder(options: HubOptions): Promise<string> {
  const { repo, revision = 'main', endpoint = process.env.HF_ENDPOINT ?? 'https://huggingface.co' } = options;
  if (!NAME.test(repo) || !REVISION.test(revision) || revision.includes('..'))
    throw new MeshError(
      'usage',
      `${repo}@${revision} is no name of a model on the Hub.`,
      'It looks like openai-community/gpt2, with a branch, tag or commit as its revision.',
    );
  const base = `${endpoint.replace(/\/+$/, '')}/${repo}/resolve/${encodeURIComponent(revision)}/`;
  const folder = path.join(options.cacheDir, `${repo.replace('/', '--')}@${revision.replaceAll('/', '--')}`);
  await mkdir(folder, { recursive: true });
  const cache = await Cache.open(folder, base, options, COMMIT.test(revision));
  if (!(await cache.get(CONFIG_FILE)))
    throw new MeshError(
      'bad-file',
      `${base}${CONFIG_FILE} is not there.`,
      'Check the name and the revision of the model; a private or gated one needs a token.',
    );
  if (!(await cache.get(WEIGHTS_FILE))) await getShards(cache, folder, base);
  if (!(await cache.get(TOKENIZER_FILE))) for (const file of ['vocab.json', 'merges.txt']) await cache.get(file);
  return folder;
}

async function getShards(cache: Cache, folder: string, base: string): Promise<void> {
  if (!(await cache.get(INDEX_FILE)))
    throw new MeshError(
      'bad-file',
      `${base} has neither ${WEIGHTS_FILE} nor ${INDEX_FILE}.`,
      'Choose a model, or a revision, that has its weights as safetensors.',
    );
  const file = path.join(folder, INDEX_FILE);
  const index: unknown = JSON.parse(await readUtf8(file));
  for (const shard of shardsOf(index, file).shards)
    if (!(await cache.get(shard)))
      throw new MeshError(
        'bad-file',
        `${base}${shard} is not there, and the index names it.`,
        'Choose another revision.',
      );
}

/** The files of one model and revision, here and there. */
class Cache {
  readonly #folder: string;
  readonly #download: Download;
  readonly #isFixed: boolean;
  #record: FileRecord;

  private constructor(folder: string, download: Download, isFixed: boolean, record: FileRecord) {
    this.#folder = folder;
    this.#download = download;
    this.#isFixed = isFixed;
    this.#record = record;
  }

  static async open(folder: string, base: string, options: DownloadOptions, isFixed: boolean): Promise<Cache> {
    const text = await ifThere(path.join(folder, RECORD_FILE), (file) => readFile(file, 'utf8')); // the first time there is none
    return new Cache(folder, new Download(base, options), isFixed, parsedRecord(text ?? '{}'));
  }

  /** False where the other side says that there is no such file. */
  async get(name: string): Promise<boolean> {
    const known = await this.#known(name);
    if (known !== undefined && this.#isFixed) return known !== null;
    let remote: RemoteFile | null;
    try {
      remote = await this.#download.look(name);
    } catch (cause) {
      if (known !== undefined && toMeshError(cause).code === 'unreachable') return known !== null;
      throw cause;
    }
    if (!remote) await this.#note(name, null);
    else if (!known || known.etag !== remote.etag || known.size !== remote.size) {
      const size = await this.#download.fetch(remote, path.join(this.#folder, name));
      await this.#note(name, { etag: remote.etag, size });
    }
    return remote !== null;
  }

  /** Undefined where nothing is known, or what was known is not here any more. */
  async #known(name: string): Promise<FileRecord[string] | undefined> {
    const known = this.#record[name];
    if (!known) return known;
    const found = await ifThere(path.join(this.#folder, name), (file) => stat(file));
    return found?.size === known.size ? known : undefined;
  }

  async #note(name: string, what: FileRecord[string]): Promise<void> {
    this.#record = { ...this.#record, [name]: what };
    await writeWhole(path.join(this.#folder, RECORD_FILE), JSON.stringify(this.#record, null, 2));
  }
}

/** A record that makes no sense is none: the files are asked for again. */
function parsedRecord(text: string): FileRecord {
  try {
    return recordSchema.parse(JSON.parse(text));
  } catch {
    return {};
  }
}
