// A Compute in this very process (no worker), and tensors by the handful.
import { installDawnPacing } from '../../node/dawn-pacing.ts';
import { platform } from '../../node/platform.ts';
import { createCompute, type ComputeEngine } from '../../runtime/compute-engine.ts';
import { optimizerSpecSchema, type Compute, type StageSpec } from '../../runtime/compute.ts';
import { modelSpecSchema } from '../../runtime/model-spec.ts';
import { MeshError, type MeshErrorCode } from '../../runtime/errors.ts';
import { layerCount, splitLayers } from '../../runtime/model/spec.ts';
import { f32Of, f32Tensor, i32Tensor, type Tensor, type Tensors } from '../../runtime/tensor.ts';
import { noise } from '../reference/kernels.ts';

installDawnPacing();

/** Devices that were handed out, so that a test can lose one. */
export const devices: GPUDevice[] = [];

export function testCompute(): Compute {
  const { compute } = createCompute({
    kernelSource: (name) => platform.kernelSource(name),
    gpuMissing: () => platform.gpuMissing(),
    async gpu() {
      const gpu = await platform.gpu();
      if (gpu === null) return null;
      const requestAdapter = async (options?: GPURequestAdapterOptions): Promise<GPUAdapter | null> => {
        const adapter = await gpu.requestAdapter(options);
        if (adapter === null) return null;
        return new Proxy(adapter, {
          get(target, name) {
            if (name === 'requestDevice')
              return async (descriptor?: GPUDeviceDescriptor) => {
                const device = await target.requestDevice(descriptor);
                devices.push(device);
                return device;
              };
            return Reflect.get(target, name, target) as unknown;
          },
        });
      };
      return { requestAdapter } as GPU;
    },
  });
  return compute;
}

export const specOf = (
  sizes: number[],
  options: Partial<Pick<StageSpec, 'seed' | 'from' | 'to'>> & { activation?: string; optimizer?: object } = {},
): StageSpec => {
  const model = modelSpecSchema.parse({
    family: 'mlp',
    sizes,
    ...(options.activation === undefined ? {} : { activation: options.activation }),
  });
  return {
    model,
    from: options.from ?? 0,
    to: options.to ?? layerCount(model),
    seed: options.seed ?? 7,
    optimizer: optimizerSpecSchema.parse(options.optimizer ?? { name: 'sgd', lr: 0.1 }),
  };
};

export const random = (shape: number[], seed: number): Tensor =>
  f32Tensor(
    shape,
    noise(
      shape.reduce((a, b) => a * b, 1),
      seed,
    ),
  );
export const targets = (...values: number[]): Tensor => i32Tensor([values.length], Int32Array.from(values));
export const copyOf = (tensor: Tensor): Tensor => ({ ...tensor, data: tensor.data.slice() });
export const copiesOf = (tensors: Tensors): Map<string, Tensor> =>
  new Map([...tensors].map(([name, tensor]) => [name, copyOf(tensor)]));
export const floats = (tensor: Tensor | null | undefined): Float32Array =>
  tensor === null || tensor === undefined ? new Float32Array(0) : f32Of(copyOf(tensor));

/** For assert.rejects: a MeshError with this code, and a message and fix for a person. */
export const meshError =
  (code: MeshErrorCode) =>
  (cause: unknown): boolean =>
    cause instanceof MeshError && cause.code === code && cause.message.length > 10 && cause.fix.length > 5;

/** A model cut into stages, driven like a pipeline. */
export class Pipeline {
  readonly compute: Compute;
  readonly stages: number[];

  private constructor(compute: Compute, stages: number[]) {
    this.compute = compute;
    this.stages = stages;
  }

  static async open(compute: Compute, spec: StageSpec, counts: number[]): Promise<Pipeline> {
    const stages: number[] = [];
    for (const span of splitLayers(spec.model, counts)) stages.push((await compute.open({ ...spec, ...span })).stage);
    return new Pipeline(compute, stages);
  }

  /** One microbatch forward and backward through all stages. */
  async train(
    key: string,
    x: Tensor,
    y: Tensor,
    scale: number,
    accumulate: boolean,
  ): Promise<{ loss: number; correct: number }> {
    let activation = x;
    for (const stage of this.stages.slice(0, -1))
      activation = await this.compute.forward(stage, key, activation, { keep: true });
    const { dx, ...result } = await this.compute.loss(this.stages.at(-1) ?? -1, activation, y, {
      scale,
      train: true,
      accumulate,
    });
    let gradient = dx;
    for (const stage of this.stages.slice(0, -1).reverse())
      gradient = gradient === null ? null : await this.compute.backward(stage, key, gradient, { accumulate });
    return result;
  }

  async step(): Promise<number> {
    let squares = 0;
    for (const stage of this.stages) squares += (await this.compute.step(stage)).gradientNorm ** 2;
    return Math.sqrt(squares);
  }

  async read(kind: 'weights' | 'gradients' | 'optimizer'): Promise<Map<string, Tensor>> {
    const all = new Map<string, Tensor>();
    for (const stage of this.stages)
      for (const [name, tensor] of await this.compute.read(stage, kind)) all.set(name, tensor);
    return all;
  }

  async write(kind: 'weights' | 'gradients', tensors: Tensors): Promise<void> {
    for (const stage of this.stages) {
      const mine = [...(await this.compute.read(stage, kind)).keys()];
      await this.compute.write(stage, kind, new Map([...tensors].filter(([name]) => mine.includes(name))));
    }
  }

  async close(): Promise<void> {
    for (const stage of this.stages) await this.compute.close(stage);
  }
}

/** A Compute on a device that says that a binding holds no more than `bytes`. */
export const narrowCompute = (bytes: number): ComputeEngine =>
  createCompute({
    kernelSource: (name) => platform.kernelSource(name),
    gpuMissing: () => platform.gpuMissing(),
    gpu: async () => {
      const gpu = await platform.gpu();
      return gpu === null ? null : narrowed(gpu, bytes);
    },
  });

function narrowed(gpu: GPU, bytes: number): GPU {
  const requestAdapter = async (options?: GPURequestAdapterOptions): Promise<GPUAdapter | null> => {
    const adapter = await gpu.requestAdapter(options);
    if (adapter === null) return null;
    return new Proxy(adapter, {
      get(target, name) {
        if (name !== 'requestDevice') return Reflect.get(target, name, target) as unknown;
        return async (descriptor?: GPUDeviceDescriptor) => {
          const device = await target.requestDevice(descriptor);
          const { maxBufferSize, maxComputeWorkgroupsPerDimension, maxComputeWorkgroupStorageSize } = device.limits;
          const limits = { maxBufferSize, maxComputeWorkgroupsPerDimension, maxComputeWorkgroupStorageSize };
          Object.defineProperty(device, 'limits', { value: { ...limits, maxStorageBufferBindingSize: bytes } });
          return device;
        };
      },
    });
  };
  return { requestAdapter } as GPU;
}
