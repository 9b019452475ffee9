// Between this project's parameters and those of a Hugging Face folder: the same names; GPT-2's Conv1D matrices lie (in, out)
// there and (out, in) here. Pure. Files are the host's business.
import { MeshError } from '../errors.ts';
import { isLanguage, modelSpecSchema, type LanguageSpec, type ModelSpec } from '../model-spec.ts';
import type { Tensor, Tensors } from '../tensor.ts';
import { dimensionsOf } from './language-spec.ts';
import { layerCount, stageInfo } from './spec.ts';

/** Matrices that GPT-2's files hold transposed. */
const CONV1D = /^transformer\.h\.\d+\.(attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)\.weight$/;

export const isTransposed = (model: ModelSpec, name: string): boolean => model.family === 'gpt2' && CONV1D.test(name);

/** (M, N) to (N, M), 4-byte elements. */
export function transposed(tensor: Tensor): Tensor {
  const [M = 0, N = 0] = tensor.shape;
  const from = new Uint32Array(tensor.data.slice().buffer);
  const to = new Uint32Array(M * N);
  // In blocks: a whole row of one is a whole column of the other, too far apart for a cache.
  const BLOCK = 32;
  for (let i0 = 0; i0 < M; i0 += BLOCK)
    for (let j0 = 0; j0 < N; j0 += BLOCK)
      for (let i = i0; i < Math.min(i0 + BLOCK, M); i++)
        for (let j = j0; j < Math.min(j0 + BLOCK, N); j++) to[j * M + i] = from[i * N + j] ?? 0;
  return { dtype: tensor.dtype, shape: [N, M], data: new Uint8Array(to.buffer) };
}

/** One parameter as a Hugging Face folder holds it. */
export const toHuggingFaceTensor = (model: ModelSpec, name: string, tensor: Tensor): Tensor =>
  isTransposed(model, name) ? transposed(tensor) : tensor;

/** Parameters by the same names, in the folder's layout. A tied head is not there twice. */
export const toHuggingFace = (model: ModelSpec, tensors: Tensors): Map<string, Tensor> =>
  new Map([...tensors].map(([name, tensor]) => [name, toHuggingFaceTensor(model, name, tensor)]));

/** Buffers that old versions saved beside the parameters. */
const BUFFERS = /(^|\.)(attn\.(bias|masked_bias)|rotary_emb\.inv_freq)$/;

/** Our name for a tensor of a file: with the prefix that files of the bare model lack. Null: it is no parameter. */
export function parameterName(model: LanguageSpec, name: string): string | null {
  if (BUFFERS.test(name)) return null;
  const prefix = model.family === 'gpt2' ? 'transformer.' : 'model.';
  const full = name.startsWith(prefix) || name.startsWith('lm_head.') ? name : prefix + name;
  // Files of a tied model may hold the head once more.
  return full === 'lm_head.weight' && model.tie_word_embeddings ? null : full;
}

/** Parameters of a folder, by our names and in our layout; buffers and a tied head's copy are left out. */
export function fromHuggingFace(model: ModelSpec, tensors: Tensors): Map<string, Tensor> {
  if (!isLanguage(model)) return new Map(tensors);
  const result = new Map<string, Tensor>();
  for (const [given, tensor] of tensors) {
    const name = parameterName(model, given);
    if (name === null) continue;
    if (result.has(name)) throw new MeshError('bad-file', `The file holds ${name} twice.`, 'Keep one of them.');
    // What is no f32 matrix is left as it is, for whoever checks it against the model to refuse.
    const isTurned = isTransposed(model, name) && tensor.shape.length === 2 && tensor.dtype === 'f32';
    result.set(name, isTurned ? transposed(tensor) : tensor);
  }
  return result;
}

/** Shapes of all parameters as a folder holds them. */
export const huggingFaceShapes = (model: ModelSpec): Map<string, readonly number[]> =>
  new Map(
    stageInfo(model, 0, layerCount(model)).parameters.map(({ name, shape }) => [
      name,
      isTransposed(model, name) ? [...shape].reverse() : shape,
    ]),
  );

/** A model's spec from a folder's config.json. Throws `bad-file` for an architecture that is not built. */
export function specFromConfig(config: unknown): LanguageSpec {
  const given = typeof config === 'object' && config !== null ? (config as Record<string, unknown>) : {};
  const family = given['model_type'];
  if (family !== 'gpt2' && family !== 'llama')
    throw new MeshError(
      'bad-file',
      `config.json is of model_type ${JSON.stringify(family ?? null)}.`,
      'Give a folder of a GPT-2 or Llama model.',
    );
  const parsed = modelSpecSchema.safeParse({ ...given, family });
  if (parsed.success && isLanguage(parsed.data)) return parsed.data;
  const issues = parsed.success ? [] : parsed.error.issues;
  throw new MeshError(
    'bad-file',
    `config.json does not fit: ${issues.map((issue) => `${issue.path.join('.')}: ${issue.message}`).join('; ')}.`,
    'Only what these families compute in their usual form is built.',
  );
}

/** What a folder's config.json says of a model. */
export function huggingFaceConfig(model: LanguageSpec): Record<string, unknown> {
  const common = { model_type: model.family, torch_dtype: 'float32', use_cache: true };
  if (model.family === 'gpt2') {
    const { family: _, bias, ...config } = model;
    // `bias` is no key of theirs, and needed only where it is not the default.
    return { architectures: ['GPT2LMHeadModel'], ...common, ...config, ...(bias ? {} : { bias }) };
  }
  const { family: _, ...config } = model;
  const { G, D } = dimensionsOf(model);
  return { architectures: ['LlamaForCausalLM'], ...common, ...config, num_key_value_heads: G, head_dim: D };
}
