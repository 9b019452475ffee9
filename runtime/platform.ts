// The one seam between the runtime and its host. Node and the browser each implement it in a file of their own
// (node/platform.ts, web/platform.ts); everything under runtime/ reaches the host through `#platform` and nothing else.
import type { Compute } from './compute.ts';

/** A compute worker that was started: its API, and the promise that settles when it dies. */
export interface ComputeWorker {
  compute: Compute;
  /** Resolves with the reason when the worker dies or is ended; calls in flight reject with `gpu-lost`. */
  died: Promise<string>;
  end(): Promise<void>;
}

export interface Platform {
  readonly host: 'node' | 'browser';
  /** WGSL text of kernels/<name>.wgsl. Throws `internal` for an unknown name. */
  kernelSource(name: string): string;
  kernelNames(): string[];
  /** WebGPU's entry, or null where there is none (the reason is in `gpuMissing`). */
  gpu(): Promise<GPU | null>;
  /** Why there is no GPU and what to do about it, for a person. */
  gpuMissing(): string;
  /** What the autotuner measured, kept beyond the process: see runtime/gpu/tuning-store.ts. */
  tuningStore(): {
    read(key: string): Promise<unknown>;
    write(key: string, entry: { name: string; gflops: number }): Promise<void>;
  };
  /** GPU memory that may be used, in bytes; null where nobody said. `isSoftware`: the GPU's memory is the machine's. */
  memoryBytes(isSoftware: boolean): number | null;
  /** Starts runtime/worker.ts in a worker of the host. */
  startCompute(): Promise<ComputeWorker>;
  /** The RTCPeerConnection family for simple-peer; undefined where the browser's own is used. */
  webrtc(): Promise<{ wrtc?: object }>;
}
