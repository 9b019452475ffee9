// A GPU that keeps accounts and computes nothing: what runs on it takes and gives back the very buffers that it would on the real
// one, so the memory that something needs is known before it is begun. Nothing that it reads back means anything.
import type { GpuDescription } from '../compute.ts';
import type { OpenDevice } from './device.ts';
import { Waiters } from '../waiters.ts';

const nothing = (): void => {};

/** Only what runtime/gpu calls. */
export function rehearsalDevice(description: GpuDescription): OpenDevice {
  const pass = {
    setPipeline: nothing,
    setBindGroup: nothing,
    dispatchWorkgroups: nothing,
    end: nothing,
  };
  const encoder = {
    beginComputePass: () => pass,
    copyBufferToBuffer: nothing,
    clearBuffer: nothing,
    finish: () => ({}),
  };
  const device = {
    limits: {
      maxBufferSize: description.maxBufferSize,
      maxStorageBufferBindingSize: description.maxStorageBufferBindingSize,
      maxComputeWorkgroupsPerDimension: 65_535,
    },
    queue: { writeBuffer: nothing, submit: nothing },
    createBuffer: ({ size, usage }: GPUBufferDescriptor) => ({
      size,
      usage,
      mapState: 'mapped',
      destroy: nothing,
      unmap: nothing,
      mapAsync: () => Promise.resolve(),
      getMappedRange: (_offset: number, bytes: number) => new ArrayBuffer(bytes),
    }),
    createCommandEncoder: () => encoder,
    createBindGroup: () => ({}),
    createBindGroupLayout: () => ({}),
    createPipelineLayout: () => ({}),
    createShaderModule: () => ({ getCompilationInfo: () => Promise.resolve({ messages: [] }) }),
    createComputePipelineAsync: () => Promise.resolve({}),
    pushErrorScope: nothing,
    popErrorScope: () => Promise.resolve(null),
    destroy: nothing,
  };
  // A stand-in for a host object: the interface is the host's, and far larger than what is called here.
  return { device: device as unknown as GPUDevice, description, waiters: new Waiters(), stray: [] };
}
