// What a configuration may say under `data`: which data set, and where its files are; and what is known of those that have a name of
// their own. Loading is the host's business.
import { z } from 'zod';
import { MNIST_NORMALISATION, type DatasetSplits, type Normalisation } from './data.ts';

/** Data sets of four IDX files that every host finds by itself. */
export const namedDatasetSchema = z.enum(['mnist', 'fashion-mnist']);
export type NamedDataset = z.infer<typeof namedDatasetSchema>;

/** What is known of them; `install` is what a person runs to have one. */
export const NAMED_DATASETS = {
  mnist: { classes: 10, normalisation: MNIST_NORMALISATION, install: 'npm run setup' },
  'fashion-mnist': {
    classes: 10,
    normalisation: { mean: 0.286, deviation: 0.353 },
    install: 'apt-get install dataset-fashion-mnist',
  },
} as const satisfies Record<NamedDataset, { classes: number; normalisation: Normalisation; install: string }>;

const pairSchema = z.strictObject({ images: z.string().min(1), labels: z.string().min(1) });
export type IdxPair = z.infer<typeof pairSchema>;

/** What the four files of each are called. */
export const IDX_FILES = {
  train: { images: 'train-images-idx3-ubyte', labels: 'train-labels-idx1-ubyte' },
  test: { images: 't10k-images-idx3-ubyte', labels: 't10k-labels-idx1-ubyte' },
} as const satisfies Record<keyof DatasetSplits, IdxPair>;

/** A list has a value for each channel. */
const perChannel = (value: z.ZodNumber) => z.union([value, z.array(value).min(1).max(1024)]);

/** A name; the folder of CIFAR-10's binary files; or a name of one's own with the paths of IDX files (plain or gzipped). */
export const datasetSpecSchema = z.union([
  namedDatasetSchema,
  z.strictObject({ cifar10: z.string().min(1) }),
  z.strictObject({
    name: z.string().min(1),
    train: pairSchema,
    test: pairSchema,
    classes: z.int().min(2).max(256).optional(),
    normalisation: z
      .strictObject({ mean: perChannel(z.number()), deviation: perChannel(z.number().positive()) })
      .optional(),
  }),
]);
export type DatasetSpec = z.infer<typeof datasetSpecSchema>;
