// CIFAR-10's binary format: parsed strictly, from bytes. Reading the files is the host's work.
//
//   record, 3073 bytes, one after the other without a header
//   offset 0  u8        label, 0 to 9
//          1  u8 × 3072 pixels (C, H, W): 1024 red, 1024 green, 1024 blue, row-major
import { MeshError } from '../errors.ts';
import type { Dataset, Normalisation } from './data.ts';

const CLASSES = 10;
const FEATURES = 3 * 32 * 32;
const RECORD_BYTES = 1 + FEATURES;

/** The files of the training set and of the test set, by their customary names. */
export const CIFAR10_FILES = {
  train: [1, 2, 3, 4, 5].map((number) => `data_batch_${number}.bin`),
  test: ['test_batch.bin'],
} as const;

/** Means and standard deviations of red, green and blue over the training pixels, the customary ones. */
export const CIFAR10_NORMALISATION = {
  mean: [0.4914, 0.4822, 0.4465],
  deviation: [0.247, 0.2435, 0.2616],
} as const satisfies Normalisation;

/** One file, and what it is called in messages. */
export interface NamedBytes {
  name: string;
  bytes: Uint8Array;
}

/** The records of all files, in order, as one data set of samples (3072). Throws `bad-file` unless each is whole records. */
export function datasetFromCifar10(name: string, files: readonly NamedBytes[]): Dataset {
  const rows = files.reduce((sum, file) => sum + recordsIn(file), 0);
  const images = new Uint8Array(rows * FEATURES);
  const labels = new Uint8Array(rows);
  let row = 0;
  for (const file of files)
    for (let at = 0; at < file.bytes.byteLength; at += RECORD_BYTES) {
      const label = file.bytes[at] ?? 0;
      if (label >= CLASSES)
        throw badFile(`${file.name} has label ${label} in record ${at / RECORD_BYTES}, and CIFAR-10 has 0 to 9.`);
      labels[row] = label;
      images.set(file.bytes.subarray(at + 1, at + RECORD_BYTES), row * FEATURES);
      row += 1;
    }
  return { name, images, labels, rows, inputShape: [FEATURES], classes: CLASSES, normalisation: CIFAR10_NORMALISATION };
}

function recordsIn({ name, bytes }: NamedBytes): number {
  const records = bytes.byteLength / RECORD_BYTES;
  if (Number.isInteger(records) && records > 0) return records;
  throw badFile(`${name} has ${bytes.byteLength} bytes; records of CIFAR-10 have ${RECORD_BYTES} each.`);
}

const badFile = (message: string): MeshError =>
  new MeshError('bad-file', message, 'Get the file again; it must be of the binary version, cifar-10-binary.tar.gz.');
