// A run's configuration: one document, every key checked, every default stated here.
import { z } from 'zod';
import { averageSpecSchema } from '../average-spec.ts';
import { optimizerSpecSchema } from '../compute.ts';
import { isLanguage, modelSpecSchema } from '../model-spec.ts';
import { MeshError } from '../errors.ts';
import { layerCount, splitLayers, stageInfo } from '../model/spec.ts';
import { textSpecSchema } from '../text/text-spec.ts';
import { datasetSpecSchema } from './dataset-spec.ts';
import { contextOf, expectKind, isText, isVocabularyOpen, withoutGaps } from './language.ts';
import { scheduleSpecSchema } from './learning-rate.ts';
import { wireFormatSchema } from '../wire/activation-codec.ts';
import { runIdSchema, stageNameSchema } from '../wire/ids.ts';

const stageSchema = z.union([
  stageNameSchema.transform((name) => ({ name, layers: undefined as number | undefined })),
  z.strictObject({ name: stageNameSchema, layers: z.int().min(1).optional() }),
]);

const fields = z.strictObject({
  /** Shown in the directory and the event log. */
  run: runIdSchema.optional(),
  /** Which model definition and which lineage of weights: the second and fourth field of the stages' UIDs. */
  version: z.int().min(0).default(0),
  subversion: z.int().min(0).default(0),
  /** Of a language model, `vocab_size` may be left out (then the tokenizer's), and so may its positions (then data.contextLength). */
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
  /** Labelled images, or text. */
  data: z.union([datasetSpecSchema, textSpecSchema]).default('mnist'),
  /** Rows to an optimizer step, and to a forward pass. */
  batch: z.int().min(1).max(1_000_000).default(128),
  microbatch: z.int().min(1).max(1_000_000).default(32),
  epochs: z.int().min(1).max(100_000).default(8),
  /** Ends the run early, after this many steps. */
  maxSteps: z.int().min(1).optional(),
  optimizer: optimizerSpecSchema.default({ name: 'sgd', lr: 0.02, momentum: 0.9, weightDecay: 0 }),
  /** How the learning rate goes over the steps of the run; constant if absent. Async: by the plan's step of a stage's newest microbatch. */
  schedule: scheduleSpecSchema.optional(),
  /** Largest norm of a step's gradient over the whole model; async: over one stage, because each steps by itself. */
  clip: z.number().positive().optional(),
  /** How weights are stored where products read them, and kept activations; f32 if absent. */
  precision: z.enum(['f32', 'bf16', 'f16']).optional(),
  /**
   * What the loss is multiplied by on its way back, in sync mode. `dynamic` (the default of f16): from 4096, halved where a gradient is not
   * finite, and the step tried again; doubled after 200 good ones.
   */
  lossScale: z.union([z.literal('dynamic'), z.number().positive()]).optional(),
  /** Keep only the inputs of layers for the backward pass, and compute the rest again. */
  recompute: z.boolean().optional(),
  seed: z.int().min(0).default(1),
  /** Microbatches that one trainer has under way. */
  inflight: z.int().min(1).max(64).default(2),
  /** The schedule that a step comes close to (pipeline-schedule.ts says how close); it stands in for `inflight`. */
  pipeline: z.enum(['gpipe', '1f1b']).optional(),
  /** How activations and their gradients travel between stages: f32 if absent. Evaluation is always f32. */
  wire: wireFormatSchema.optional(),
  /** Async: an average of the replicas, or an exchange of low-communication training, after this many optimizer steps. */
  averageEvery: z.int().min(1).default(20),
  /** Async: how replicas of a stage are averaged; the mean of all of them if absent. */
  average: averageSpecSchema.optional(),
  /** Evaluate after this many steps, and at the end; after every epoch if absent. Async: after epochs only. */
  evalEvery: z.int().min(1).optional(),
  /** Rows of the held-out data that are evaluated: all of them if absent, of text the first 400 windows. */
  evalRows: z.int().min(1).optional(),
  /** Everything that is needed to go on, in `folder`: after `every` steps (async: after epochs) and at the end; the newest `keep`. */
  checkpoints: z
    .strictObject({
      folder: z.string().min(1),
      every: z.int().min(1).default(500),
      keep: z.int().min(1).default(3),
    })
    .optional(),
  /** A Hugging Face folder whose weights the run begins with; what is left out of `model` and data.tokenizer is the folder's. */
  start: z.string().min(1).optional(),
  /** Go on from this checkpoint, or from the newest in this folder. */
  resume: z.string().min(1).optional(),
  /** Text that the trained model writes at the end. */
  sample: z
    .strictObject({
      prompt: z.string().min(1).optional(),
      tokens: z.int().min(1).max(100_000).default(200),
      temperature: z.number().min(0).max(100).default(0.8),
      seed: z.int().min(0).default(1),
    })
    .optional(),
  /** For one microbatch, there and back. */
  deadlineMs: z.int().min(100).max(3_600_000).default(20_000),
  /** How long to wait for a stage that has no replica, before the run fails. */
  patienceMs: z.int().min(100).default(600_000),
});

export const runConfigSchema = z.preprocess(withoutGaps, fields);

export type RunConfig = z.infer<typeof fields> & {
  /** Only in memory: the vocabulary's size is not known before the tokenizer is. */
  isVocabularyOpen?: true;
};

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
    expectFit(parsed.data);
    return { ...parsed.data, ...(isVocabularyOpen(value) ? { isVocabularyOpen: true } : {}) };
  }
  throw usage(
    parsed.error.issues
      .slice(0, 5)
      .map((issue) => `${issue.path.join('.') || 'the document'}: ${issue.message}`)
      .join('; '),
  );
}

/** Throws `usage` or `stage-shapes` for keys that are right by themselves and do not go together. */
function expectFit(config: RunConfig): void {
  const { model, data, mode, lossScale, sample, stages } = config;
  const plans = planStages(config);
  expectKind(model, data);
  if (isLanguage(model) && isText(data)) contextOf(model, data);
  else if (sample) throw usage('sample: only a language model writes text');
  if (lossScale !== undefined && mode === 'async')
    throw usage('lossScale: an async stage steps by itself and scales nothing; use mode: sync');
  if (config.average && mode === 'sync')
    throw usage('average: in sync mode replicas add up their gradients in every step; use mode: async');
  if (config.pipeline === 'gpipe' && mode === 'async')
    throw usage('pipeline: gpipe has all microbatches of a step under way, and async has no common step; use 1f1b');
  const [first] = plans;
  if (mode === 'async' && first && stageInfo(model, first.from, first.to).tied !== null)
    throw new MeshError(
      'usage',
      `The first and the last of ${stages.length} stages share the embedding, and in async mode each would step its own copy apart.`,
      'Use mode: sync, or one stage, or model.tie_word_embeddings: false.',
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
