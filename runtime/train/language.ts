// What a run of a language model needs to know of its configuration: its data, its context, whether it drops out. Pure.
import { MeshError } from '../errors.ts';
import { isLanguage, type LanguageSpec, type ModelSpec } from '../model-spec.ts';
import type { TextSpec } from '../text/text-spec.ts';
import type { DatasetSpec } from './dataset-spec.ts';

export const isText = (data: DatasetSpec | TextSpec): data is TextSpec => typeof data === 'object' && 'text' in data;

/** The key of a model that says how many tokens it can take. */
const positionsKey = (family: unknown): string | null =>
  family === 'gpt2' ? 'n_positions' : family === 'llama' ? 'max_position_embeddings' : null;

export const maxPositions = (model: LanguageSpec): number =>
  model.family === 'gpt2' ? model.n_positions : model.max_position_embeddings;

/** Tokens to a window of the training data. */
export function contextOf(model: LanguageSpec, data: TextSpec): number {
  const positions = maxPositions(model);
  const context = data.contextLength ?? positions;
  if (context <= positions) return context;
  throw new MeshError(
    'usage',
    `data.contextLength is ${context}, and the model takes ${positions} tokens.`,
    `Lower it, or raise model.${positionsKey(model.family) ?? ''}.`,
  );
}

/** Whether the document leaves the size of the vocabulary to the tokenizer. */
export function isVocabularyOpen(document: unknown): boolean {
  const model = fieldOf(document, 'model');
  const size = fieldOf(model, 'vocab_size');
  return positionsKey(fieldOf(model, 'family')) !== null && (size === undefined || size === 'auto');
}

/**
 * A model's `vocab_size` may be left out, or be `auto`, and is the tokenizer's then; its positions may be left out, and are
 * data.contextLength then. All else is left as it is.
 */
export function withoutGaps(document: unknown): unknown {
  const model = fieldOf(document, 'model');
  const key = positionsKey(fieldOf(model, 'family'));
  if (key === null) return document;
  const { vocab_size: size, ...rest } = model as Record<string, unknown>;
  const context = fieldOf(fieldOf(document, 'data'), 'contextLength');
  const positions = rest[key] === undefined && context !== undefined ? { [key]: context } : {};
  const vocabulary = size === undefined || size === 'auto' ? {} : { vocab_size: size };
  return { ...(document as object), model: { ...rest, ...vocabulary, ...positions } };
}

/** The model with the vocabulary of the tokenizer. Throws `usage` where it has fewer tokens than that. */
export function withVocabulary(model: LanguageSpec, isOpen: boolean, tokens: number): LanguageSpec {
  if (isOpen) return { ...model, vocab_size: tokens };
  if (model.vocab_size >= tokens) return model;
  throw new MeshError(
    'usage',
    `The model has ${model.vocab_size} tokens, and the tokenizer ${tokens}.`,
    "Leave model.vocab_size out to take the tokenizer's, or use the tokenizer that the model was made with.",
  );
}

export function hasDropout(model: ModelSpec): boolean {
  switch (model.family) {
    case 'mlp':
    case 'cnn':
      return false;
    case 'gpt2':
      return model.resid_pdrop > 0 || model.embd_pdrop > 0 || model.attn_pdrop > 0;
    case 'llama':
      return model.attention_dropout > 0;
    default:
      return model satisfies never;
  }
}

/** Throws `usage` where model and data are not of one kind. */
export function expectKind(model: ModelSpec, data: DatasetSpec | TextSpec): void {
  if (isLanguage(model) === isText(data)) return;
  throw isLanguage(model)
    ? new MeshError(
        'usage',
        `A ${model.family} model reads text, and data names none.`,
        'Give data: { text: …, tokenizer: … }.',
      )
    : new MeshError(
        'usage',
        `${model.family === 'mlp' ? 'An' : 'A'} ${model.family} model cannot read text.`,
        'Choose model: { family: gpt2, … } or llama, or other data.',
      );
}

const fieldOf = (value: unknown, key: string): unknown =>
  typeof value === 'object' && value !== null && Object.hasOwn(value, key)
    ? (value as Record<string, unknown>)[key]
    : undefined;
