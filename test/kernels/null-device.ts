// A device of Dawn's null backend with the experimental features: compiles generated kernels of any family, runs nothing.
import { create, globals } from 'webgpu';
import { toMeshError } from '../../runtime/errors.ts';
import type { GeneratedKernel } from '../../runtime/gpu/generated.ts';
import { Pipelines } from '../../runtime/gpu/pipelines.ts';

// Held for as long as the process runs: a collected instance takes its devices down with it.
const instance = create(['backend=null', 'enable-dawn-features=allow_unsafe_apis']);

export interface NullDevice {
  readonly limits: GPUSupportedLimits;
  readonly subgroupMaxSize: number;
  readonly features: readonly string[];
  /** What is wrong with a kernel, or nothing. */
  problem(kernel: GeneratedKernel): Promise<string>;
}

export async function nullDevice(): Promise<NullDevice> {
  Object.assign(globalThis, globals);
  const adapter = await instance.requestAdapter();
  if (adapter === null) throw new Error('Dawn has no null backend here');
  const requiredFeatures = [
    'shader-f16',
    'subgroups',
    'subgroup-size-control',
    'chromium-experimental-subgroup-matrix',
  ].filter((feature) => adapter.features.has(feature)) as GPUFeatureName[];
  const device = await adapter.requestDevice({ requiredFeatures });
  const pipelines = new Pipelines(device, () => '');
  return {
    limits: device.limits,
    subgroupMaxSize: adapter.info.subgroupMaxSize,
    features: [...device.features],
    problem: (generated) =>
      pipelines.compile([{ generated }]).then(
        () => '',
        (cause: unknown) => toMeshError(cause).message,
      ),
  };
}
