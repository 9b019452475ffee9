// What a checkpoint holds and how its parts are named: enough to go on to the same losses. Pure; node/checkpoints.ts has the files.
//
//   step-000200-<first 12 hex digits of run.json's sha256>/
//     model.safetensors        weights of the whole model, by parameter name
//     optimizer.safetensors    moments named <parameter>.<moment>, and `step`
//     run.json                 everything else, with the sha256 of both files: what the folder's name stands for
//   latest.json                { "checkpoint": "step-000200-…" }
import { z } from 'zod';
import { MeshError } from '../errors.ts';
import { momentNames, stageInfo } from '../model/spec.ts';
import { i32Of, i32Tensor, type Tensor, type Tensors } from '../tensor.ts';
import type { RunConfig } from './config.ts';

export const RUN_FILE = 'run.json';
export const WEIGHTS_FILE = 'model.safetensors';
export const OPTIMIZER_FILE = 'optimizer.safetensors';
export const LATEST_FILE = 'latest.json';

const sha256 = z.string().regex(/^[0-9a-f]{64}$/);
export const runFileSchema = z.strictObject({
  format: z.literal(1),
  /** Steps that were taken, and those of the whole run: with the seed in `config`, the place in the schedule. */
  step: z.int().min(0),
  steps: z.int().min(1),
  config: z.record(z.string(), z.unknown()),
  /** What data.tokenizer says, and the sha256 of the tokenizer as tokenizer.json. */
  tokenizer: z.strictObject({ of: z.unknown(), sha256 }).nullable(),
  lossScale: z.strictObject({ scale: z.number().positive(), goodSteps: z.int().min(0) }).nullable(),
  files: z.strictObject({ [WEIGHTS_FILE]: sha256, [OPTIMIZER_FILE]: sha256 }),
});
export type RunFile = z.infer<typeof runFileSchema>;

/** A run at a step boundary. */
export interface Snapshot {
  step: number;
  steps: number;
  weights: Tensors;
  optimizer: Tensors;
  lossScale: RunFile['lossScale'];
}

const NAME = /^step-(\d{6,})-([0-9a-f]{12})$/;

export const checkpointName = (step: number, runFileSha256: string): string =>
  `step-${String(step).padStart(6, '0')}-${runFileSha256.slice(0, 12)}`;

/** Null for what is no checkpoint's name. */
export function parseCheckpointName(name: string): { step: number; hash: string } | null {
  const match = NAME.exec(name);
  return match ? { step: Number(match[1]), hash: match[2] ?? '' } : null;
}

/** Checkpoints among some names, the newest first. */
export const newestFirst = (names: readonly string[]): string[] =>
  names
    .flatMap((name) => {
      const parsed = parseCheckpointName(name);
      return parsed ? [{ name, step: parsed.step }] : [];
    })
    .sort((a, b) => b.step - a.step || (a.name < b.name ? -1 : 1))
    .map(({ name }) => name);

/** Those beyond the newest `keep`; never the one that was just written, wherever it stands. */
export const surplus = (names: readonly string[], keep: number, written: string): string[] =>
  newestFirst(names.filter((name) => name !== written)).slice(Math.max(0, keep - 1));

/** The configuration as it goes into the file: what it says of this very process and of where it came from is left out. */
export function savedConfig(config: RunConfig): Record<string, unknown> {
  const { run: _run, resume: _resume, isVocabularyOpen: _open, ...kept } = config;
  return JSON.parse(JSON.stringify(kept)) as Record<string, unknown>;
}

/**
 * One state from those of the stages, each with names `weights/…` and `optimizer/…`. What both ends have is the same at both. Stages that
 * step by themselves differ in their number of steps: the largest counts.
 */
export function mergeStates(states: readonly Tensors[]): {
  weights: Map<string, Tensor>;
  optimizer: Map<string, Tensor>;
} {
  const weights = new Map<string, Tensor>();
  const optimizer = new Map<string, Tensor>();
  let steps = 0;
  for (const [name, tensor] of states.flatMap((state) => [...state])) {
    if (name.startsWith('weights/')) weights.set(name.slice('weights/'.length), tensor);
    else if (name === 'optimizer/step') steps = Math.max(steps, i32Of(tensor)[0] ?? 0);
    else if (name.startsWith('optimizer/')) optimizer.set(name.slice('optimizer/'.length), tensor);
  }
  optimizer.set('step', i32Tensor([1], Int32Array.of(steps)));
  return { weights, optimizer };
}

/** What a stage needs of a checkpoint, however the run that wrote it was split: names in the files. */
export function namesOfStage(
  { model, optimizer }: Pick<RunConfig, 'model' | 'optimizer'>,
  span: { from: number; to: number },
): { weights: string[]; optimizer: string[] } {
  const weights = stageInfo(model, span.from, span.to).parameters.map(({ name }) => name);
  const moments = momentNames(optimizer).flatMap((moment) => weights.map((name) => `${name}.${moment}`));
  return { weights, optimizer: [...moments, 'step'] };
}

/** Keys in which a run that goes on may not differ, because its state would not fit. */
const BINDING = ['model'] as const;
/** Keys in which it may differ, and is not the same run then. */
const NOTABLE = [
  'data',
  'batch',
  'microbatch',
  'seed',
  'optimizer',
  'schedule',
  'clip',
  'precision',
  'wire',
  'mode',
] as const;

/**
 * Throws `usage` where the state of the checkpoint is not that of the run's model and optimizer. Returns the keys in which the two
 * differ otherwise: the run goes on, to other losses.
 */
export function compareConfigs(config: RunConfig, saved: Readonly<Record<string, unknown>>, name: string): string[] {
  const now = savedConfig(config);
  const differs = (key: string): boolean => canonical(now[key]) !== canonical(saved[key]);
  for (const key of BINDING)
    if (differs(key))
      throw new MeshError(
        'usage',
        `${name} holds ${key} ${canonical(saved[key])}; the run's is ${canonical(now[key])}.`,
        'Use the configuration that the checkpoint was written with: leave --config out, and it is taken from there.',
      );
  const moments = (value: unknown): string => {
    const { name: kind, momentum } = value as { name?: unknown; momentum?: unknown };
    return `${String(kind)}${kind === 'sgd' && momentum === 0 ? ' without momentum' : ''}`;
  };
  if (moments(now['optimizer']) !== moments(saved['optimizer'] ?? {}))
    throw new MeshError(
      'usage',
      `${name} holds the state of ${moments(saved['optimizer'] ?? {})}; the run's optimizer is ${moments(now['optimizer'])}.`,
      'Use the optimizer that the checkpoint was written with.',
    );
  return NOTABLE.filter(differs);
}

/** JSON with sorted keys. */
const canonical = (value: unknown): string =>
  JSON.stringify(value, (_, part: unknown) =>
    typeof part === 'object' && part !== null && !Array.isArray(part)
      ? Object.fromEntries(Object.entries(part).sort(([a], [b]) => (a < b ? -1 : 1)))
      : part,
  ) ?? 'nothing';
