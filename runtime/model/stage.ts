// A stage: its layers, weights, gradients, moments and kept activations on one GPU. Inputs are checked before anything changes.
// Calls that touch the same stage come in order; `compute-engine.ts` sees to that.
import type { LossResult, StageInfo, StageSpec, StateKind } from '../compute.ts';
import { MeshError } from '../errors.ts';
import { Borrowed, type Slice } from '../gpu/buffers.ts';
import type { Gpu, Recorder } from '../gpu/gpu.ts';
import { crossEntropy, crossEntropyUse, finiteCheckUse, weightedSumUses } from '../gpu/ops.ts';
import { i32Tensor, type Tensor, type Tensors } from '../tensor.ts';
import { checkInput, checkTargets } from './inputs.ts';
import type { Layer, Pass } from './layers.ts';
import { initialValues, mlpLayers } from './mlp.ts';
import { optimizerStep, optimizerUses, takeSteps } from './optimizer.ts';
import { momentNames, stageInfo } from './spec.ts';
import { TensorSet, checkTensors, combineInto, layoutOf, readSets, writeSets } from './weights.ts';

interface Kept {
  rows: number;
  /** What each layer saved. */
  saved: Slice[][];
}

export class Stage {
  readonly info: StageInfo;
  readonly #gpu: Gpu;
  readonly #spec: StageSpec;
  readonly #layers: readonly Layer[];
  readonly #weights: TensorSet;
  readonly #gradients: TensorSet;
  readonly #moments: readonly { suffix: string; set: TensorSet }[];
  readonly #kept = new Map<string, Kept>();
  #steps = 0;

  private constructor(gpu: Gpu, spec: StageSpec, info: StageInfo, layers: readonly Layer[], sets: TensorSet[]) {
    const [weights, gradients, ...moments] = sets;
    if (weights === undefined || gradients === undefined) throw new Error('a stage needs weights and gradients');
    this.#gpu = gpu;
    this.#spec = spec;
    this.info = info;
    this.#layers = layers;
    this.#weights = weights;
    this.#gradients = gradients;
    this.#moments = momentNames(spec.optimizer).flatMap((name, i) => {
      const set = moments[i];
      return set === undefined ? [] : [{ suffix: `.${name}`, set }];
    });
  }

  static async open(gpu: Gpu, spec: StageSpec): Promise<Stage> {
    const info = stageInfo(spec.model, spec.from, spec.to);
    const layers = mlpLayers(spec.model, spec.from, spec.to);
    const layout = layoutOf(info.parameters, gpu.description.maxStorageBufferBindingSize);
    const sets: TensorSet[] = [];
    try {
      await gpu.submit((recorder) => {
        for (let i = 0; i < 2 + momentNames(spec.optimizer).length; i++) sets.push(TensorSet.take(gpu, layout));
        for (const set of sets) set.clear(recorder);
      });
      await gpu.submit((recorder) => {
        for (const parameter of info.parameters) {
          const values = initialValues(spec.model, spec.seed, parameter);
          const to = sets[0]?.get(parameter.name);
          if (to !== undefined) recorder.write(to, new Uint8Array(values.buffer));
        }
      });
      await gpu.warm([
        ...layers.flatMap((layer) => layer.uses),
        ...optimizerUses(spec.optimizer),
        ...weightedSumUses,
        finiteCheckUse,
        ...(info.isLast ? [crossEntropyUse] : []),
      ]);
      return new Stage(gpu, spec, info, layers, sets);
    } catch (cause) {
      for (const set of sets) set.release(gpu);
      throw cause;
    }
  }

  close(): void {
    this.#forget([...this.#kept.keys()]);
    for (const set of [this.#weights, this.#gradients, ...this.#moments.map(({ set: moment }) => moment)])
      set.release(this.#gpu);
  }

  async forward(key: string, x: Tensor, keep: boolean): Promise<Tensor> {
    const rows = checkInput('x', x, this.info.inputShape);
    const borrowed = new Borrowed(this.#gpu.pool);
    let reading: Promise<Uint8Array<ArrayBuffer>[]>;
    try {
      reading = this.#gpu.submit((recorder) => {
        const { y, saved } = this.#forward(this.#pass(recorder, borrowed), x, rows, keep);
        recorder.read(y);
        if (keep) this.#keep(key, { rows, saved }, borrowed);
      });
    } finally {
      borrowed.release();
    }
    const kept = this.#kept.get(key);
    try {
      return f32([rows, ...this.info.outputShape], await reading);
    } catch (cause) {
      if (keep && this.#kept.get(key) === kept) this.#forget([key]);
      throw cause;
    }
  }

  async backward(key: string, dy: Tensor, accumulate: boolean): Promise<Tensor | null> {
    const kept = this.#kept.get(key);
    if (kept === undefined)
      throw new MeshError(
        'stale',
        `Nothing is kept under "${key}".`,
        'Run forward with keep under this key first; each key serves one backward.',
      );
    const rows = checkInput('dy', dy, this.info.outputShape, kept.rows);
    const borrowed = new Borrowed(this.#gpu.pool);
    this.#kept.delete(key);
    borrowed.adopt(kept.saved.flat());
    let reading: Promise<Uint8Array<ArrayBuffer>[]>;
    try {
      reading = this.#gpu.submit((recorder) => {
        const pass = this.#pass(recorder, borrowed, accumulate);
        const start = pass.take(dy.data.byteLength);
        recorder.write(start, dy.data);
        const dx = this.#backward(pass, kept.saved, start, rows);
        if (dx !== null) recorder.read(dx);
      });
    } finally {
      borrowed.release();
    }
    const bytes = await reading;
    return this.info.isFirst ? null : f32([rows, ...this.info.inputShape], bytes);
  }

  async loss(
    x: Tensor,
    y: Tensor,
    options: { scale: number; train: boolean; accumulate: boolean },
  ): Promise<LossResult> {
    const { scale, train, accumulate } = options;
    if (!this.info.isLast)
      throw new MeshError('usage', 'This is not the last stage of its model.', 'Ask the last stage for the loss.');
    if (!Number.isFinite(scale))
      throw new MeshError('usage', `The scale is ${scale}.`, 'Give 1 / (rows of the whole batch).');
    const rows = checkInput('x', x, this.info.inputShape);
    const V = this.info.outputShape[0] ?? 0;
    checkTargets(y, rows, V);
    const borrowed = new Borrowed(this.#gpu.pool);
    let reading: Promise<Uint8Array<ArrayBuffer>[]>;
    try {
      reading = this.#gpu.submit((recorder) => {
        const pass = this.#pass(recorder, borrowed, accumulate);
        const targets = pass.take(rows * 4);
        recorder.write(targets, y.data);
        const { y: logits, saved } = this.#forward(pass, x, rows, train);
        const outputs = { dlogits: pass.take(rows * V * 4), loss: pass.take(rows * 4), correct: pass.take(rows * 4) };
        crossEntropy(recorder, outputs, logits, targets, { M: rows, V, scale });
        recorder.read(outputs.loss);
        recorder.read(outputs.correct);
        const dx = train ? this.#backward(pass, saved, outputs.dlogits, rows) : null;
        if (dx !== null) recorder.read(dx);
      });
    } finally {
      borrowed.release();
    }
    const [losses, hits, ...rest] = await reading;
    const sum = new Float32Array(losses?.buffer ?? new ArrayBuffer(0)).reduce((total, row) => total + row, 0);
    const correct = new Uint32Array(hits?.buffer ?? new ArrayBuffer(0)).reduce((total, row) => total + row, 0);
    if (!Number.isFinite(sum))
      throw new MeshError(
        'not-finite',
        `The loss of ${rows} rows is ${sum}.`,
        'The weights have diverged: discard the gradients, go back to the last checkpoint and lower the learning rate.',
      );
    return { loss: sum * scale, correct, dx: rest.length === 0 ? null : f32([rows, ...this.info.inputShape], rest) };
  }

  async discard(options: { keys?: string[]; gradients?: boolean }): Promise<void> {
    this.#forget(options.keys ?? [...this.#kept.keys()]);
    if (options.gradients === true) await this.#gpu.submit((recorder) => this.#gradients.clear(recorder));
  }

  async read(kind: StateKind): Promise<Tensors> {
    const step = i32Tensor([1], new Int32Array([this.#steps]));
    const tensors = await readSets(this.#gpu, this.#sets(kind));
    if (kind === 'optimizer') tensors.set('step', step);
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
    for (const part of parts) checkTensors(this.info.parameters, part);
    await combineInto(
      this.#gpu,
      kind === 'weights' ? this.#weights : this.#gradients,
      parts,
      coefficients,
      mode === 'add',
    );
  }

  async step(): Promise<{ gradientNorm: number }> {
    const state = { weights: this.#weights, gradients: this.#gradients, moments: this.#moments.map(({ set }) => set) };
    const gradientNorm = await optimizerStep(this.#gpu, this.#spec.optimizer, state, this.#steps + 1);
    this.#steps += 1;
    return { gradientNorm };
  }

  #sets(kind: StateKind): readonly { suffix: string; set: TensorSet }[] {
    switch (kind) {
      case 'weights':
        return [{ suffix: '', set: this.#weights }];
      case 'gradients':
        return [{ suffix: '', set: this.#gradients }];
      case 'optimizer':
        return this.#moments;
      default:
        return kind satisfies never;
    }
  }

  /** Where nothing is to be accumulated, the layers' gradients go to scratch memory that nobody reads. */
  #pass(recorder: Recorder, borrowed: Borrowed, accumulate = true): Pass {
    return {
      recorder,
      take: (bytes) => borrowed.take(bytes),
      give: (slice) => borrowed.give(slice),
      weight: (name) => this.#weights.get(name),
      gradient: (name) => {
        const slice = this.#gradients.get(name);
        return accumulate ? slice : borrowed.take(slice.bytes);
      },
    };
  }

  #forward(pass: Pass, x: Tensor, rows: number, keep: boolean): { y: Slice; saved: Slice[][] } {
    let y = pass.take(x.data.byteLength); // (B, …input)
    pass.recorder.write(y, x.data);
    const saved = this.#layers.map((layer) => {
      const result = layer.forward(pass, y, rows, keep);
      y = result.y; // (B, out)
      return result.saved;
    });
    return { y, saved };
  }

  #backward(pass: Pass, saved: readonly Slice[][], dy: Slice, rows: number): Slice | null {
    let gradient: Slice | null = dy; // (B, out)
    for (let i = this.#layers.length - 1; i >= 0 && gradient !== null; i--)
      gradient = this.#layers[i]?.backward(pass, saved[i] ?? [], gradient, rows, i > 0 || !this.info.isFirst) ?? null; // (B, in)
    return gradient;
  }

  #keep(key: string, kept: Kept, borrowed: Borrowed): void {
    this.#forget([key]);
    borrowed.keep(kept.saved.flat());
    this.#kept.set(key, kept);
  }

  #forget(keys: readonly string[]): void {
    for (const key of keys) {
      for (const slice of this.#kept.get(key)?.saved.flat() ?? []) this.#gpu.pool.release(slice);
      this.#kept.delete(key);
    }
  }
}

const f32 = (shape: number[], bytes: Uint8Array<ArrayBuffer>[]): Tensor => ({
  dtype: 'f32',
  shape,
  data: bytes[0] ?? new Uint8Array(0),
});
