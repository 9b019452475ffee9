// One device: acquired with the adapter's own limits, watched for loss, its errors turned into MeshErrors.
// What runs on it is the business of gpu.ts.
import type { GpuDescription, MatrixConfig } from '../compute.ts';
import { MeshError } from '../errors.ts';
import type { Platform } from '../platform.ts';
import { Waiters } from '../waiters.ts';
import type { MatmulTuning } from './matmul/tuned.ts';

export type GpuHost = Pick<Platform, 'gpu' | 'gpuMissing' | 'kernelSource'> &
  Partial<Pick<Platform, 'tuningStore' | 'memoryBytes'>>;

/** Raised from WebGPU's defaults to what the adapter has. */
const RAISED = [
  'maxBufferSize',
  'maxStorageBufferBindingSize',
  'maxStorageBuffersPerShaderStage',
  'maxComputeWorkgroupStorageSize',
  'maxComputeInvocationsPerWorkgroup',
  'maxComputeWorkgroupSizeX',
  'maxComputeWorkgroupsPerDimension',
] as const satisfies (keyof GPUSupportedLimits)[];

/** Asked for where they are offered. The last two are drafts that the type of WebGPU's names does not have yet. */
const WANTED = ['shader-f16', 'subgroups', 'subgroup-size-control', 'chromium-experimental-subgroup-matrix'];

/** What is said of a device, and which tilings were measured to be fast on it. */
export interface DeviceDescription extends GpuDescription {
  tuning?: MatmulTuning;
}

export interface OpenDevice {
  device: GPUDevice;
  description: DeviceDescription;
  /** Operations in flight; all of them reject with `gpu-lost` when the device is lost. */
  waiters: Waiters;
  /** Errors that no scope caught: the next operation reports them. */
  stray: MeshError[];
}

export async function acquireDevice(host: GpuHost): Promise<OpenDevice> {
  const gpu = await host.gpu();
  const adapter = gpu === null ? null : await gpu.requestAdapter({ powerPreference: 'high-performance' });
  if (adapter === null) throw new MeshError('no-gpu', 'No GPU was found here.', host.gpuMissing());
  const requiredLimits = Object.fromEntries(RAISED.map((name) => [name, adapter.limits[name]]));
  const requiredFeatures = WANTED.filter((name) => adapter.features.has(name)) as GPUFeatureName[];
  let device: GPUDevice;
  try {
    device = await adapter.requestDevice({ label: 'skein', requiredLimits, requiredFeatures });
  } catch (cause) {
    throw new MeshError('no-gpu', 'The GPU was found, but gives no device.', host.gpuMissing(), { cause });
  }
  const waiters = new Waiters();
  void device.lost.then((info) => {
    const why = info.message === '' ? info.reason : info.message;
    waiters.die(
      new MeshError('gpu-lost', `The GPU was lost: ${why}`, 'Open the stage again, here or on another peer.'),
    );
  });
  const stray: MeshError[] = [];
  device.addEventListener('uncapturederror', ({ error }) => {
    stray.push(
      new MeshError(
        'kernel',
        `An earlier GPU operation was invalid: ${error.message}`,
        'Please report this with the name of your GPU.',
      ),
    );
  });
  const description = describe(adapter, device);
  const memoryBytes = host.memoryBytes?.(description.isSoftware) ?? null;
  return { device, description: memoryBytes === null ? description : { ...description, memoryBytes }, waiters, stray };
}

function describe(adapter: GPUAdapter, device: GPUDevice): GpuDescription {
  const { vendor, architecture, device: name, description, isFallbackAdapter } = adapter.info;
  const hasSubgroups = device.features.has('subgroups');
  const names = `${vendor} ${architecture} ${name} ${description}`;
  return {
    vendor,
    architecture,
    device: name,
    description,
    // Dawn does not call lavapipe a fallback adapter, so the name decides.
    isSoftware: isFallbackAdapter || /llvmpipe|lavapipe|swiftshader/i.test(names),
    features: [...device.features].sort(),
    subgroupMinSize: hasSubgroups ? adapter.info.subgroupMinSize : 0,
    subgroupMaxSize: hasSubgroups ? adapter.info.subgroupMaxSize : 0,
    maxStorageBufferBindingSize: device.limits.maxStorageBufferBindingSize,
    maxBufferSize: device.limits.maxBufferSize,
    isFallbackAdapter,
    workgroupBytes: device.limits.maxComputeWorkgroupStorageSize,
    matrixConfigs: matrixConfigs(adapter.info),
  };
}

/** The matrix units that an adapter tells of: a draft of WebGPU. */
function matrixConfigs(info: GPUAdapterInfo & { subgroupMatrixConfigs?: Iterable<MatrixConfig> }): MatrixConfig[] {
  return [...(info.subgroupMatrixConfigs ?? [])].map(({ componentType, resultType, M, N, K }) => ({
    componentType,
    resultType,
    M,
    N,
    K,
  }));
}

/**
 * Runs `body` inside error scopes. Scopes are a stack, so `body` is synchronous; the errors arrive later, in `errors`, which
 * rejects with `out-of-memory` or `kernel`.
 */
export function guarded<T>(device: GPUDevice, body: () => T): { value: T; errors: Promise<void> } {
  device.pushErrorScope('out-of-memory');
  device.pushErrorScope('validation');
  let value: T;
  try {
    value = body();
  } catch (cause) {
    popScopes(device).catch(() => {}); // what was thrown says more than what the scopes hold
    throw cause;
  }
  return { value, errors: popScopes(device) };
}

async function popScopes(device: GPUDevice): Promise<void> {
  const [validation, memory] = await Promise.all([device.popErrorScope(), device.popErrorScope()]);
  if (memory !== null)
    throw new MeshError(
      'out-of-memory',
      `The GPU is out of memory: ${memory.message}`,
      'Use a smaller batch or stage, or close what else uses this GPU.',
    );
  if (validation !== null)
    throw new MeshError(
      'kernel',
      `Invalid GPU operation: ${validation.message}`,
      'Please report this with the name of your GPU.',
    );
}
