// Checks at the edges of a stage: what a stranger sent is believed only after this.
import { MeshError } from '../errors.ts';
import { elements, i32Of, type Tensor } from '../tensor.ts';

/** The label of a row that counts for nothing, as in PyTorch. */
export const IGNORED_TARGET = -100;

/** Returns the rows of an activation or gradient of shape (rows, …sample). Throws `malformed` or `not-finite`. */
export function checkInput(name: string, tensor: Tensor, sample: readonly number[], wantedRows?: number): number {
  const [rows = 0, ...rest] = tensor.shape;
  const fits = rest.length === sample.length && rest.every((size, i) => size === sample[i]);
  const wanted = wantedRows ?? (Number.isSafeInteger(rows) && rows >= 1 ? rows : 1);
  if (tensor.dtype !== 'f32' || !fits || rows !== wanted)
    throw malformed(
      `${name} is ${tensor.dtype} (${tensor.shape.join(', ')}), not f32 (${wantedRows ?? 'rows'}, ${sample.join(', ')})`,
    );
  if (tensor.data.byteLength !== elements(tensor.shape) * 4)
    throw malformed(`${name} holds ${tensor.data.byteLength} bytes, its shape needs ${elements(tensor.shape) * 4}`);
  if (!isFinite32(tensor.data))
    throw new MeshError(
      'not-finite',
      `${name} holds NaN or infinity.`,
      'Discard this microbatch; its sender has diverged.',
    );
  return rows;
}

/** Throws `malformed` unless y is (rows) i32, each in 0 … classes - 1 or -100. */
export function checkTargets(y: Tensor, rows: number, classes: number): void {
  if (y.dtype !== 'i32' || y.shape.length !== 1 || y.shape[0] !== rows || y.data.byteLength !== rows * 4)
    throw malformed(`the targets are ${y.dtype} (${y.shape.join(', ')}), not i32 (${rows})`);
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
