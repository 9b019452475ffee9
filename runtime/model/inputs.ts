// Checks at the edges of a stage: what a stranger sent is believed only after this.
import type { StageInfo } from '../compute.ts';
import { MeshError } from '../errors.ts';
import { elements, i32Of, sameShape, type Tensor } from '../tensor.ts';

/** The label of a row that counts for nothing, as in PyTorch. */
export const IGNORED_TARGET = -100;

/** Sequences and tokens of an input; T is 1 where there are no sequences. */
export interface Extent {
  B: number;
  T: number;
}

type Wanted = Pick<StageInfo, 'inputShape' | 'inputDtype' | 'maxTokens'>;

/** The extent of an input or gradient of shape (B, …sample), where -1 is T. Throws `malformed` or `not-finite`. */
export function checkInput(name: string, tensor: Tensor, wanted: Wanted, extent?: Extent): Extent {
  const { inputShape: sample, inputDtype: dtype, maxTokens } = wanted;
  const [B = 0, ...rest] = tensor.shape;
  const T = sample[0] === -1 ? (rest[0] ?? 0) : 1;
  const isPositive = Number.isSafeInteger(B) && B >= 1 && Number.isSafeInteger(T) && T >= 1;
  const fits = rest.length === sample.length && rest.every((size, i) => size === (sample[i] === -1 ? T : sample[i]));
  const agrees = extent === undefined || (extent.B === B && extent.T === T);
  if (tensor.dtype !== dtype || !fits || !isPositive || !agrees) {
    const shape = sample.map((size) => (size === -1 ? (extent?.T ?? 'tokens') : size));
    throw malformed(
      `${name} is ${tensor.dtype} (${tensor.shape.join(', ')}), not ${dtype} (${[extent?.B ?? 'rows', ...shape].join(', ')})`,
    );
  }
  if (T > maxTokens) throw malformed(`${name} has ${T} tokens a sequence, and the model reads at most ${maxTokens}`);
  if (tensor.data.byteLength !== elements(tensor.shape) * 4)
    throw malformed(`${name} holds ${tensor.data.byteLength} bytes, its shape needs ${elements(tensor.shape) * 4}`);
  if (dtype === 'f32' && !isFinite32(tensor.data))
    throw new MeshError(
      'not-finite',
      `${name} holds NaN or infinity.`,
      'Discard this microbatch; its sender has diverged.',
    );
  return { B, T };
}

/** Throws `malformed` unless every token is in 0 … V - 1. */
export function checkTokens(x: Tensor, V: number): void {
  const bad = i32Of(x).find((token) => token < 0 || token >= V);
  if (bad !== undefined) throw malformed(`token ${bad} is not in 0 … ${V - 1}`);
}

/** Throws `malformed` unless y is i32 of this shape, each in 0 … classes - 1 or -100. */
export function checkTargets(y: Tensor, shape: readonly number[], classes: number): void {
  if (y.dtype !== 'i32' || !sameShape(y.shape, shape) || y.data.byteLength !== elements(shape) * 4)
    throw malformed(`the targets are ${y.dtype} (${y.shape.join(', ')}), not i32 (${shape.join(', ')})`);
  const bad = i32Of(y).find((target) => target !== IGNORED_TARGET && (target < 0 || target >= classes));
  if (bad !== undefined) throw malformed(`target ${bad} is not in 0 … ${classes - 1}, nor ${IGNORED_TARGET}`);
}

/** By bits: an exponent of all ones is NaN or infinity. */
export function isFinite32(data: Uint8Array<ArrayBuffer>): boolean {
  const bytes = data.byteOffset % 4 === 0 ? data : data.slice();
  const bits = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
  for (let i = 0; i < bits.length; i++) if (((bits[i] ?? 0) & 0x7f800000) === 0x7f800000) return false;
  return true;
}

const malformed = (what: string): MeshError =>
  new MeshError(
    'malformed',
    `The input does not fit this stage: ${what}.`,
    'Check that both peers run the same version of the model.',
  );
