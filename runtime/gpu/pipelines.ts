// Compiled kernels of one device: compiled once each, asynchronously, with failures that name kernels/x.wgsl:line:col
// or generated/x:line:col.
import { MeshError } from '../errors.ts';
import { layoutEntries, type KernelLayout } from './kernel-layout.ts';
import { layoutOfUse, useKey, type KernelUse, type Overrides } from './kernel-table.ts';

export interface Pipeline {
  readonly key: string;
  readonly info: KernelLayout;
  readonly pipeline: GPUComputePipeline;
  readonly layout: GPUBindGroupLayout;
}

export type KernelSource = (name: string) => string;

export class Pipelines {
  readonly #device: GPUDevice;
  readonly #source: KernelSource;
  readonly #modules = new Map<string, Promise<GPUShaderModule>>();
  readonly #layouts = new Map<string, GPUBindGroupLayout>();
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

  /** A pipeline by its key, if it was compiled. */
  find(key: string): Pipeline | undefined {
    return this.#ready.get(key);
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

  async #compile(key: string, use: KernelUse): Promise<Pipeline> {
    const file = fileOf(use);
    const info = layoutOfUse(use);
    const module = await this.#module(file, use);
    let layout = this.#layouts.get(file);
    if (layout === undefined) {
      layout = this.#device.createBindGroupLayout({ label: file, entries: layoutEntries(info) });
      this.#layouts.set(file, layout);
    }
    const constants = 'generated' in use ? {} : numeric(use.overrides);
    try {
      const pipeline = await this.#device.createComputePipelineAsync({
        label: key,
        layout: this.#device.createPipelineLayout({ bindGroupLayouts: [layout] }),
        compute: { module, entryPoint: 'main', constants },
      });
      const made = { key, info, pipeline, layout };
      this.#ready.set(key, made);
      return made;
    } catch (cause) {
      throw kernelError(`${file}:1:1 ${key}: ${cause instanceof Error ? cause.message : String(cause)}`, cause);
    }
  }

  #module(file: string, use: KernelUse): Promise<GPUShaderModule> {
    let module = this.#modules.get(file);
    if (module === undefined) {
      module = this.#createModule(file, 'generated' in use ? use.generated.code : this.#source(use.kernel));
      this.#modules.set(file, module);
    }
    return module;
  }

  async #createModule(file: string, code: string): Promise<GPUShaderModule> {
    this.#device.pushErrorScope('validation');
    const module = this.#device.createShaderModule({ label: file, code });
    const [info, error] = await Promise.all([module.getCompilationInfo(), this.#device.popErrorScope()]);
    const first = info.messages.find((message) => message.type === 'error');
    if (first !== undefined) throw kernelError(`${file}:${first.lineNum}:${first.linePos} ${first.message}`);
    if (error !== null) throw kernelError(`${file}:1:1 ${error.message}`);
    return module;
  }
}

/** What an error names. */
const fileOf = (use: KernelUse): string =>
  'generated' in use ? `generated/${use.generated.name}` : `kernels/${use.kernel}.wgsl`;

const numeric = (overrides: Overrides): Record<string, number> =>
  Object.fromEntries(Object.entries(overrides).map(([name, value]) => [name, Number(value)]));

const kernelError = (message: string, cause?: unknown): MeshError =>
  new MeshError(
    'kernel',
    message,
    'The driver refuses this kernel: update it, or report this with the name of your GPU.',
    { cause },
  );
