// The configuration of one federated worker: what is the same for all of a run, and which of them this is. Every key checked, every default
// stated here.
import { z } from 'zod';
import { averageSpecSchema } from '../average-spec.ts';
import { optimizerSpecSchema } from '../compute.ts';
import { MeshError } from '../errors.ts';
import { modelSpecSchema } from '../model-spec.ts';
import { textSpecSchema } from '../text/text-spec.ts';
import { datasetSpecSchema } from '../train/dataset-spec.ts';
import { contextOf, expectKind, isText, isVocabularyOpen, withoutGaps } from '../train/language.ts';
import { isLanguage } from '../model-spec.ts';
import { scheduleSpecSchema } from '../train/learning-rate.ts';
import { partitionSpecSchema } from '../train/partition.ts';
import { formatUid, runIdSchema, stageNameSchema, type Uid } from '../wire/ids.ts';
import { neighbours, topologySchema } from './topology.ts';

const fields = z.strictObject({
  /** The same for all workers that belong together; stands in the directory and the event log. */
  run: runIdSchema.default(runIdSchema.parse('federated')),
  /** The join link; --join and SKEIN_JOIN stand before it. */
  join: z.string().min(1).optional(),
  /** Which worker this is, of how many. */
  worker: z.int().min(0).max(99_999),
  workers: z.int().min(1).max(100_000),
  /** Workers are replicas of a whole model: `{stage}.{version}.{worker}.{subversion}` are their UIDs. */
  stage: stageNameSchema.default('worker'),
  version: z.int().min(0).default(0),
  subversion: z.int().min(0).default(0),
  topology: topologySchema.default('ring'),
  model: modelSpecSchema.default({ family: 'mlp', sizes: [784, 64, 10], activation: 'relu' }),
  data: z.union([datasetSpecSchema, textSpecSchema]).default('mnist'),
  /** How the rows are shared out. Of text: every worker has each so many-th window. */
  partition: partitionSpecSchema.default({ kind: 'dirichlet', alpha: 0.5 }),
  batch: z.int().min(1).max(1_000_000).default(32),
  epochs: z.int().min(1).max(100_000).default(5),
  /** Local steps; stands in for epochs. */
  maxSteps: z.int().min(1).optional(),
  optimizer: optimizerSpecSchema.default({ name: 'sgd', lr: 0.05, momentum: 0, weightDecay: 0 }),
  schedule: scheduleSpecSchema.optional(),
  clip: z.number().positive().optional(),
  precision: z.enum(['f32', 'bf16', 'f16']).optional(),
  recompute: z.boolean().optional(),
  /** Weights, topology, partition and pairs follow from it: the same for all workers. */
  seed: z.int().min(0).default(1),
  average: averageSpecSchema.prefault({}),
  /** Evaluate after this many local steps; after every epoch if absent, and always at the end. */
  evalEvery: z.int().min(1).optional(),
  evalRows: z.int().min(1).optional(),
  /** How long a worker waits for its neighbours at the start, and for those that are still training at the end. */
  patienceMs: z.int().min(0).max(3_600_000).default(30_000),
});

export const workerConfigSchema = z.preprocess(withoutGaps, fields);

export type WorkerConfig = z.infer<typeof fields> & {
  /** Only in memory: the vocabulary's size is not known before the tokenizer is. */
  isVocabularyOpen?: true;
};

/** Throws `usage` naming each key that is wrong. */
export function parseWorkerConfig(value: unknown): WorkerConfig {
  const parsed = workerConfigSchema.safeParse(value ?? {});
  if (!parsed.success)
    throw usage(
      parsed.error.issues
        .slice(0, 5)
        .map((issue) => `${issue.path.join('.') || 'the document'}: ${issue.message}`)
        .join('; '),
    );
  const config = parsed.data;
  if (config.worker >= config.workers)
    throw usage(`worker: ${config.worker} of ${config.workers} workers; they are counted from 0`);
  neighboursOf(config);
  expectKind(config.model, config.data);
  if (isLanguage(config.model) && isText(config.data)) contextOf(config.model, config.data);
  return { ...config, ...(isVocabularyOpen(value) ? { isVocabularyOpen: true } : {}) };
}

export const uidOf = ({ stage, version, subversion }: WorkerConfig, worker: number): Uid =>
  formatUid({ stage, version, expertIndex: worker, subversion });

/** UIDs of this worker's neighbours. */
export const neighboursOf = (config: WorkerConfig): Uid[] =>
  (neighbours(config.topology, config.workers, config.seed)[config.worker] ?? []).map((worker) =>
    uidOf(config, worker),
  );

const usage = (what: string): MeshError =>
  new MeshError(
    'usage',
    `The worker's configuration is wrong: ${what}.`,
    'Correct the file; `skein config generate --help` shows how to make one.',
  );
