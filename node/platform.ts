// The host of the runtime in Node: kernels from disk, WebGPU from Dawn, the compute worker on a thread, WebRTC from wrtc.
import { readFileSync, readdirSync } from 'node:fs';
import { totalmem } from 'node:os';
import { MeshError } from '../runtime/errors.ts';
import type { Platform } from '../runtime/platform.ts';
import { parseBytes } from './bytes.ts';
import { startComputeThread } from './compute-thread.ts';
import { tuningFile } from './tuning-file.ts';

const KERNELS = new URL('../kernels/', import.meta.url);

/** WGSL's drafts, subgroup matrices among them, and f16 on NVIDIA's Vulkan driver, where Dawn leaves it off. */
const DRAFTS = 'enable-dawn-features=allow_unsafe_apis,vulkan_enable_f16_on_nvidia';

/** Dawn's own switches, comma separated, e.g. SKEIN_DAWN=adapter=llvmpipe,backend=vulkan. Features named there replace ours. */
function dawnOptions(): string[] {
  const given = (process.env.SKEIN_DAWN ?? '').split(',').filter((option) => option !== '');
  return given.some((option) => option.startsWith('enable-dawn-features=')) ? given : [DRAFTS, ...given];
}

let gpuPromise: Promise<GPU | null> | undefined;
let loadFailure = '';

async function loadDawn(): Promise<GPU | null> {
  try {
    const { create, globals } = await import('webgpu');
    Object.assign(globalThis, globals);
    return create(dawnOptions());
  } catch (cause) {
    loadFailure = `Dawn could not be loaded: ${cause instanceof Error ? cause.message : String(cause)}\n`;
    return null;
  }
}

function driverAdvice(): string {
  switch (process.platform) {
    case 'linux':
      return [
        'Install a Vulkan driver for your GPU (NVIDIA: libvulkan1 and the driver; in containers NVIDIA_DRIVER_CAPABILITIES=all).',
        'To compute on the CPU instead, on Debian 12 (its own Mesa is too old):',
        "echo 'deb http://deb.debian.org/debian bookworm-backports main' > /etc/apt/sources.list.d/backports.list && apt-get update && apt-get install -y -t bookworm-backports mesa-vulkan-drivers libvulkan1",
      ].join('\n');
    case 'darwin':
      return 'Update to a macOS that supports Metal 2 (10.15 or later), and run outside a virtual machine without GPU.';
    case 'win32':
      return 'Install the newest driver of your GPU: Direct3D 12 is needed.';
    default:
      return `No WebGPU is available for ${process.platform}: use Linux, macOS or Windows, or join from a browser.`;
  }
}

export const platform: Platform = {
  host: 'node',

  kernelSource(name) {
    if (!/^[a-z0-9-]+$/.test(name)) throw unknownKernel(name);
    try {
      return readFileSync(new URL(`${name}.wgsl`, KERNELS), 'utf8');
    } catch (cause) {
      throw unknownKernel(name, cause);
    }
  },

  kernelNames: () =>
    readdirSync(KERNELS)
      .filter((file) => file.endsWith('.wgsl'))
      .map((file) => file.slice(0, -'.wgsl'.length))
      .sort(),

  gpu() {
    gpuPromise ??= loadDawn();
    return gpuPromise;
  },

  gpuMissing: () => loadFailure + driverAdvice(),

  tuningStore: () => tuningFile(),

  memoryBytes(isSoftware) {
    const given = process.env.SKEIN_MEMORY;
    if (given !== undefined && given !== '') return parseBytes(given);
    return isSoftware ? Math.floor(totalmem() / 2) : null;
  },

  startCompute: () => Promise.resolve(startComputeThread()),

  async webrtc() {
    const { default: wrtc } = (await import('wrtc')) as { default: object };
    return { wrtc };
  },
};

const unknownKernel = (name: string, cause?: unknown): MeshError =>
  new MeshError(
    'internal',
    `There is no kernels/${name}.wgsl.`,
    'Install the package again: its kernels/ folder is incomplete.',
    { cause },
  );
