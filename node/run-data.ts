// The data of a run, loaded: labelled images or text. Of a language model also its tokenizer, and what only that can tell of the model.
import { createHash } from 'node:crypto';
import { MeshError } from '../runtime/errors.ts';
import { isLanguage, type ClassifierSpec, type LanguageSpec } from '../runtime/model-spec.ts';
import { samplesOf } from '../runtime/model/spec.ts';
import type { TextSpec } from '../runtime/text/text-spec.ts';
import type { Tokenizer } from '../runtime/text/tokenizer.ts';
import type { RunFile } from '../runtime/train/checkpoint.ts';
import type { RunData } from '../runtime/train/client.ts';
import type { RunConfig } from '../runtime/train/config.ts';
import { batch, epochOrder } from '../runtime/train/data.ts';
import type { DatasetSpec } from '../runtime/train/dataset-spec.ts';
import { contextOf, expectKind, isText, withVocabulary } from '../runtime/train/language.ts';
import { expectSamples } from '../runtime/train/samples.ts';
import { loadDataset } from './datasets.ts';
import { loadText, textRun } from './text-data.ts';
import { tokenizerText } from './tokenizer-files.ts';

export interface PreparedRun {
  /** With nothing left open. */
  config: RunConfig;
  data: RunData;
  /** Of a language model. */
  tokenizer: Tokenizer | null;
}

export async function prepareRun(config: RunConfig, signal?: AbortSignal): Promise<PreparedRun> {
  const { model, data } = config;
  if (isLanguage(model) && isText(data)) return prepareText(config, model, data, signal);
  if (!isLanguage(model) && !isText(data))
    return { config, data: await labelled(config, model, data, signal), tokenizer: null };
  expectKind(model, data);
  throw new MeshError('internal', 'The data fits no model.', 'This is a defect: please report it.');
}

export const loadRunData = async (config: RunConfig, signal?: AbortSignal): Promise<RunData> =>
  (await prepareRun(config, signal)).data;

async function prepareText(
  given: RunConfig,
  model: LanguageSpec,
  data: TextSpec,
  signal?: AbortSignal,
): Promise<PreparedRun> {
  const { isVocabularyOpen = false, ...config } = given;
  const contextLength = contextOf(model, data);
  const loaded = await loadText(data, signal ? { signal } : {});
  return {
    config: { ...config, model: withVocabulary(model, isVocabularyOpen, loaded.tokenizer.vocabularySize) },
    data: { kind: 'tokens', targetsPerRow: contextLength, ...textRun(loaded, contextLength, config.seed) },
    tokenizer: loaded.tokenizer,
  };
}

async function labelled(
  { seed }: RunConfig,
  model: ClassifierSpec,
  data: DatasetSpec,
  signal?: AbortSignal,
): Promise<RunData> {
  const { train: training, test } = await loadDataset(data, signal);
  expectSamples(model, training);
  return {
    kind: 'classes',
    train: {
      rows: training.rows,
      batch: (rows) => batch(training, rows),
      order: (epoch) => epochOrder(training.rows, seed, epoch),
    },
    test: { rows: test.rows, batch: (rows) => batch(test, rows) },
    classes: samplesOf(model).classes,
    targetsPerRow: 1,
  };
}

/** How a checkpoint names the tokenizer that its model was trained with. */
export const tokenizerReference = (config: RunConfig, tokenizer: Tokenizer | null): RunFile['tokenizer'] =>
  tokenizer && isText(config.data)
    ? { of: config.data.tokenizer, sha256: createHash('sha256').update(tokenizerText(tokenizer)).digest('hex') }
    : null;
