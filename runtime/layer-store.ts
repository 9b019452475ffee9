// The contract of a stage's parameter store, between the network side (main thread) and the compute side (worker). Training steps on the
// live weights; the shown ones are a snapshot with a version, which is served and merged: w_live += w_merged - w_shown, so that no step
// taken meanwhile is lost. Weights travel in units (runtime/model/units.ts), packed one after the other, each padded with zeros to a
// multiple of 64 values. Byte arrays given to a call are transferred. Every method rejects with a MeshError.
import { z } from 'zod';
import type { Tensors } from './tensor.ts';

/** f16: to 2⁻¹¹ of each value; int8, int4: to 1/254 or 1/14 of the largest of 64, what is lost being added the next time. */
export const layerFormatSchema = z.enum(['f32', 'f16', 'int8', 'int4']);
export type LayerFormat = z.infer<typeof layerFormatSchema>;

/** `outer`: slow weights and their momentum are kept too, for low-communication training. */
export const storeSpecSchema = z.strictObject({
  unitBytes: z
    .int()
    .min(64)
    .max(2 ** 26),
  outer: z.boolean().optional(),
});
export type StoreSpec = z.infer<typeof storeSpecSchema>;

/** Contributions, one's own among them, of which a trimmed mean can be taken. */
export const MOST_TRIMMED = 16;

/** Values of a packed list of units are counted in blocks. */
export const BLOCK = 64;
export const paddedTo = (count: number): number => Math.ceil(count / BLOCK) * BLOCK;

export type StoredKind = 'weights' | 'slow' | 'momentum';

export interface Snapshot {
  /** Grows with every change of what is shown. */
  version: number;
  /** By unit, of the whole stage: of the shown weights, and the running sum of the squared movement that training made of them. */
  squaredNorm: number[];
  progress: number[];
}

export interface Received {
  isFinite: boolean;
  squaredDistance: number;
  squaredNorm: number;
}

/** A unit moves to w + Σ coefficient · (part - w); with `trim` to the trimmed mean over itself and up to 15 parts, coefficients aside. */
export interface StoreMix {
  unit: number;
  from: { part: number; coefficient: number }[];
  trim?: number;
}

export interface OuterStep {
  units: number[];
  /** Outer gradients, each of exactly these units; with `trim` their trimmed mean counts, coefficients aside. */
  gradients: { part: number; coefficient: number }[];
  trim?: number;
  rate: number;
  momentum: number;
  /** NoLoCo: the partner's slow weights, and how strongly both are drawn to their mean. */
  partner?: { part: number; pull: number };
}

export interface LayerStore {
  /** Shows the live weights, of all units or of these, and measures. Rejects `not-finite` where they are. */
  snapshot(stage: number, units?: readonly number[]): Promise<Snapshot>;
  /** Tensors `data` and, of int8 and int4, `scale`; `progress` of these units at that version. */
  serve(
    stage: number,
    request: { kind: StoredKind; units: readonly number[]; format: LayerFormat },
  ): Promise<{ version: number; progress: number[]; tensors: Tensors }>;
  /** What `serve` gave elsewhere, kept as a part until `drop`, and compared with the shown weights. Rejects `malformed`. */
  receive(
    stage: number,
    request: { units: readonly number[]; format: LayerFormat },
    tensors: Tensors,
  ): Promise<{ part: number; units: Received[] }>;
  merge(stage: number, mixes: readonly StoreMix[]): Promise<{ version: number }>;
  drop(stage: number, parts: readonly number[]): Promise<void>;
  /** Slow minus shown weights, as a peer gets them: `serve`'s tensors. */
  outerGradient(stage: number, units: readonly number[], format: LayerFormat): Promise<Tensors>;
  outerStep(stage: number, step: OuterStep): Promise<{ version: number }>;
  /** Takes over what another store served, f32: `weights` replace live, shown and slow ones. Rejects `not-finite`, `malformed`. */
  load(stage: number, request: { kind: StoredKind; units: readonly number[] }, tensors: Tensors): Promise<void>;
}
