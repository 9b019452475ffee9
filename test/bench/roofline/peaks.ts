// What an adapter reaches at most, measured on itself: multiply-adds in registers, and memory. Kernels: peak-*.wgsl.
import { readFileSync } from 'node:fs';
import type { GeneratedKernel } from '../../../runtime/gpu/generated.ts';
import type { Gpu } from '../../../runtime/gpu/gpu.ts';
import { timed, type Pace } from './timed.ts';

export interface Peaks {
  /** 1e9 f32 operations a second; a multiply-add is two. */
  gflops: number;
  /** 1e9 bytes a second, the best of the ways below. */
  gigabytesPerSecond: number;
  /** A kernel that copies, the device's own copy (both: bytes read and written), and a kernel that reads. */
  copyKernel: number;
  copyCommand: number;
  readKernel: number;
}

const kernel = (name: string, sizes: GeneratedKernel['sizes']): GeneratedKernel => ({
  name,
  code: readFileSync(new URL(`../${name}.wgsl`, import.meta.url), 'utf8'),
  outputs: 1,
  inputs: 1,
  sizes,
  workgroup: 64,
});

const ROUNDS = 256;
/** As in peak-fma.wgsl. */
const OPERATIONS_A_ROUND = 2 * 16 * 10;
const BUFFER_BYTES = 512 * 2 ** 20;

export async function measurePeaks(gpu: Gpu, pace: Pace): Promise<Peaks> {
  const { isSoftware, maxStorageBufferBindingSize } = gpu.description;
  const groups = isSoftware ? 64 : 8192;
  const fma = kernel('peak-fma', { rounds: 'u32' });
  const fmaMs = await timed(
    gpu,
    {
      uses: [{ generated: fma }],
      buffers: [{ bytes: groups * 64 * 4 }, { bytes: 8 }],
      record: (recorder, at) => recorder.dispatchGenerated(fma, [at(0), at(1)], { rounds: ROUNDS }, groups),
    },
    pace,
  );
  const gflops = (groups * 64 * ROUNDS * OPERATIONS_A_ROUND) / fmaMs / 1e6;

  // A software driver has the caches of its processor, and memory that others want too.
  const bytes = Math.min(BUFFER_BYTES, Math.floor(maxStorageBufferBindingSize / 256) * 256);
  const rate = async (name: string, moved: number, output: number): Promise<number> => {
    const own = kernel(name, { fours: 'u32' });
    const strided = isSoftware ? 64 : 4096;
    const ms = await timed(
      gpu,
      {
        uses: [{ generated: own }],
        buffers: [{ bytes: Math.max(output, strided * 64 * 16) }, { bytes }],
        record: (recorder, at) => recorder.dispatchGenerated(own, [at(0), at(1)], { fours: bytes / 16 }, strided),
      },
      pace,
    );
    return moved / ms / 1e6;
  };
  const commandMs = await timed(
    gpu,
    { uses: [], buffers: [{ bytes }, { bytes }], record: (recorder, at) => recorder.copy(at(1), at(0), bytes) },
    pace,
  );
  const copyKernel = await rate('peak-copy', 2 * bytes, bytes);
  const readKernel = await rate('peak-read', bytes, 0);
  const copyCommand = (2 * bytes) / commandMs / 1e6;
  return {
    gflops,
    gigabytesPerSecond: Math.max(copyKernel, copyCommand, readKernel),
    copyKernel,
    copyCommand,
    readKernel,
  };
}
