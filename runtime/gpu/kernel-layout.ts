// How any kernel is bound and run, whether a file of kernels/ or generated text: its layout, and its sizes in memory.

type Scalar = 'u32' | 'f32';

/** How a kernel is bound and run. */
export interface KernelLayout {
  /** Storage buffers that are written, bound first, and that are only read, bound next. Then one uniform holds the sizes. */
  readonly outputs: number;
  readonly inputs: number;
  /** Fields of `Sizes`, in order. */
  readonly sizes: Readonly<Record<string, Scalar>>;
  /** Invocations of a workgroup. */
  readonly workgroup: number;
  /** What the device must have been asked for. */
  readonly features?: readonly GPUFeatureName[];
}

/** Explicit layout entries: what the null-backend check holds the WGSL against. The sizes move by dynamic offset. */
export function layoutEntries(layout: KernelLayout): GPUBindGroupLayoutEntry[] {
  const entries: GPUBindGroupLayoutEntry[] = [];
  for (let i = 0; i < layout.outputs + layout.inputs; i++)
    entries.push({ binding: i, visibility: 4, buffer: { type: i < layout.outputs ? 'storage' : 'read-only-storage' } });
  entries.push({
    binding: entries.length,
    visibility: 4, // GPUShaderStage.COMPUTE
    buffer: { type: 'uniform', hasDynamicOffset: true, minBindingSize: sizesBytes(layout) },
  });
  return entries;
}

export const sizesBytes = (layout: KernelLayout): number => Object.keys(layout.sizes).length * 4;

/** Writes a kernel's sizes at `offset`, as its `Sizes` struct lies in memory. */
export function writeSizes(
  view: DataView,
  offset: number,
  layout: KernelLayout,
  sizes: Readonly<Record<string, number>>,
): void {
  let at = offset;
  for (const [name, type] of Object.entries(layout.sizes)) {
    const value = sizes[name] ?? Number.NaN;
    if (type === 'f32') view.setFloat32(at, value, true);
    else view.setUint32(at, value, true);
    at += 4;
  }
}
