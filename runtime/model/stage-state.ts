// What a stage keeps between microbatches: weights, gradients, moments, the number of steps. Reading, writing, merging, stepping.
import type { StageInfo, StageSpec, StateKind, StepOptions } from '../compute.ts';
import { MeshError } from '../errors.ts';
import type { Gpu, Recorder } from '../gpu/gpu.ts';
import type { KernelUse } from '../gpu/kernel-table.ts';
import { finiteCheckUse, weightedSumUses } from '../gpu/ops.ts';
import { i32Tensor, type Tensors } from '../tensor.ts';
import { initialValues } from './families.ts';
import { isVocabulary } from './language-spec.ts';
import { decayGroup, optimizerStep, optimizerUses, sumOfSquares, takeSteps } from './optimizer.ts';
import { combineInto } from './merge.ts';
import { momentNames } from './spec.ts';
import { bindable, checkTensors, layoutOf, readSets, TensorSet, writeSets } from './weights.ts';

export const stateUses = (spec: StageSpec): KernelUse[] => [
  ...optimizerUses(spec.optimizer),
  ...weightedSumUses,
  finiteCheckUse,
];

export class StageState {
  readonly weights: TensorSet;
  readonly gradients: TensorSet;
  readonly #gpu: Gpu;
  readonly #spec: StageSpec;
  readonly #info: StageInfo;
  readonly #moments: readonly { suffix: string; set: TensorSet }[];
  #steps = 0;
  /** Counts changes of the weights, so that what is made of them knows when it is out of date. */
  #version = 0;

  private constructor(gpu: Gpu, spec: StageSpec, info: StageInfo, sets: readonly TensorSet[]) {
    const [weights, gradients, ...moments] = sets;
    if (weights === undefined || gradients === undefined) throw new Error('a stage needs weights and gradients');
    this.#gpu = gpu;
    this.#spec = spec;
    this.#info = info;
    this.weights = weights;
    this.gradients = gradients;
    this.#moments = momentNames(spec.optimizer).flatMap((name, i) => {
      const set = moments[i];
      return set === undefined ? [] : [{ suffix: `.${name}`, set }];
    });
  }

  /** Weights as they begin, all else zero. */
  static async create(gpu: Gpu, spec: StageSpec, info: StageInfo, isRehearsal = false): Promise<StageState> {
    const layout = layoutOf(info.parameters, gpu.description, {
      group: ({ shape }) => decayGroup(spec.optimizer, shape),
      isWindowed: ({ name }) => isVocabulary(spec.model, name),
    });
    const sets: TensorSet[] = [];
    try {
      await gpu.submit((recorder) => {
        for (let i = 0; i < 2 + momentNames(spec.optimizer).length; i++) sets.push(TensorSet.take(gpu, layout));
        for (const set of sets) set.clear(recorder);
      });
      // One at a time: all of a large model at once would lie twice in this thread's memory.
      for (const parameter of isRehearsal ? [] : info.parameters) {
        const to = sets[0]?.get(parameter.name);
        if (to === undefined) continue;
        const values = initialValues(spec.model, spec.seed, parameter);
        await gpu.submit((recorder) => recorder.write(to, new Uint8Array(values.buffer)));
      }
      return new StageState(gpu, spec, info, sets);
    } catch (cause) {
      for (const set of sets) set.release(gpu);
      throw cause;
    }
  }

  get version(): number {
    return this.#version;
  }

  /** The weights were changed from outside. */
  touch(): void {
    this.#version += 1;
  }

  release(): void {
    for (const set of [this.weights, this.gradients, ...this.#moments.map(({ set: moment }) => moment)])
      set.release(this.#gpu);
  }

  clearGradients(recorder: Recorder): void {
    this.gradients.clear(recorder);
  }

  async read(kind: StateKind, names?: readonly string[]): Promise<Tensors> {
    const step = i32Tensor([1], new Int32Array([this.#steps]));
    const tensors = await readSets(this.#gpu, this.#sets(kind), names);
    if (kind === 'optimizer' && names === undefined) tensors.set('step', step);
    return tensors;
  }

  async write(kind: StateKind, tensors: Tensors): Promise<void> {
    const { floats, steps } = kind === 'optimizer' ? takeSteps(tensors) : { floats: tensors, steps: this.#steps };
    const sets = this.#sets(kind);
    const expected = sets.flatMap(({ suffix, set }) =>
      set.layout.entries.map(({ name, shape }) => ({ name: name + suffix, shape })),
    );
    checkTensors(expected, floats);
    if (expected.length > 0) await writeSets(this.#gpu, sets, floats);
    this.#steps = steps;
    if (kind === 'weights') this.#version += 1;
  }

  async combine(
    kind: 'weights' | 'gradients',
    parts: Tensors[],
    coefficients: number[],
    mode: 'set' | 'add',
  ): Promise<void> {
    if (parts.length === 0 || parts.length !== coefficients.length || !coefficients.every(Number.isFinite))
      throw new MeshError(
        'malformed',
        `${parts.length} parts come with the coefficients ${coefficients.join(', ')}.`,
        'Give at least one part, and one finite coefficient for each.',
      );
    // The first part says which tensors are merged; each of the others must have exactly those.
    const named = this.#info.parameters.filter(({ name }) => parts[0]?.has(name));
    for (const part of parts) checkTensors(named.length === 0 ? this.#info.parameters : named, part);
    const set = kind === 'weights' ? this.weights : this.gradients;
    await combineInto(this.#gpu, set, parts, coefficients, mode === 'add');
    if (kind === 'weights') this.#version += 1;
  }

  squaredNorm(except: readonly string[]): Promise<number> {
    const { layout } = this.gradients;
    const slices =
      except.length === 0
        ? this.gradients.windows().map(({ slice }) => slice)
        : layout.entries
            .filter(({ name }) => !except.includes(name))
            .flatMap((entry) => bindable(this.gradients.at(entry), layout.maxBinding));
    return sumOfSquares(this.#gpu, slices);
  }

  async step({ lr = this.#spec.optimizer.lr, gradientScale = 1 }: StepOptions): Promise<{ gradientNorm: number }> {
    if (!(Number.isFinite(lr) && lr >= 0 && Number.isFinite(gradientScale)))
      throw new MeshError(
        'usage',
        `A step was asked for with learning rate ${lr} and gradients times ${gradientScale}.`,
        'Give finite numbers, the learning rate not negative.',
      );
    const { weights, gradients } = this;
    const state = { weights, gradients, moments: this.#moments.map(({ set }) => set) };
    // Counted when it is recorded: another step may be before this one has been read back.
    this.#steps += 1;
    this.#version += 1;
    const input = { step: this.#steps, lr, gradientScale };
    try {
      return { gradientNorm: await optimizerStep(this.#gpu, this.#spec.optimizer, state, input) };
    } catch (cause) {
      this.#steps -= 1;
      throw cause;
    }
  }

  #sets(kind: StateKind): readonly { suffix: string; set: TensorSet }[] {
    switch (kind) {
      case 'weights':
        return [{ suffix: '', set: this.weights }];
      case 'gradients':
        return [{ suffix: '', set: this.gradients }];
      case 'optimizer':
        return this.#moments;
      default:
        return kind satisfies never;
    }
  }
}
