// Compiled kernels of one device: compiled once each, asynchronously, with failures that name kernels/x.wgsl:line:col.
import { MeshError } from '../errors.ts';
import { layoutEntries, useKey, type KernelName, type KernelUse } from './kernel-table.ts';

export interface Pipeline {
  readonly key: string;
  readonly kernel: KernelName;
  readonly pipeline: GPUComputePipeline;
  readonly layout: GPUBindGroupLayout;
}

export type KernelSource = (name: string) => string;

export class Pipelines {
  readonly #device: GPUDevice;
  readonly #source: KernelSource;
  readonly #modules = new Map<KernelName, Promise<GPUShaderModule>>();
  readonly #layouts = new Map<KernelName, GPUBindGroupLayout>();
  readonly #compiling = new Map<string, Promise<Pipeline>>();
  readonly #ready = new Map<string, Pipeline>();

  constructor(device: GPUDevice, source: KernelSource) {
    this.#device = device;
    this.#source = source;
  }

  /** A compiled kernel. Throws `internal` where `compile` was not awaited before. */
  get(use: KernelUse): Pipeline {
    const pipeline = this.#ready.get(useKey(use));
    if (pipeline !== undefined) return pipeline;
    throw new MeshError(
      'internal',
      `Kernel ${useKey(use)} is used before it was compiled.`,
      'Please report this defect.',
    );
  }

  /** Compiles what is not compiled yet; resolves with the pipelines that are new. */
  async compile(uses: readonly KernelUse[]): Promise<Pipeline[]> {
    const fresh = uses.filter((use) => !this.#ready.has(useKey(use)));
    return Promise.all(fresh.map((use) => this.#compileOnce(use)));
  }

  #compileOnce(use: KernelUse): Promise<Pipeline> {
    const key = useKey(use);
    let promise = this.#compiling.get(key);
    if (promise === undefined) {
      promise = this.#compile(key, use).finally(() => this.#compiling.delete(key));
      this.#compiling.set(key, promise);
    }
    return promise;
  }

  async #compile(key: string, { kernel, overrides }: KernelUse): Promise<Pipeline> {
    const module = await this.#module(kernel);
    let layout = this.#layouts.get(kernel);
    if (layout === undefined) {
      layout = this.#device.createBindGroupLayout({ label: kernel, entries: layoutEntries(kernel) });
      this.#layouts.set(kernel, layout);
    }
    try {
      const pipeline = await this.#device.createComputePipelineAsync({
        label: key,
        layout: this.#device.createPipelineLayout({ bindGroupLayouts: [layout] }),
        compute: { module, entryPoint: 'main', constants: numeric(overrides) },
      });
      const made = { key, kernel, pipeline, layout };
      this.#ready.set(key, made);
      return made;
    } catch (cause) {
      throw kernelError(
        `kernels/${kernel}.wgsl:1:1 ${key}: ${cause instanceof Error ? cause.message : String(cause)}`,
        cause,
      );
    }
  }

  #module(kernel: KernelName): Promise<GPUShaderModule> {
    let module = this.#modules.get(kernel);
    if (module === undefined) {
      module = this.#createModule(kernel);
      this.#modules.set(kernel, module);
    }
    return module;
  }

  async #createModule(kernel: KernelName): Promise<GPUShaderModule> {
    this.#device.pushErrorScope('validation');
    const module = this.#device.createShaderModule({ label: kernel, code: this.#source(kernel) });
    const [info, error] = await Promise.all([module.getCompilationInfo(), this.#device.popErrorScope()]);
    const first = info.messages.find((message) => message.type === 'error');
    if (first !== undefined)
      throw kernelError(`kernels/${kernel}.wgsl:${first.lineNum}:${first.linePos} ${first.message}`);
    if (error !== null) throw kernelError(`kernels/${kernel}.wgsl:1:1 ${error.message}`);
    return module;
  }
}

const numeric = (overrides: KernelUse['overrides']): Record<string, number> =>
  Object.fromEntries(Object.entries(overrides).map(([name, value]) => [name, Number(value)]));

const kernelError = (message: string, cause?: unknown): MeshError =>
  new MeshError(
    'kernel',
    message,
    'The driver refuses this kernel: update it, or report this with the name of your GPU.',
    { cause },
  );
