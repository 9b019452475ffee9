// What `skein step` reads: a model spec, its parameters, a batch. Whatever does not fit is refused here, by the name of its file.
import { readFile } from 'node:fs/promises';
import { z } from 'zod';
import { modelSpecSchema, type ModelSpec } from '../runtime/model-spec.ts';
import { MeshError, toMeshError } from '../runtime/errors.ts';
import { isLanguage } from '../runtime/model-spec.ts';
import { fromHuggingFace, isTransposed, parameterName, toHuggingFaceTensor } from '../runtime/model/huggingface.ts';
import { checkInput, checkTargets, checkTokens, IGNORED_TARGET } from '../runtime/model/inputs.ts';
import { layerCount, stageInfo } from '../runtime/model/spec.ts';
import { decode } from '../runtime/safetensors.ts';
import { i32Of, i32Tensor, sameShape, type Tensor, type Tensors } from '../runtime/tensor.ts';

export interface Batch {
  /** (B, in) f32, or token ids (B, T) i32 */
  x: Tensor;
  /** (B) or (B, T) i32 */
  y: Tensor;
  rows: number;
  /** Targets that are not −100. */
  counted: number;
}

export interface Weights {
  /** By our names and in our layout. */
  tensors: Tensors;
  /** A parameter, or its gradient, as the file has it: its name and its layout. */
  asGiven(name: string, tensor: Tensor): [string, Tensor];
}

export async function readSpec(file: string): Promise<ModelSpec> {
  const text = await readBytes(file);
  try {
    return modelSpecSchema.parse(JSON.parse(new TextDecoder().decode(text)));
  } catch (cause) {
    const why =
      cause instanceof z.ZodError
        ? cause.issues.map((issue) => `${issue.path.join('.')}: ${issue.message}`).join('; ')
        : String((cause as Error).message);
    throw new MeshError(
      'bad-file',
      `${file} is no model spec: ${why}.`,
      'It looks like {"family":"mlp","sizes":[784,64,10],"activation":"relu"}, or {"family":"cnn", …}, or {"family":"gpt2", …} or {"family":"llama", …} with the keys of a Hugging Face config.json.',
      { cause },
    );
  }
}

/** Every parameter of the model and nothing else. */
export async function readWeights(file: string, model: ModelSpec): Promise<Weights> {
  const given = await readTensors(file);
  const weights = fromHuggingFace(model, given);
  const { parameters } = stageInfo(model, 0, layerCount(model));
  const wanted = new Set(parameters.map(({ name }) => name));
  const missing = [...wanted].filter((name) => !weights.has(name));
  const unknown = [...weights.keys()].filter((name) => !wanted.has(name));
  if (missing.length > 0 || unknown.length > 0)
    throw new MeshError(
      'bad-file',
      `${file} does not fit the model: missing ${few(missing)}; unknown ${few(unknown)}.`,
      'Write every parameter of the spec and nothing else.',
    );
  for (const { name, shape } of parameters) {
    const tensor = weights.get(name);
    if (tensor?.dtype === 'f32' && sameShape(tensor.shape, shape)) continue;
    const asFile = (dims: readonly number[]): string =>
      (isTransposed(model, name) ? [...dims].reverse() : dims).join(', ');
    throw new MeshError(
      'bad-file',
      `${file}: ${name} is ${tensor?.dtype} (${asFile(tensor?.shape ?? [])}), the model needs f32 (${asFile(shape)}).`,
      isLanguage(model)
        ? "Write each parameter in f32 as Hugging Face's model has it."
        : 'Write each weight as (out, in), of a convolution as (out, in, kernel, kernel), and each bias as (out), in f32.',
    );
  }
  const names = new Map([...given.keys()].map((name) => [isLanguage(model) ? parameterName(model, name) : name, name]));
  return {
    tensors: weights,
    asGiven: (name, tensor) => [names.get(name) ?? name, toHuggingFaceTensor(model, name, tensor)],
  };
}

/** Names for a message: of hundreds only the first. */
function few(names: readonly string[]): string {
  const shown = names.slice(0, 6);
  const more = names.length - shown.length;
  return (shown.join(', ') || 'nothing') + (more > 0 ? ` and ${more} more` : '');
}

/** Throws `not-finite` for an x that holds NaN. */
export async function readBatch(file: string, model: ModelSpec): Promise<Batch> {
  const tensors = await readTensors(file);
  const isText = isLanguage(model);
  const [inputs, targets, fix] = isText
    ? ['input_ids', 'labels', 'Write input_ids (B, T) i32 and labels (B, T) i32: a token, or -100, for each position.']
    : ['x', 'y', 'Write x (B, in) f32 and y (B) i32 with a class, or -100, for each row.'];
  const input = tensors.get(inputs);
  const given = tensors.get(targets);
  if (!input || !given)
    throw new MeshError(
      'bad-file',
      `${file} holds ${[...tensors.keys()].join(', ') || 'nothing'}; ${inputs} and ${targets} are needed.`,
      fix,
    );
  const x = input.dtype === 'i64' && isText ? narrowed(inputs, input, file) : input;
  const y = given.dtype === 'i64' ? narrowed(targets, given, file) : given;
  const info = stageInfo(model, 0, layerCount(model));
  try {
    const { B: rows, T } = checkInput(inputs, x, info);
    const classes = info.outputShape.at(-1) ?? 0;
    if (isText) checkTokens(x, classes);
    checkTargets(y, isText ? [rows, T] : [rows], classes);
    const counted = i32Of(y).reduce((sum, target) => sum + (target === IGNORED_TARGET ? 0 : 1), 0);
    if (counted > 0) return { x, y, rows, counted };
  } catch (cause) {
    const error = toMeshError(cause);
    if (error.code === 'not-finite')
      throw new MeshError('not-finite', `${file}: ${error.message}`, 'Write finite numbers only.', { cause });
    throw new MeshError('bad-file', `${file}: ${error.message}`, fix, { cause });
  }
  throw new MeshError(
    'bad-file',
    `${file}: ${targets} has no target that counts.`,
    `Give at least one target that is not ${IGNORED_TARGET}.`,
  );
}

/** Targets and tokens may also be 64-bit integers, which is what PyTorch makes of them. */
function narrowed(name: string, tensor: Tensor, file: string): Tensor {
  const wide = new BigInt64Array(tensor.data.slice().buffer);
  const beyond = wide.find((value) => BigInt.asIntN(32, value) !== value);
  if (beyond === undefined) return i32Tensor(tensor.shape, Int32Array.from(wide, Number));
  throw new MeshError(
    'bad-file',
    `${file}: ${name} holds ${beyond}, which is no 32-bit integer.`,
    'Classes and tokens count from 0.',
  );
}

async function readTensors(file: string): Promise<Map<string, Tensor>> {
  const bytes = await readBytes(file);
  try {
    return decode(bytes).tensors;
  } catch (cause) {
    throw new MeshError('bad-file', `${file}: ${toMeshError(cause).message}`, 'Give a safetensors file.', { cause });
  }
}

async function readBytes(file: string): Promise<Uint8Array<ArrayBuffer>> {
  try {
    return new Uint8Array(await readFile(file));
  } catch (cause) {
    throw new MeshError('bad-file', `${file} cannot be read: ${(cause as Error).message}.`, 'Check the path.', {
      cause,
    });
  }
}
