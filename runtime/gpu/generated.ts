// A kernel whose text a generator wrote, beside those of kernels/*.wgsl: what it is bound to and how it is run. Not the generators.
import type { KernelLayout } from './kernel-layout.ts';

export interface GeneratedKernel extends KernelLayout {
  /** Unique: equal names mean equal code. Errors name it as `generated/<name>:line:col`. */
  readonly name: string;
  readonly code: string;
}

export interface GeneratedUse {
  readonly generated: GeneratedKernel;
}
