// What a kernel of the matmul family computes (a variant) and how (a tiling). Types and names only: the text comes from the families.
import type { GeneratedKernel } from '../generated.ts';

/** nt: a (M, K) · bᵀ, b (N, K). nn: a (M, K) · b (K, N). tn: aᵀ · b, a (K, M), b (K, N). The result is (M, N). */
export type Product = 'nt' | 'nn' | 'tn';
export type WeightFormat = 'f32' | 'bf16' | 'f16';
export type FusedActivation = 'relu' | 'gelu' | 'gelu_new';

export interface MatmulShape {
  M: number;
  N: number;
  K: number;
}

/** Which operands are read and written four elements at a time; where false, one by one, with any size and stride. */
export interface Alignment {
  readonly a: boolean;
  readonly b: boolean;
  readonly out: boolean;
}

/** out = [out +] activation(product [+ bias]) [+ residual], bias (N), residual laid out as out. */
export interface MatmulVariant {
  readonly product: Product;
  /** Format of b: two 16-bit values a word, the first in the low half. */
  readonly weights: WeightFormat;
  readonly bias: boolean;
  readonly activation: FusedActivation | null;
  readonly residual: boolean;
  readonly accumulate: boolean;
  readonly alignment: Alignment;
}

/** Software drivers: one subgroup a workgroup; each lane owns `columns` columns of `rows` rows, and lanes share what they loaded of a. */
export interface SubgroupTiling {
  readonly family: 'f0';
  readonly subgroup: number;
  readonly rows: number;
  readonly columns: number;
}

/** Registers only: each invocation of 8 × 8 owns `columns` columns of `rows` rows. */
export interface RegisterTiling {
  readonly family: 'f1';
  readonly rows: number;
  readonly columns: number;
}

/** Matrix-vector, nt only: a workgroup sums `columns` columns of one row. `subgroup` 0: 32 invocations and workgroup memory. */
export interface VectorTiling {
  readonly family: 'f4';
  readonly subgroup: number;
  readonly columns: number;
}

/** Real GPUs, f32: a workgroup stages operands in workgroup memory, each invocation keeps `rows` × `columns` of `tileM` × `tileN`. */
export interface TileTiling {
  readonly family: 'f2';
  readonly tileM: number;
  readonly tileN: number;
  /** Steps of K that are staged at once. */
  readonly tileK: number;
  readonly rows: number;
  readonly columns: number;
  /** 2: the next tile is fetched while this one is multiplied, in twice the workgroup memory. */
  readonly stages: 1 | 2;
}

/** One of the adapter's `subgroupMatrixConfigs` with f16 operands and f32 sums. */
export interface MatrixUnit {
  readonly M: number;
  readonly N: number;
  readonly K: number;
}

/** Real GPUs, f16 operands and f32 sums: `subgroupsM` × `subgroupsN` subgroups share a tile and multiply it in matrix units. */
export interface MatrixTiling {
  readonly family: 'f3';
  readonly unit: MatrixUnit;
  /** Invocations of a subgroup: the adapter's largest. */
  readonly subgroup: number;
  readonly subgroupsM: number;
  readonly subgroupsN: number;
  readonly tileM: number;
  readonly tileN: number;
  readonly tileK: number;
  /** How `subgroupMatrixLoad` is told the order: an enumerant, as WGSL drafts have it, or a flag, as browsers had it first. */
  readonly order: 'enumerant' | 'flag';
  /** How f16 values reach workgroup memory: one by one, or four at a time through a view of it (WGSL's buffer_view). */
  readonly staging: 'single' | 'view';
  /** The subgroup's size is not fixed on this device: the kernel asks for it. */
  readonly isPinned: boolean;
}

export type Tiling = SubgroupTiling | RegisterTiling | VectorTiling | TileTiling | MatrixTiling;
export type Family = Tiling['family'];

export interface MatmulKernel extends GeneratedKernel {
  /** Workgroups for a shape. */
  readonly grid: (shape: MatmulShape) => number;
}

/** Of every kernel of the family. Strides and offsets are in elements; b is always dense. */
export const matmulSizes = {
  M: 'u32',
  N: 'u32',
  K: 'u32',
  aStride: 'u32',
  aOffset: 'u32',
  outStride: 'u32',
  outOffset: 'u32',
} as const;

export type MatmulSizes = { readonly [F in keyof typeof matmulSizes]: number };

/** The name of a kernel: its variant, then what the family adds, then how wide its loads are. */
export function kernelName(variant: MatmulVariant, tiling: string): string {
  const { product, weights, bias, activation, residual, accumulate, alignment } = variant;
  const words = [
    `matmul-${product}`,
    tiling,
    weights === 'f32' ? '' : weights,
    bias ? 'bias' : '',
    activation ?? '',
    residual ? 'residual' : '',
    accumulate ? 'accumulate' : '',
    `by-${alignment.a ? 4 : 1}${alignment.b ? 4 : 1}${alignment.out ? 4 : 1}`,
  ];
  return words.filter((word) => word !== '').join(' ');
}

export const storageInputs = ({ bias, residual }: MatmulVariant): number => 2 + Number(bias) + Number(residual);
