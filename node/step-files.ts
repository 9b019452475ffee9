// What `skein step` reads: a model spec, its parameters, a batch. Whatever does not fit is refused here, by the name of its file.
import { readFile } from 'node:fs/promises';
import { z } from 'zod';
import { modelSpecSchema, type ModelSpec } from '../runtime/compute.ts';
import { MeshError, toMeshError } from '../runtime/errors.ts';
import { checkInput, checkTargets, IGNORED_TARGET } from '../runtime/model/inputs.ts';
import { layerCount, stageInfo } from '../runtime/model/spec.ts';
import { decode } from '../runtime/safetensors.ts';
import { i32Of, i32Tensor, sameShape, type Tensor, type Tensors } from '../runtime/tensor.ts';

export interface Batch {
  /** (B, in) f32 */
  x: Tensor;
  /** (B) i32 */
  y: Tensor;
  rows: number;
  /** Rows whose target is not −100. */
  counted: number;
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
      'It looks like {"family":"mlp","sizes":[784,64,10],"activation":"relu"}.',
      { cause },
    );
  }
}

/** Every parameter of the model and nothing else. */
export async function readWeights(file: string, model: ModelSpec): Promise<Tensors> {
  const weights = await readTensors(file);
  const { parameters } = stageInfo(model, 0, layerCount(model));
  const names = new Set(parameters.map(({ name }) => name));
  const missing = [...names].filter((name) => !weights.has(name));
  const unknown = [...weights.keys()].filter((name) => !names.has(name));
  if (missing.length > 0 || unknown.length > 0)
    throw new MeshError(
      'bad-file',
      `${file} does not fit the model: missing ${missing.join(', ') || 'nothing'}; unknown ${unknown.join(', ') || 'nothing'}.`,
      'Write every parameter of the spec and nothing else.',
    );
  for (const { name, shape } of parameters) {
    const tensor = weights.get(name);
    if (tensor?.dtype === 'f32' && sameShape(tensor.shape, shape)) continue;
    throw new MeshError(
      'bad-file',
      `${file}: ${name} is ${tensor?.dtype} (${tensor?.shape.join(', ')}), the model needs f32 (${shape.join(', ')}).`,
      'Write each weight as (out, in) and each bias as (out), in f32.',
    );
  }
  return weights;
}

/** Throws `not-finite` for an x that holds NaN. */
export async function readBatch(file: string, model: ModelSpec): Promise<Batch> {
  const tensors = await readTensors(file);
  const x = tensors.get('x');
  const given = tensors.get('y');
  if (!x || !given)
    throw new MeshError(
      'bad-file',
      `${file} holds ${[...tensors.keys()].join(', ') || 'nothing'}; x and y are needed.`,
      'Write x (B, in) f32 and y (B) i32.',
    );
  const y = given.dtype === 'i64' ? narrowed(given, file) : given;
  try {
    const rows = checkInput('x', x, [model.sizes[0] ?? 0]);
    checkTargets(y, rows, model.sizes.at(-1) ?? 0);
    const counted = i32Of(y).reduce((sum, target) => sum + (target === IGNORED_TARGET ? 0 : 1), 0);
    if (counted > 0) return { x, y, rows, counted };
  } catch (cause) {
    const error = toMeshError(cause);
    if (error.code === 'not-finite')
      throw new MeshError('not-finite', `${file}: ${error.message}`, 'Write finite numbers only.', { cause });
    throw new MeshError(
      'bad-file',
      `${file}: ${error.message}`,
      'Write x (B, in) f32 and y (B) i32 with a class, or -100, for each row.',
      { cause },
    );
  }
  throw new MeshError(
    'bad-file',
    `${file}: y has no target that counts.`,
    `Give at least one target that is not ${IGNORED_TARGET}.`,
  );
}

/** Targets may also be 64-bit integers, which is what PyTorch makes of them. */
function narrowed(y: Tensor, file: string): Tensor {
  const wide = new BigInt64Array(y.data.slice().buffer);
  const beyond = wide.find((target) => BigInt.asIntN(32, target) !== target);
  if (beyond === undefined) return i32Tensor(y.shape, Int32Array.from(wide, Number));
  throw new MeshError('bad-file', `${file}: target ${beyond} is no class.`, 'Classes count from 0.');
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
