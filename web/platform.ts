// The host of the runtime in a browser: the browser's own WebGPU and WebRTC, a Web Worker. It has no kernels: compute-platform.ts does.
import { wrap } from 'comlink';
import { computeClient, type RemoteCompute } from '../runtime/compute-client.ts';
import { MeshError } from '../runtime/errors.ts';
import type { Platform } from '../runtime/platform.ts';
import { tuningStore } from './tuning-store.ts';

export const platform: Platform = {
  host: 'browser',

  kernelSource(name) {
    throw new MeshError('internal', `kernels/${name}.wgsl is not for a page's main thread.`, 'Ask the compute worker.');
  },

  kernelNames: () => [],

  gpu: () => Promise.resolve((navigator as { gpu?: GPU }).gpu ?? null),

  gpuMissing() {
    if (!globalThis.isSecureContext)
      return 'This page came over plain http, where browsers switch WebGPU off. Open it over https, or on the machine itself as http://localhost.';
    if (!('gpu' in navigator)) return 'This browser has no WebGPU. Use a current Chrome, Edge, Safari or Firefox.';
    return "WebGPU is there, but no GPU is offered: switch on hardware acceleration in the browser's settings, update the graphics driver, or see chrome://gpu.";
  },

  tuningStore,

  memoryBytes: () => null, // a page cannot know

  startCompute() {
    const worker = new Worker(new URL('./compute-worker.ts', import.meta.url), {
      type: 'module',
      name: 'skein-compute',
    });
    let settle: (reason: string) => void = () => {};
    const died = new Promise<string>((resolve) => {
      settle = resolve;
    });
    worker.addEventListener('error', (event) => {
      worker.terminate();
      settle(event.message === '' ? 'it could not be loaded' : event.message);
    });
    const compute = computeClient(wrap<RemoteCompute>(worker), died);
    return Promise.resolve({
      compute,
      died,
      end() {
        worker.terminate();
        settle('it was ended');
        return Promise.resolve();
      },
    });
  },

  webrtc: () => Promise.resolve({}),
};
