// A run's configuration: one document, every key checked, every default stated here.
import { z } from 'zod';
import { modelSpecSchema, optimizerSpecSchema } from '../compute.ts';
import { MeshError } from '../errors.ts';
import { layerCount, splitLayers } from '../model/spec.ts';
import { datasetSpecSchema } from './dataset-spec.ts';
import { runIdSchema, stageNameSchema } from '../wire/ids.ts';

const stageSchema = z.union([
  stageNameSchema.transform((name) => ({ name, layers: undefined as number | undefined })),
  z.strictObject({ name: stageNameSchema, layers: z.int().min(1).optional() }),
]);

export const runConfigSchema = z.strictObject({
  /** Shown in the directory and the event log. */
  run: runIdSchema.optional(),
  /** Which model definition and which lineage of weights: the second and fourth field of the stages' UIDs. */
  version: z.int().min(0).default(0),
  subversion: z.int().min(0).default(0),
  model: modelSpecSchema.default({ family: 'mlp', sizes: [784, 64, 10], activation: 'relu' }),
  /** Names in order, with the number of layers of each if they are not to be shared out evenly. */
  stages: z
    .array(stageSchema)
    .min(1)
    .max(64)
    .default([
      { name: 'front', layers: undefined },
      { name: 'back', layers: undefined },
    ]),
  policy: z.enum(['all', 'disjoint', 'routed']).default('all'),
  mode: z.enum(['sync', 'async']).default('sync'),
  data: datasetSpecSchema.default('mnist'),
  /** Rows to an optimizer step, and to a forward pass. */
  batch: z.int().min(1).max(1_000_000).default(128),
  microbatch: z.int().min(1).max(1_000_000).default(32),
  epochs: z.int().min(1).max(100_000).default(8),
  /** Ends the run early, after this many steps. */
  maxSteps: z.int().min(1).optional(),
  optimizer: optimizerSpecSchema.default({ name: 'sgd', lr: 0.02, momentum: 0.9, weightDecay: 0 }),
  seed: z.int().min(0).default(1),
  /** Microbatches that one trainer has under way. */
  inflight: z.int().min(1).max(64).default(2),
  /** Async: full average of the replicas after this many optimizer steps. */
  averageEvery: z.int().min(1).default(20),
  /** For one microbatch, there and back. */
  deadlineMs: z.int().min(100).max(3_600_000).default(20_000),
  /** How long to wait for a stage that has no replica, before the run fails. */
  patienceMs: z.int().min(100).default(600_000),
});

export type RunConfig = z.infer<typeof runConfigSchema>;

export interface StagePlan {
  name: string;
  from: number;
  to: number;
}

/** Throws `usage` naming each key that is wrong. */
export function parseRunConfig(value: unknown): RunConfig {
  const parsed = runConfigSchema.safeParse(value ?? {});
  if (parsed.success) {
    if (parsed.data.microbatch > parsed.data.batch)
      throw usage(`microbatch ${parsed.data.microbatch} is larger than batch ${parsed.data.batch}`);
    planStages(parsed.data);
    return parsed.data;
  }
  throw usage(
    parsed.error.issues
      .slice(0, 5)
      .map((issue) => `${issue.path.join('.') || 'the document'}: ${issue.message}`)
      .join('; '),
  );
}

/** Which layers each stage has; layers without a number are shared out evenly, the first stages getting the odd ones. */
export function planStages(config: RunConfig): StagePlan[] {
  const total = layerCount(config.model);
  const names = config.stages.map((stage) => stage.name);
  if (new Set(names).size !== names.length) throw usage(`stages: a name occurs twice in ${names.join(', ')}`);
  const given = config.stages.reduce((sum, stage) => sum + (stage.layers ?? 0), 0);
  const open = config.stages.filter((stage) => stage.layers === undefined).length;
  const rest = total - given;
  if (rest < open || (open === 0 && rest !== 0))
    throw new MeshError(
      'stage-shapes',
      `A model of ${total} layers cannot be split into ${names.length} stages with ${given} layers given.`,
      'Use fewer stages, or give each stage at least one layer.',
    );
  let shared = 0;
  const counts = config.stages.map(
    (stage) => stage.layers ?? Math.floor(rest / open) + (shared++ < rest % open ? 1 : 0),
  );
  return splitLayers(config.model, counts).map((span, i) => ({ name: names[i] ?? '', ...span }));
}

/** The customary names: front/back, head/body/tail, head/body1/body2/tail and so on. */
export function stageNames(count: number): string[] {
  if (count === 1) return ['whole'];
  if (count === 2) return ['front', 'back'];
  if (count === 3) return ['head', 'body', 'tail'];
  return ['head', ...Array.from({ length: count - 2 }, (_, i) => `body${i + 1}`), 'tail'];
}

const usage = (what: string): MeshError =>
  new MeshError(
    'usage',
    `The run's configuration is wrong: ${what}.`,
    'Correct the file; `node node/train.ts --help` shows an example.',
  );
