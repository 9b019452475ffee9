// Loads data sets from disk: those that the machine has by name, CIFAR-10 from its folder of binary files, or any pairs of IDX files
// (plain or gzipped) that a config names.
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { gunzip } from 'node:zlib';
import { MeshError } from '../runtime/errors.ts';
import { CIFAR10_FILES, datasetFromCifar10, type NamedBytes } from '../runtime/train/cifar.ts';
import { splitsFromIdx, type Dataset, type DatasetSplits } from '../runtime/train/data.ts';
import {
  IDX_FILES,
  NAMED_DATASETS,
  type DatasetSpec,
  type IdxPair,
  type NamedDataset,
} from '../runtime/train/dataset-spec.ts';
import { parseIdx, type IdxFile } from '../runtime/train/idx.ts';
import { findDataFile } from './data-files.ts';

/**
 * Throws `bad-file` where a file is missing or is not what it should be. Paths are relative to the working directory; `find` says where
 * the files of a named set are.
 */
export async function loadDataset(
  spec: DatasetSpec,
  signal?: AbortSignal,
  find: typeof findDataFile = findDataFile,
): Promise<DatasetSplits> {
  if (typeof spec === 'string') {
    const [train, test] = await Promise.all([
      namedPair(spec, IDX_FILES.train, find),
      namedPair(spec, IDX_FILES.test, find),
    ]);
    return loadIdx(spec, { train, test }, NAMED_DATASETS[spec], signal);
  }
  if ('cifar10' in spec) return loadCifar10(spec.cifar10, signal);
  const { name, train, test, classes, normalisation } = spec;
  const known = { ...(classes === undefined ? {} : { classes }), ...(normalisation ? { normalisation } : {}) };
  return loadIdx(name, { train, test }, known, signal);
}

async function loadIdx(
  name: string,
  paths: Record<keyof DatasetSplits, IdxPair>,
  known: Parameters<typeof splitsFromIdx>[2],
  signal: AbortSignal | undefined,
): Promise<DatasetSplits> {
  const read = async ({ images, labels }: IdxPair): Promise<{ images: IdxFile; labels: IdxFile }> => {
    const [first, second] = await Promise.all([readIdx(images, signal), readIdx(labels, signal)]);
    return { images: first, labels: second };
  };
  const [train, test] = await Promise.all([read(paths.train), read(paths.test)]);
  return splitsFromIdx(name, { train, test }, known);
}

async function namedPair(name: NamedDataset, { images, labels }: IdxPair, find: typeof findDataFile): Promise<IdxPair> {
  const there = async (file: string): Promise<string> => {
    const path = await find(name, file);
    if (path !== null) return path;
    throw new MeshError(
      'bad-file',
      `This machine does not have ${name}: ${file} is not there.`,
      `Run: ${NAMED_DATASETS[name].install} — or name its IDX files: data: { name: ${name}, train: { images: PATH, labels: PATH }, test: … }.`,
    );
  };
  const [first, second] = await Promise.all([there(images), there(labels)]);
  return { images: first, labels: second };
}

async function loadCifar10(folder: string, signal: AbortSignal | undefined): Promise<DatasetSplits> {
  const fix = `Name the folder that holds ${CIFAR10_FILES.train[0]} and the others: cifar-10-batches-bin of cifar-10-binary.tar.gz.`;
  const half = async (split: keyof DatasetSplits): Promise<Dataset> => {
    const read = async (file: string): Promise<NamedBytes> => {
      const name = join(folder, file);
      return { name, bytes: await readBytes(name, fix, signal) };
    };
    return datasetFromCifar10(`cifar10 (${split})`, await Promise.all(CIFAR10_FILES[split].map(read)));
  };
  const [train, test] = await Promise.all([half('train'), half('test')]);
  return { train, test };
}

async function readIdx(path: string, signal: AbortSignal | undefined): Promise<IdxFile> {
  const bytes = await readBytes(path, 'Check the path of the data set.', signal);
  return parseIdx(isGzip(bytes) ? await unpack(path, bytes) : bytes, path);
}

async function readBytes(path: string, fix: string, signal: AbortSignal | undefined): Promise<Uint8Array<ArrayBuffer>> {
  const bytes = await readFile(path, { signal }).catch((cause: unknown) => {
    signal?.throwIfAborted();
    throw new MeshError('bad-file', `${path} cannot be read.`, fix, { cause });
  });
  return new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

const isGzip = (bytes: Uint8Array): boolean => bytes[0] === 0x1f && bytes[1] === 0x8b;

async function unpack(path: string, bytes: Uint8Array): Promise<Uint8Array<ArrayBuffer>> {
  try {
    return new Uint8Array(await promisify(gunzip)(bytes));
  } catch (cause) {
    throw new MeshError('bad-file', `${path} is not a whole gzip file.`, 'Get the file again.', { cause });
  }
}
