// One stage that this peer hosts: takes microbatches off links, asks the worker, passes results on, and gives gradients back.
// See ARCHITECTURE.md, the life of a microbatch. Reduction, averaging and adoption are in exchange.ts.
import { MeshError, toMeshError } from '../errors.ts';
import type { Compute, ModelSpec, StageSpec } from '../compute.ts';
import type { Emit } from '../events.ts';
import { passOn, type Answered, type Ask } from '../mesh/ask.ts';
import type { Answer, Context } from '../wire/channel.ts';
import type { PeerId, RunId, Uid } from '../wire/ids.ts';
import type { Request } from '../wire/messages.ts';
import { sameShape, type Tensor, type Tensors } from '../tensor.ts';
import { StageRun } from './stage-run.ts';
import { Meter } from './meter.ts';

export interface HostedStageOptions {
  uid: Uid;
  compute: Compute;
  ask: Ask;
  emit: Emit;
  /** Whether the client that opened a run still has a link here: only then a second run is turned away. */
  isConnected: (peer: PeerId) => boolean;
  /** What the operator decided that this stage is; a client that wants something else is turned away. */
  pinned?: { model: ModelSpec; from: number; to: number };
  now: () => number;
}

type OpenRequest = Omit<Request<'stage.open'>, 'uid'>;
type Forward = Request<'stage.forward'>;

export class HostedStage {
  readonly uid: Uid;
  readonly options: HostedStageOptions;
  readonly meter: Meter;
  #current: StageRun | null = null;
  #opening: Promise<unknown> = Promise.resolve();
  #isPaused = false;
  load = 0;

  constructor(options: HostedStageOptions) {
    this.options = options;
    this.uid = options.uid;
    this.meter = new Meter(options.now);
  }

  get run(): StageRun | null {
    return this.#current;
  }

  get isPaused(): boolean {
    return this.#isPaused;
  }

  /** A paused stage turns new work away, so that other replicas take it; a step that was begun is committed all the same. */
  pause(isPaused: boolean): void {
    this.#isPaused = isPaused;
  }

  /** Two clients that open at once must not both win. */
  open(body: OpenRequest, owner: PeerId): Promise<StageRun> {
    return this.alone(() => this.openNow(body, owner));
  }

  /** One after the other: what builds or replaces the whole state of the stage. */
  alone<T>(work: () => Promise<T>): Promise<T> {
    const next = this.#opening.then(work);
    this.#opening = next.catch(() => undefined);
    return next;
  }

  async close(run: RunId): Promise<void> {
    const current = this.#current;
    if (current?.run !== run) return;
    this.#current = null;
    await this.options.compute.close(current.handle);
    this.options.emit({ kind: 'stage.closed', uid: this.uid, run });
  }

  expect(run: RunId): StageRun {
    if (this.#current?.run === run) {
      if (!this.#current.isAdopting) return this.#current;
      throw new MeshError(
        'no-stage',
        `${this.uid} is taking over the state of another replica.`,
        'Ask again in a moment.',
      );
    }
    throw new MeshError('no-stage', `${this.uid} does not serve run ${run}.`, 'Open the stage for that run first.');
  }

  async forward(body: Forward, tensors: Tensors, context: Context): Promise<Answer<'stage.forward'>> {
    this.#expectActive();
    const run = this.expect(body.run);
    this.load += 1;
    try {
      const { x, y } = this.#inputs(run, tensors);
      const rows = x.shape[0] ?? 0;
      if (run.enter(body.step, body.attempt)) await this.options.compute.discard(run.handle, { gradients: true });
      const result = run.info.isLast
        ? await this.#lossOf(run, body, x, y, context)
        : await this.#passThrough(run, body, x, y, context);
      this.meter.count(rows, result.body.loss / body.scale / rows);
      return result;
    } catch (cause) {
      throw this.#report(toMeshError(cause));
    } finally {
      this.load -= 1;
    }
  }

  async infer(body: Request<'stage.infer'>, tensors: Tensors, context: Context): Promise<Answer<'stage.infer'>> {
    this.#expectActive();
    const run = this.expect(body.run);
    this.load += 1;
    try {
      return await this.#infer(run, body, tensors, context);
    } catch (cause) {
      throw this.#report(toMeshError(cause));
    } finally {
      this.load -= 1;
    }
  }

  async #infer(
    run: StageRun,
    body: Request<'stage.infer'>,
    tensors: Tensors,
    context: Context,
  ): Promise<Answer<'stage.infer'>> {
    const { x } = this.#inputs(run, tensors);
    const key = `infer.${crypto.randomUUID()}`;
    const out = await this.options.compute.forward(run.handle, key, x, { keep: false });
    const [hop, ...route] = body.route;
    if (!hop) return { body: {}, tensors: new Map([['y', out]]) };
    const work = (): Promise<Answered<'stage.infer'>> =>
      passOn(hop, 'stage.infer', (replica) => ({ uid: replica.uid, run: body.run, route }), {
        ask: this.options.ask,
        emit: this.options.emit,
        key: { run: body.run, trainer: 'infer', step: run.step, microbatch: 0 },
        signal: context.signal,
        deadlineMs: context.deadlineMs,
        tensors: new Map([['x', out]]),
      });
    return context.idle(work);
  }

  async #lossOf(
    run: StageRun,
    body: Forward,
    x: Tensor,
    y: Tensor | undefined,
    context: Context,
  ): Promise<Answer<'stage.forward'>> {
    if (!y)
      throw new MeshError(
        'malformed',
        `${this.uid} is the last stage and got no targets.`,
        'Send tensor y with the microbatch.',
      );
    const rows = x.shape[0] ?? 0;
    const before = run.step;
    const result = await this.#contribute(run, body, context, (accumulate) =>
      this.options.compute.loss(run.handle, x, y, { scale: body.scale, train: true, accumulate }),
    );
    return {
      body: {
        loss: result.loss,
        correct: result.correct,
        rows,
        staleness: Math.max(0, run.step - before - 1),
        path: [this.uid],
      },
      ...(result.dx ? { tensors: new Map([['dx', result.dx]]) } : {}),
    };
  }

  async #passThrough(
    run: StageRun,
    body: Forward,
    x: Tensor,
    y: Tensor | undefined,
    context: Context,
  ): Promise<Answer<'stage.forward'>> {
    const { compute, ask, emit } = this.options;
    const [hop, ...route] = body.route;
    if (!hop)
      throw new MeshError(
        'stage-shapes',
        `${this.uid} is not the last stage and the route ends here.`,
        'Check the order of the stages.',
      );
    const kept = `${body.step}.${body.attempt}.${body.key.trainer}.${body.key.microbatch}.${crypto.randomUUID()}`;
    const before = run.step;
    // What is sent is kept here, in this frame, until the gradient has come back through it: a hop that fails gets it sent again.
    const out = await compute.forward(run.handle, kept, x, { keep: true });
    try {
      const work = (): Promise<Answered<'stage.forward'>> =>
        passOn(hop, 'stage.forward', (replica) => ({ ...body, uid: replica.uid, route }), {
          ask,
          emit,
          key: body.key,
          signal: context.signal,
          deadlineMs: context.deadlineMs,
          tensors: new Map([['x', out], ...(y ? [['y', y] as const] : [])]),
        });
      const answer = await context.idle(work);
      const dy = answer.tensors.get('dx');
      if (!dy || !sameShape(dy.shape, out.shape))
        throw new MeshError(
          'stage-shapes',
          `The gradient that came back to ${this.uid} has shape (${dy?.shape.join(', ') ?? 'none'}), not (${out.shape.join(', ')}).`,
          'Check that the next stage serves the same model.',
        );
      const dx = await this.#contribute(run, body, context, (accumulate) =>
        compute.backward(run.handle, kept, dy, { accumulate }),
      );
      return {
        body: {
          ...answer.body,
          staleness: Math.max(answer.body.staleness, run.step - before),
          path: [this.uid, ...answer.body.path],
        },
        ...(dx ? { tensors: new Map([['dx', dx]]) } : {}),
      };
    } catch (cause) {
      await compute.discard(run.handle, { keys: [kept] });
      throw cause;
    }
  }

  /**
   * The one place where a microbatch enters the gradient. Nothing lies between the last look at the signal (deadline, cancellation,
   * link), the claim, and the call that adds: a request that its asker has given up adds nothing.
   */
  async #contribute<T>(
    run: StageRun,
    body: Forward,
    context: Context,
    work: (accumulate: boolean) => Promise<T>,
  ): Promise<T> {
    context.signal.throwIfAborted();
    if (run.isAdopting || this.#current !== run)
      throw new MeshError(
        'stale',
        `${this.uid} has other state than when this microbatch came.`,
        'It is driven again.',
      );
    const key =
      run.mode === 'sync' ? String(body.key.microbatch) : `${body.key.trainer}.${body.key.step}.${body.key.microbatch}`;
    const isNew = run.claim(key, body.step, body.attempt);
    let result: T;
    try {
      result = await work(isNew);
    } catch (cause) {
      if (isNew) run.unclaim(key);
      throw cause;
    }
    if (isNew && run.mode === 'async') await this.#stepWhenDue(run);
    return result;
  }

  async #stepWhenDue(run: StageRun): Promise<void> {
    run.pending += 1;
    if (run.pending >= run.accumulate) await this.stepNow(run);
  }

  /** Async: the step of what has been gathered, if anything. */
  async stepNow(run: StageRun): Promise<void> {
    const contributions = run.pending;
    if (contributions === 0) return;
    run.pending = 0;
    run.step += 1;
    const { gradientNorm } = await this.options.compute.step(run.handle);
    this.options.emit({
      kind: 'stage.stepped',
      uid: this.uid,
      run: run.run,
      step: run.step,
      contributions,
      gradientNorm,
    });
  }

  #inputs(run: StageRun, tensors: Tensors): { x: Tensor; y: Tensor | undefined } {
    const x = tensors.get('x');
    if (!x) throw new MeshError('malformed', `${this.uid} got no tensor x.`, 'Send the activation as tensor x.');
    if (!sameShape(x.shape.slice(1), run.info.inputShape))
      throw new MeshError(
        'stage-shapes',
        `${this.uid} takes (B, ${run.info.inputShape.join(', ')}) and got (${x.shape.join(', ')}).`,
        'Check that the stages of this version serve the same model, split at the same layers.',
      );
    // x goes to the worker with the memory that it lies in; targets that travel on need memory of their own.
    const y = tensors.get('y');
    return { x, y: y && !run.info.isLast ? { ...y, data: y.data.slice() } : y };
  }

  /** Only within `alone`. */
  async openNow(body: OpenRequest, owner: PeerId): Promise<StageRun> {
    const { compute, emit, pinned } = this.options;
    this.#expectActive();
    if (pinned) expectPinned(this.uid, pinned, body.spec);
    const current = this.#current;
    if (current?.run === body.run && JSON.stringify(current.spec) === JSON.stringify(body.spec)) {
      current.owner = owner;
      if (await this.#isAlive(current)) return current;
    }
    if (current && current.run !== body.run && this.options.isConnected(current.owner))
      throw new MeshError(
        'busy',
        `${this.uid} serves run ${current.run}, whose client is still connected.`,
        'Wait until that run ends, or use another version or subversion.',
      );
    if (current) await this.close(current.run);
    const { stage: handle, info } = await compute.open(body.spec);
    this.#current = new StageRun({
      run: body.run,
      spec: body.spec,
      mode: body.mode,
      accumulate: body.accumulate,
      owner,
      handle,
      info,
      step: 0,
    });
    emit({
      kind: 'stage.opened',
      uid: this.uid,
      run: body.run,
      layers: [body.spec.from, body.spec.to],
      parameterBytes: info.parameterBytes,
    });
    return this.#current;
  }

  /** A round trip to the worker: whoever asks learns of a lost device or a hung driver too. After a loss the stage is built anew. */
  async #isAlive(run: StageRun): Promise<boolean> {
    try {
      await this.options.compute.discard(run.handle, { keys: [] });
      return true;
    } catch (cause) {
      if (toMeshError(cause).code !== 'gpu-lost') throw cause;
      return false;
    }
  }

  #expectActive(): void {
    if (!this.#isPaused) return;
    const fix = 'Another replica takes over; resume it to use it again.';
    throw new MeshError('no-stage', `${this.uid} is paused.`, fix);
  }

  #report(error: MeshError): MeshError {
    if (error.code === 'not-finite' || error.code === 'stage-shapes' || error.code === 'malformed')
      this.options.emit({ kind: 'stage.rejected', uid: this.uid, reason: error.message });
    return error;
  }
}

function expectPinned(uid: Uid, pinned: { model: ModelSpec; from: number; to: number }, spec: StageSpec): void {
  const same =
    JSON.stringify(pinned.model) === JSON.stringify(spec.model) && pinned.from === spec.from && pinned.to === spec.to;
  if (same) return;
  const show = (s: { model: ModelSpec; from: number; to: number }): string =>
    `${JSON.stringify(s.model)} layers ${s.from}..${s.to}`;
  throw new MeshError(
    'stage-shapes',
    `${uid} is set to ${show(pinned)}; the run wants ${show(spec)}.`,
    'Use the same model and split in the run and on the server, or another version number.',
  );
}
