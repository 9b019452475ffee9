// Compiles every kernel at every specialisation on Dawn's null backend: the whole front end, no GPU, milliseconds.
import { create, globals } from 'webgpu';
import { platform } from '../../node/platform.ts';
import { toMeshError } from '../../runtime/errors.ts';
import { kernelNames, kernelTable, type KernelInfo } from '../../runtime/gpu/kernel-table.ts';
import { Pipelines } from '../../runtime/gpu/pipelines.ts';

// Held for as long as the process runs: a collected instance takes its devices down with it.
const instance = create(['backend=null']);

/** Failures as `kernels/x.wgsl:line:col message`; none is success. */
export async function checkKernels(
  source: (name: string) => string = (name) => platform.kernelSource(name),
): Promise<string[]> {
  Object.assign(globalThis, globals);
  const adapter = await instance.requestAdapter();
  if (adapter === null) return ['kernels/:1:1 Dawn has no null backend here'];
  const device = await adapter.requestDevice();
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
    const listed = new Set<string>(kernelNames);
    for (const name of platform.kernelNames())
      if (!listed.has(name)) failures.push(`kernels/${name}.wgsl:1:1 is not in runtime/gpu/kernel-table.ts`);
  } finally {
    device.destroy();
  }
  return failures;
}
