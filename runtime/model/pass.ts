// What a layer is, and what it may use while it is recorded. Weights, gradients and buffers are the stage's.
import type { ParameterInfo } from '../compute.ts';
import type { Slice } from '../gpu/buffers.ts';
import type { Recorder } from '../gpu/gpu.ts';
import type { KernelUse } from '../gpu/kernel-table.ts';
import type { MatmulNeed, WeightFormat } from '../gpu/matmul.ts';

/** One recording: rows are B · T tokens, or B samples where T is 1. */
export interface Pass {
  recorder: Recorder;
  B: number;
  T: number;
  /** Ids of the tokens that came in, (B · T), on the first stage of a language model. */
  tokens: Int32Array<ArrayBuffer> | null;
  /** Seed of this microbatch's dropout; null: none. */
  dropout: number | null;
  /** Bytes that one binding can hold. */
  maxBinding: number;
  /** A buffer for the length of the operation; `isWindowed`: kernels will see only parts of it, so it may exceed one binding. */
  take(bytes: number, isWindowed?: boolean): Slice;
  /** Gives such a buffer back early. */
  give(slice: Slice): void;
  weight(name: string): Slice;
  /** A weight as products read it: in the stage's precision. */
  matrix(name: string): { slice: Slice; format: WeightFormat };
  gradient(name: string): Slice;
  /** An activation (count) as it waits for the backward pass: in the stage's precision, in a buffer of its own; `x` is given. */
  shelve(x: Slice, count: number): Slice;
  /** What was shelved, as f32 again; the shelved one is given, unless both are the same. */
  unshelve(kept: Slice, count: number): Slice;
  /** A table that the stage computes once, of `count` values, and keeps. */
  table(name: string, count: number, values: () => Float32Array<ArrayBuffer>): Slice;
}

export interface Layer {
  readonly parameters: ParameterInfo[];
  readonly uses: readonly KernelUse[];
  /** Its products, which the stage warms in its precision. */
  readonly needs?: readonly MatmulNeed[];
  /**
   * y (rows, out) of x (rows, in), and what the backward pass needs; with `keep` false nothing but y outlives the call. x is the
   * layer's from now on: to give or to save.
   */
  forward(pass: Pass, x: Slice, rows: number, keep: boolean): { y: Slice; saved: Slice[] };
  /**
   * dx (rows, in), or null where not needed, of dy (rows, out). Adds to the gradients. dy and what was saved are the layer's, to
   * give or to write over.
   */
  backward(pass: Pass, saved: readonly Slice[], dy: Slice, rows: number, needsDx: boolean): Slice | null;
}
