// Where a trained model goes: one safetensors file, or a Hugging Face folder with its tokenizer.
import { statSync } from 'node:fs';
import path from 'node:path';
import { MeshError } from '../runtime/errors.ts';
import { huggingFaceConfig, toHuggingFace } from '../runtime/model/huggingface.ts';
import { isLanguage, type ModelSpec } from '../runtime/model-spec.ts';
import type { Tensors } from '../runtime/tensor.ts';
import type { Tokenizer } from '../runtime/text/tokenizer.ts';
import { CONFIG_FILE } from './hf-folder.ts';
import { writeHfFolder } from './hf-write.ts';
import { expectWritable, saveModel } from './model-file.ts';

export interface ModelOut {
  format: 'safetensors' | 'huggingface';
  save(model: ModelSpec, tensors: Tensors, tokenizer: Tokenizer | null): Promise<string>;
}

/** A path that ends with a slash, or is a folder, is a folder. Throws `usage` for a model that folders cannot hold, `bad-file` where nothing can be written. */
export async function modelOut(out: string, model: ModelSpec): Promise<ModelOut> {
  if (!isFolder(out)) {
    await expectWritable(out);
    return { format: 'safetensors', save: (_, tensors) => saveModel(out, tensors) };
  }
  if (!isLanguage(model))
    throw new MeshError(
      'usage',
      `A Hugging Face folder holds language models, and this one is an ${model.family}.`,
      'Name a file: --out model.safetensors',
    );
  await expectWritable(path.join(out, CONFIG_FILE));
  return {
    format: 'huggingface',
    save: (final, tensors, tokenizer) => {
      if (!isLanguage(final))
        throw new MeshError('internal', 'The model changed.', 'This is a defect: please report it.');
      return writeHfFolder(out, {
        config: huggingFaceConfig(final),
        tensors: toHuggingFace(final, tensors),
        tokenizer,
      });
    },
  };
}

const isFolder = (out: string): boolean =>
  /[/\\]$/.test(out) || (statSync(out, { throwIfNoEntry: false })?.isDirectory() ?? false);
