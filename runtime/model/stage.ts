// A stage: its layers and its head over its state, and kept activations, on one GPU. Inputs are checked before anything changes.
// Calls that touch the same stage come in order; `compute-engine.ts` sees to that.
import type { ForwardOptions, LossOptions, LossResult, StageInfo, StageSpec } from '../compute.ts';
import { MeshError } from '../errors.ts';
import { Borrowed, type Slice } from '../gpu/buffers.ts';
import { fromHalf, halfUses, toHalf } from '../gpu/elementwise.ts';
import type { Gpu, Recorder } from '../gpu/gpu.ts';
import { matmulUses } from '../gpu/matmul.ts';
import { i32Of, type Tensor } from '../tensor.ts';
import { stageParts, type StageParts } from './families.ts';
import { checkInput, checkTargets, checkTokens, IGNORED_TARGET, type Extent } from './inputs.ts';
import type { Pass } from './pass.ts';
import { HalfWeights, Tables } from './side-tables.ts';
import { stageInfo } from './spec.ts';
import { StageState, stateUses } from './stage-state.ts';
import { ParameterStore, storeUses } from './store.ts';
import { unitsOf } from './units.ts';

interface Kept {
  extent: Extent;
  dropout: number | null;
  /** What each layer saved. */
  saved: Slice[][];
}

interface PassOptions {
  extent: Extent;
  dropout?: number | null | undefined;
  accumulate?: boolean;
  tokens?: Int32Array<ArrayBuffer> | null;
}

export class Stage {
  readonly info: StageInfo;
  readonly state: StageState;
  readonly #gpu: Gpu;
  readonly #parts: StageParts;
  readonly #halves: HalfWeights | null;
  readonly #tables: Tables;
  readonly #kept = new Map<string, Kept>();
  readonly #store: ParameterStore | null;

  private constructor(
    gpu: Gpu,
    spec: StageSpec,
    info: StageInfo,
    parts: StageParts,
    state: StageState,
    store: ParameterStore | null,
  ) {
    this.#gpu = gpu;
    this.info = info;
    this.state = state;
    this.#parts = parts;
    this.#store = store;
    this.#tables = new Tables(gpu);
    const { precision = 'f32' } = spec;
    this.#halves = precision === 'f32' ? null : new HalfWeights(gpu, state, precision);
  }

  /** `isRehearsal`: the weights' first values are left out, because nobody will see them. */
  static async open(gpu: Gpu, spec: StageSpec, { isRehearsal = false } = {}): Promise<Stage> {
    const info = stageInfo(spec.model, spec.from, spec.to);
    const parts = stageParts(spec, gpu.description);
    const weights = spec.precision ?? 'f32';
    const state = await StageState.create(gpu, spec, info, isRehearsal);
    try {
      const needs = parts.needs.map((need) => (need.product === 'tn' ? need : { ...need, weights }));
      await gpu.warm([
        ...parts.uses,
        ...(needs.length > 0 ? matmulUses(gpu.description, needs) : []),
        ...stateUses(spec),
        ...(weights === 'f32' ? [] : halfUses(weights)),
        ...(spec.store ? storeUses(spec.store) : []),
      ]);
      const store = spec.store
        ? await ParameterStore.create(gpu, state, unitsOf(info.parameters, spec.store.unitBytes), spec.store)
        : null;
      return new Stage(gpu, spec, info, parts, state, store);
    } catch (cause) {
      state.release();
      throw cause;
    }
  }

  /** Throws `usage` where the stage was opened without one. */
  get store(): ParameterStore {
    if (this.#store) return this.#store;
    throw new MeshError('usage', 'This stage keeps no parameter store.', 'Open it with `store`, for averaging.');
  }

  close(): void {
    this.#forget([...this.#kept.keys()]);
    this.#store?.release();
    this.state.release();
    this.#halves?.release();
    this.#tables.release();
  }

  async forward(key: string, x: Tensor, { keep, dropout, lastOnly = false }: ForwardOptions): Promise<Tensor> {
    const extent = checkInput('x', x, this.info);
    const { B, T } = extent;
    const { head } = this.#parts;
    if (keep && head !== null && this.info.outputShape.length > 1)
      throw new MeshError('usage', 'The last stage of a language model keeps nothing.', 'Ask it for the loss instead.');
    let shape = this.#shapeOf(this.info.outputShape, extent);
    const reading = this.#record({ extent, dropout, tokens: this.#tokensOf(x) }, (pass, borrowed) => {
      const { y: h, saved } = this.#forward(pass, x, keep);
      let y = h;
      if (head !== null && !keep) {
        const isPart = lastOnly && T > 1;
        y = head.logits(pass, isPart ? lastTokens(pass, h, B, T) : h, isPart ? B : B * T);
        if (isPart) shape = [B, 1, ...this.info.outputShape.slice(1)];
      }
      pass.recorder.read(y);
      if (keep) this.#keep(key, { extent, dropout: dropout ?? null, saved }, borrowed);
    });
    const kept = this.#kept.get(key);
    try {
      return f32(shape, await reading);
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
    const { extent, dropout, saved } = kept;
    checkInput('dy', dy, { inputShape: this.info.outputShape, inputDtype: 'f32', maxTokens: extent.T }, extent);
    this.#kept.delete(key);
    const reading = this.#record({ extent, dropout, accumulate }, (pass, borrowed) => {
      borrowed.adopt(saved.flat());
      const start = pass.take(dy.data.byteLength);
      pass.recorder.write(start, dy.data);
      const dx = this.#backward(pass, saved, start);
      if (dx !== null) pass.recorder.read(dx);
    });
    const bytes = await reading;
    return this.info.isFirst ? null : f32(this.#shapeOf(this.info.inputShape, extent), bytes);
  }

  async loss(x: Tensor, y: Tensor, { scale, train, accumulate, dropout }: LossOptions): Promise<LossResult> {
    const { head } = this.#parts;
    if (head === null)
      throw new MeshError('usage', 'This is not the last stage of its model.', 'Ask the last stage for the loss.');
    if (!Number.isFinite(scale))
      throw new MeshError('usage', `The scale is ${scale}.`, 'Give 1 / (targets of the whole batch).');
    const extent = checkInput('x', x, this.info);
    const rows = extent.B * extent.T;
    const isLanguage = this.info.outputShape.length > 1;
    checkTargets(y, isLanguage ? [extent.B, extent.T] : [rows], this.info.outputShape.at(-1) ?? 0);
    const counted = i32Of(y).reduce((count, target) => count + (target === IGNORED_TARGET ? 0 : 1), 0);
    const options = { extent, dropout: train ? dropout : null, accumulate, tokens: this.#tokensOf(x) };
    const reading = this.#record(options, (pass) => {
      const targets = pass.take(rows * 4);
      pass.recorder.write(targets, y.data);
      const { y: h, saved } = this.#forward(pass, x, train);
      const { loss, correct, dh } = head.loss(pass, h, targets, rows, { scale, train });
      const dx = dh === null ? null : this.#backward(pass, saved, dh);
      pass.recorder.read(loss);
      pass.recorder.read(correct);
      if (dx !== null) pass.recorder.read(dx);
    });
    const [losses, hits, ...rest] = await reading;
    const sum = new Float32Array(losses?.buffer ?? new ArrayBuffer(0)).reduce((total, row) => total + row, 0);
    const correct = new Uint32Array(hits?.buffer ?? new ArrayBuffer(0)).reduce((total, row) => total + row, 0);
    if (!Number.isFinite(sum))
      throw new MeshError(
        'not-finite',
        `The loss of ${counted} targets is ${sum}.`,
        'The weights have diverged: discard the gradients, go back to the last checkpoint and lower the learning rate.',
      );
    const dx = rest.length === 0 ? null : f32(this.#shapeOf(this.info.inputShape, extent), rest);
    return { loss: sum * scale, correct, counted, dx };
  }

  async discard(options: { keys?: string[]; gradients?: boolean }): Promise<void> {
    this.#forget(options.keys ?? [...this.#kept.keys()]);
    if (options.gradients === true) await this.#gpu.submit((recorder) => this.state.clearGradients(recorder));
  }

  /** One submit; what was borrowed goes back as soon as it is under way, because the queue runs everything in order. */
  #record(options: PassOptions, record: (pass: Pass, borrowed: Borrowed) => void): Promise<Uint8Array<ArrayBuffer>[]> {
    const borrowed = new Borrowed(this.#gpu.pool);
    try {
      return this.#gpu.submit((recorder) => record(this.#pass(recorder, borrowed, options), borrowed));
    } finally {
      borrowed.release();
    }
  }

  #pass(recorder: Recorder, borrowed: Borrowed, options: PassOptions): Pass {
    const { weights, gradients } = this.state;
    const halves = this.#halves;
    const { accumulate = true, extent } = options;
    const give = (slice: Slice): void => borrowed.give(slice);
    return {
      recorder,
      ...extent,
      tokens: options.tokens ?? null,
      dropout: options.dropout ?? null,
      maxBinding: weights.layout.maxBinding,
      take: (bytes, isWindowed) => borrowed.take(bytes, isWindowed),
      give,
      weight: (name) => weights.get(name),
      matrix: (name) =>
        halves === null
          ? { slice: weights.get(name), format: 'f32' }
          : { slice: halves.get(recorder, name), format: halves.format },
      gradient: (name) => {
        const slice = gradients.get(name);
        // Where nothing is to be accumulated, gradients go to scratch memory that nobody reads.
        return accumulate ? slice : borrowed.take(slice.bytes, true);
      },
      shelve: (x, count) => {
        if (halves === null) return x;
        const half = borrowed.take(Math.ceil(count / 2) * 4);
        toHalf(recorder, half, x, { count, format: halves.format });
        give(x);
        return half;
      },
      unshelve: (kept, count) => {
        if (halves === null) return kept;
        const x = borrowed.take(count * 4);
        fromHalf(recorder, x, kept, { count, format: halves.format });
        give(kept);
        return x;
      },
      table: (name, count, values) => this.#tables.get(recorder, name, count, values),
    };
  }

  #forward(pass: Pass, x: Tensor, keep: boolean): { y: Slice; saved: Slice[][] } {
    const rows = pass.B * pass.T;
    let y = pass.take(x.data.byteLength); // (rows, in), or ids (rows)
    pass.recorder.write(y, x.data);
    const saved = this.#parts.layers.map((layer) => {
      const result = layer.forward(pass, y, rows, keep);
      y = result.y; // (rows, out)
      return result.saved;
    });
    return { y, saved };
  }

  #backward(pass: Pass, saved: readonly Slice[][], dy: Slice): Slice | null {
    const rows = pass.B * pass.T;
    let gradient: Slice | null = dy; // (rows, out)
    for (let i = this.#parts.layers.length - 1; i >= 0 && gradient !== null; i--) {
      const needsDx = i > 0 || !this.info.isFirst;
      gradient = this.#parts.layers[i]?.backward(pass, saved[i] ?? [], gradient, rows, needsDx) ?? null; // (rows, in)
    }
    return gradient;
  }

  /** (B, …sample), with the tokens that there were. */
  #shapeOf(sample: readonly number[], { B, T }: Extent): number[] {
    return [B, ...sample.map((size) => (size === -1 ? T : size))];
  }

  #tokensOf(x: Tensor): Int32Array<ArrayBuffer> | null {
    if (this.info.inputDtype !== 'i32') return null;
    checkTokens(x, this.info.parameters[0]?.shape[0] ?? 0); // the embedding's rows
    return i32Of(x);
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

/** Of h (B · T, C) the last row of each sequence, (B, C). */
function lastTokens(pass: Pass, h: Slice, B: number, T: number): Slice {
  const bytes = h.bytes / (B * T);
  const last = pass.take(B * bytes);
  for (let b = 0; b < B; b++) {
    const from = { ...h, offset: h.offset + (b * T + T - 1) * bytes };
    pass.recorder.copy(from, { ...last, offset: last.offset + b * bytes }, bytes);
  }
  pass.give(h);
  return last;
}

const f32 = (shape: number[], bytes: Uint8Array<ArrayBuffer>[]): Tensor => ({
  dtype: 'f32',
  shape,
  data: bytes[0] ?? new Uint8Array(0),
});
