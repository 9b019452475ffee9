// What a configuration may say under `data`: which data set, and where its files are. Loading is the host's business.
import { z } from 'zod';

const pairSchema = z.strictObject({ images: z.string().min(1), labels: z.string().min(1) });
export type IdxPair = z.infer<typeof pairSchema>;

/** `mnist`, or a name with the paths of IDX files (plain or gzipped). */
export const datasetSpecSchema = z.union([
  z.literal('mnist'),
  z.strictObject({
    name: z.string().min(1),
    train: pairSchema,
    test: pairSchema,
    classes: z.int().min(2).max(256).optional(),
    normalisation: z.strictObject({ mean: z.number(), deviation: z.number().positive() }).optional(),
  }),
]);
export type DatasetSpec = z.infer<typeof datasetSpecSchema>;
