// A run that begins with the weights of a Hugging Face folder: the folder's model, its tokenizer, and each stage's own weights.
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { MeshError } from '../runtime/errors.ts';
import { isTransposed, parameterName, specFromConfig, transposed } from '../runtime/model/huggingface.ts';
import { stageInfo } from '../runtime/model/spec.ts';
import { isLanguage, type LanguageSpec } from '../runtime/model-spec.ts';
import { sameShape, type Tensor } from '../runtime/tensor.ts';
import { planStages, type RunConfig } from '../runtime/train/config.ts';
import type { Resumed } from '../runtime/train/session-options.ts';
import { CONFIG_FILE, readHfFolder } from './hf-folder.ts';

/** The model that a folder's config.json describes. Throws `bad-file`. */
export function modelOfFolder(folder: string): LanguageSpec {
  const file = path.join(folder, CONFIG_FILE);
  let config: unknown;
  try {
    config = JSON.parse(readFileSync(file, 'utf8'));
  } catch (cause) {
    throw new MeshError(
      'bad-file',
      `${file} cannot be read: ${(cause as Error).message}.`,
      'Name a folder with config.json and model.safetensors; `skein fetch owner/name` gets one from the Hugging Face Hub.',
      { cause },
    );
  }
  return specFromConfig(config);
}

/** A run's document with what it leaves to the folder that it starts from. */
export function withFolder(document: unknown): unknown {
  const given = typeof document === 'object' && document !== null ? (document as Record<string, unknown>) : {};
  const { start, model, data } = given;
  if (typeof start !== 'string' || start === '') return document;
  const text = typeof data === 'object' && data !== null ? (data as Record<string, unknown>) : null;
  return {
    ...given,
    model: model ?? modelOfFolder(start),
    ...(text !== null && 'text' in text && text['tokenizer'] === undefined
      ? { data: { ...text, tokenizer: start } }
      : {}),
  };
}

/** The weights of a folder as the state that a run begins with. Throws `bad-file` where one is missing or of another shape. */
export async function startFrom(folder: string, config: RunConfig): Promise<Resumed> {
  const { model } = config;
  if (!isLanguage(model))
    throw new MeshError('usage', `A Hugging Face folder holds no ${model.family}.`, 'Leave `start` out.');
  const files = await readHfFolder(folder);
  const nameInFile = new Map([...files.tensors.keys()].map((name) => [parameterName(model, name), name]));
  const plans = planStages(config);
  const load = async (name: string, shape: readonly number[]): Promise<Tensor> => {
    const given = nameInFile.get(name);
    if (given === undefined)
      throw new MeshError(
        'bad-file',
        `${folder} has no tensor ${name}, which its config.json calls for.`,
        'Use config.json and weights of the same model.',
      );
    const tensor = await files.tensor(given);
    const turned = isTransposed(model, name) && tensor.shape.length === 2 ? transposed(tensor) : tensor;
    if (turned.dtype === 'f32' && sameShape(turned.shape, shape)) return turned;
    throw new MeshError(
      'bad-file',
      `${folder}: ${given} is ${tensor.dtype} (${tensor.shape.join(', ')}), and the model needs (${(isTransposed(model, name) ? [...shape].reverse() : shape).join(', ')}).`,
      'Use config.json and weights of the same model.',
    );
  };
  return {
    step: 0,
    lossScale: null,
    stateOf: async (stage) => {
      const { from, to } = plans[stage] ?? { from: 0, to: 0 };
      const state = new Map<string, Tensor>();
      for (const { name, shape } of stageInfo(model, from, to).parameters)
        state.set(`weights/${name}`, await load(name, shape));
      return state;
    },
  };
}
