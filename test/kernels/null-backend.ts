// Compiles every kernel at every specialisation, generated ones included, on Dawn's null backend: the whole front end, no GPU, milliseconds.
import { create, globals } from 'webgpu';
import { platform } from '../../node/platform.ts';
import { toMeshError } from '../../runtime/errors.ts';
import { kernelNames, kernelTable, type KernelInfo, type KernelName } from '../../runtime/gpu/kernel-table.ts';
import { generate } from '../../runtime/gpu/matmul/generate.ts';
import { everyMatmul } from '../../runtime/gpu/matmul/variants.ts';
import { Pipelines } from '../../runtime/gpu/pipelines.ts';

// Held for as long as the process runs: a collected instance takes its devices down with it.
const instance = create(['backend=null']);

/** Failures as `kernels/x.wgsl:line:col message` or `generated/x:line:col message`; none is success. */
export async function checkKernels(
  source: (name: string) => string = (name) => platform.kernelSource(name),
): Promise<string[]> {
  Object.assign(globalThis, globals);
  const adapter = await instance.requestAdapter();
  if (adapter === null) return ['kernels/:1:1 Dawn has no null backend here'];
  const wanted = new Set<GPUFeatureName>(['subgroups', ...kernelNames.flatMap((kernel) => featuresOf(kernel))]);
  const device = await adapter.requestDevice({ requiredFeatures: [...wanted] });
  const failures: string[] = [];
  try {
    const pipelines = new Pipelines(device, source);
    for (const kernel of kernelNames) {
      const info: KernelInfo = kernelTable[kernel];
      for (const overrides of info.variants) {
        await pipelines.compile([{ kernel, overrides }]).catch((cause: unknown) => {
          failures.push(toMeshError(cause).message);
        });
      }
    }
    failures.push(...(await generatedFailures(new Pipelines(device, source))));
    const listed = new Set<string>(kernelNames);
    for (const name of platform.kernelNames())
      if (!listed.has(name)) failures.push(`kernels/${name}.wgsl:1:1 is not in runtime/gpu/kernel-table.ts`);
  } finally {
    device.destroy();
  }
  return failures;
}

/** F0, F1 and F4 of the products; gpu-tile.test.ts has those whose features only an experimental device has. */
async function generatedFailures(pipelines: Pipelines): Promise<string[]> {
  const kernels = everyMatmul().map(({ variant, tiling }) => generate(variant, tiling));
  const outcomes = await Promise.allSettled(kernels.map((generated) => pipelines.compile([{ generated }])));
  return outcomes.flatMap((outcome) => (outcome.status === 'rejected' ? [toMeshError(outcome.reason).message] : []));
}

const featuresOf = (kernel: KernelName): readonly GPUFeatureName[] => {
  const info: KernelInfo = kernelTable[kernel];
  return info.features ?? [];
};
