// onnxruntime-web on WebGPU: a model of one MatMul, inputs and outputs on the GPU. It trains nothing.
import type { Contender } from './measure.ts';
import { onnxMatmul } from './onnx-matmul.ts';

// Of the peer's API, what is used here; the package is not there when this file is checked.
interface OrtTensor {
  getData(releaseData?: boolean): Promise<ArrayLike<number>>;
  dispose(): void;
}
interface OrtSession {
  run(feeds: Record<string, OrtTensor>): Promise<Record<string, OrtTensor>>;
  release(): Promise<void>;
}
interface Ort {
  env: { wasm: { wasmPaths: string }; webgpu: { device: GPUDevice | Promise<GPUDevice> } };
  InferenceSession: { create(model: Uint8Array, options: object): Promise<OrtSession> };
  Tensor: { fromGpuBuffer(buffer: GPUBuffer, options: { dataType: 'float32'; dims: number[] }): OrtTensor };
}

const BASE = '/peers/onnxruntime-web/dist/';

export async function ort(device: string): Promise<Contender> {
  const peer = (await import(/* @vite-ignore */ `${BASE}ort.webgpu.bundle.min.mjs`)) as Ort;
  peer.env.wasm.wasmPaths = new URL(BASE, location.href).href;
  return {
    device,
    isTransposed: false,
    async matmul(size, a, b) {
      const session = await peer.InferenceSession.create(onnxMatmul(size), {
        executionProviders: ['webgpu'],
        preferredOutputLocation: 'gpu-buffer',
      });
      const gpu = await peer.env.webgpu.device;
      const upload = (values: Float32Array<ArrayBuffer>): OrtTensor => {
        const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
        const buffer = gpu.createBuffer({ size: values.byteLength, usage });
        gpu.queue.writeBuffer(buffer, 0, values);
        return peer.Tensor.fromGpuBuffer(buffer, { dataType: 'float32', dims: [size, size] });
      };
      const feeds = { a: upload(a), b: upload(b) };
      let last: OrtTensor | undefined;
      return {
        async run(times) {
          for (let i = 0; i < times; i++) {
            last?.dispose();
            last = (await session.run(feeds))['y'];
          }
          await gpu.queue.onSubmittedWorkDone();
        },
        result: () => last?.getData() ?? Promise.resolve([]),
        async end() {
          last?.dispose();
          await session.release();
        },
      };
    },
    end() {},
  };
}
