// What a stage does with a microbatch: forward, on to the next stage, and the gradient when it comes back. See ARCHITECTURE.md, the life
// of a microbatch. Whom a stage serves is hosted-stage.ts; what replicas do with each other is exchange.ts.
import type { Compute, StepOptions } from '../compute.ts';
import { MeshError } from '../errors.ts';
import { passOn, type Answered } from '../mesh/ask.ts';
import { decodeActivation, encodeActivation } from '../wire/activation-codec.ts';
import type { Answer, Context } from '../wire/channel.ts';
import type { Request } from '../wire/messages.ts';
import { lrAt } from '../train/learning-rate.ts';
import { elements, sameShape, type Tensor, type Tensors } from '../tensor.ts';
import type { HostedStage } from './hosted-stage.ts';
import type { StageRun } from './stage-run.ts';

type Forward = Request<'stage.forward'>;

export function forward(
  stage: HostedStage,
  body: Forward,
  tensors: Tensors,
  context: Context,
): Promise<Answer<'stage.forward'>> {
  return stage.work(body.run, async (run) => {
    const { x, y } = inputsOf(stage, run, tensors);
    const rows = x.shape[0] ?? 0;
    if (run.enter(body.step, body.attempt)) await stage.options.compute.discard(run.handle, { gradients: true });
    const result = run.info.isLast
      ? await lossOf(stage, run, body, x, y, context)
      : await passThrough(stage, run, body, x, y, context);
    stage.meter.count(rows, result.body.loss / body.scale / Math.max(1, result.body.counted));
    return result;
  });
}

export function infer(
  stage: HostedStage,
  body: Request<'stage.infer'>,
  tensors: Tensors,
  context: Context,
): Promise<Answer<'stage.infer'>> {
  return stage.work(body.run, (run) => outputOf(stage, run, body, tensors, context));
}

async function outputOf(
  stage: HostedStage,
  run: StageRun,
  body: Request<'stage.infer'>,
  tensors: Tensors,
  context: Context,
): Promise<Answer<'stage.infer'>> {
  const { x, y } = inputsOf(stage, run, tensors);
  const { compute } = stage.options;
  if (run.info.isLast && y) return { body: { score: await scoreOf(stage, run, x, y) } };
  const lastOnly = run.info.isLast && body.lastOnly === true;
  const out = await compute.forward(run.handle, 'infer', x, { keep: false, ...(lastOnly ? { lastOnly } : {}) });
  const [hop, ...route] = body.route;
  if (!hop) return { body: {}, tensors: new Map([['y', out]]) };
  const work = (): Promise<Answered<'stage.infer'>> =>
    passOn(hop, 'stage.infer', (replica) => ({ ...body, uid: replica.uid, route }), {
      ask: stage.options.ask,
      emit: stage.options.emit,
      key: { run: body.run, trainer: 'infer', step: run.step, microbatch: 0 },
      signal: context.signal,
      deadlineMs: context.deadlineMs,
      tensors: new Map([['x', out], ...(y ? [['y', y] as const] : [])]),
    });
  return context.idle(work);
}

/** Loss and hits on data that nothing is learned from. */
async function scoreOf(
  stage: HostedStage,
  run: StageRun,
  x: Tensor,
  y: Tensor,
): Promise<{ loss: number; correct: number; counted: number }> {
  // The sum of all targets' losses would lose digits in f32.
  const scale = 1 / Math.max(1, elements(y.shape));
  const result = await stage.options.compute.loss(run.handle, x, y, { scale, train: false, accumulate: false });
  const { correct, counted } = result;
  return { loss: result.loss / scale / Math.max(1, counted), correct, counted };
}

async function lossOf(
  stage: HostedStage,
  run: StageRun,
  body: Forward,
  x: Tensor,
  y: Tensor | undefined,
  context: Context,
): Promise<Answer<'stage.forward'>> {
  if (!y)
    throw new MeshError(
      'malformed',
      `${stage.uid} is the last stage and got no targets.`,
      'Send tensor y with the microbatch.',
    );
  const rows = x.shape[0] ?? 0;
  const before = run.step;
  const result = await contribute(stage, run, body, context, (accumulate) =>
    stage.options.compute.loss(run.handle, x, y, { scale: body.scale, train: true, accumulate, ...dropoutOf(body) }),
  );
  return {
    body: {
      loss: result.loss,
      correct: result.correct,
      rows,
      counted: result.counted,
      staleness: Math.max(0, run.step - before - 1),
      path: [stage.uid],
    },
    ...(result.dx ? { tensors: encodedGradient(body, result.dx) } : {}),
  };
}

async function passThrough(
  stage: HostedStage,
  run: StageRun,
  body: Forward,
  x: Tensor,
  y: Tensor | undefined,
  context: Context,
): Promise<Answer<'stage.forward'>> {
  const { compute, ask, emit } = stage.options;
  const [hop, ...route] = body.route;
  if (!hop)
    throw new MeshError(
      'stage-shapes',
      `${stage.uid} is not the last stage and the route ends here.`,
      'Check the order of the stages.',
    );
  // Not the microbatch's key: the same one may come again while this is under way.
  const kept = crypto.randomUUID();
  const before = run.step;
  // What is sent is kept here, in this frame, until the gradient has come back through it: a hop that fails gets it sent again.
  const out = await stage.options.turns.take('forward', body.prefer, context.signal, () =>
    compute.forward(run.handle, kept, x, { keep: true, ...dropoutOf(body) }),
  );
  try {
    const sent = encodeActivation('x', out, body.wire ?? 'f32');
    const work = (): Promise<Answered<'stage.forward'>> =>
      passOn(hop, 'stage.forward', (replica) => ({ ...body, uid: replica.uid, route }), {
        ask,
        emit,
        key: body.key,
        signal: context.signal,
        deadlineMs: context.deadlineMs,
        tensors: new Map([...sent, ...(y ? [['y', y] as const] : [])]),
      });
    const answer = await context.idle(work);
    const dy = decodeActivation('dx', answer.tensors);
    if (!dy || !sameShape(dy.shape, out.shape))
      throw new MeshError(
        'stage-shapes',
        `The gradient that came back to ${stage.uid} has shape (${dy?.shape.join(', ') ?? 'none'}), not (${out.shape.join(', ')}).`,
        'Check that the next stage serves the same model.',
      );
    const dx = await contribute(stage, run, body, context, (accumulate) =>
      compute.backward(run.handle, kept, dy, { accumulate }),
    );
    return {
      body: {
        ...answer.body,
        staleness: Math.max(answer.body.staleness, run.step - before),
        path: [stage.uid, ...answer.body.path],
      },
      ...(dx ? { tensors: encodedGradient(body, dx) } : {}),
    };
  } catch (cause) {
    await compute.discard(run.handle, { keys: [kept] });
    throw cause;
  }
}

const encodedGradient = (body: Forward, dx: Tensor): Tensors => new Map(encodeActivation('dx', dx, body.wire ?? 'f32'));

/** When it is its turn. */
const contribute = <T>(
  stage: HostedStage,
  run: StageRun,
  body: Forward,
  context: Context,
  work: (accumulate: boolean) => Promise<T>,
): Promise<T> =>
  stage.options.turns.take('backward', body.prefer, context.signal, () =>
    contributeNow(stage, run, body, context, work),
  );

/**
 * The one place where a microbatch enters the gradient. Nothing lies between the last look at the signal (deadline, cancellation,
 * link), the claim, and the call that adds: a request that its asker has given up adds nothing.
 */
async function contributeNow<T>(
  stage: HostedStage,
  run: StageRun,
  body: Forward,
  context: Context,
  work: (accumulate: boolean) => Promise<T>,
): Promise<T> {
  while (run.stepping) await run.stepping;
  context.signal.throwIfAborted();
  if (run.isAdopting || stage.run !== run)
    throw new MeshError('stale', `${stage.uid} has other state than when this microbatch came.`, 'It is driven again.');
  const key =
    run.mode === 'sync' ? String(body.key.microbatch) : `${body.key.trainer}.${body.key.step}.${body.key.microbatch}`;
  const isNew = run.claim(key, body.step, body.attempt);
  let result: T;
  try {
    result = await work(isNew);
  } catch (cause) {
    if (isNew) run.unclaim(key, body.step, body.attempt);
    throw cause;
  }
  if (isNew && run.mode === 'async') await stepWhenDue(stage, run, body.step);
  return result;
}

const dropoutOf = ({ dropout }: Forward): { dropout?: number } => (dropout === undefined ? {} : { dropout });

async function stepWhenDue(stage: HostedStage, run: StageRun, planned: number): Promise<void> {
  run.pending += 1;
  run.planned = Math.max(run.planned, planned);
  if (run.pending >= run.accumulate) await stepNow(stage, run);
}

/** Async: the step of what has been gathered, if anything. */
export async function stepNow(stage: HostedStage, run: StageRun): Promise<void> {
  const contributions = run.pending;
  if (contributions === 0) return;
  run.pending = 0;
  run.step += 1;
  const { compute } = stage.options;
  const lr = run.rate ? { lr: lrAt(run.rate, run.planned) } : {};
  // Without clipping the step is asked for in this very turn, so that no microbatch of the next one comes between.
  const { gradientNorm } = await (run.clip === undefined
    ? compute.step(run.handle, lr)
    : clippedStep(compute, run, run.clip, lr));
  stage.options.emit({
    kind: 'stage.stepped',
    uid: stage.uid,
    run: run.run,
    step: run.step,
    contributions,
    gradientNorm,
  });
}

/** The norm is this stage's alone, because no other one steps with it. Until the step is asked for, nothing else is added. */
async function clippedStep(
  compute: Compute,
  run: StageRun,
  clip: number,
  lr: StepOptions,
): Promise<{ gradientNorm: number }> {
  while (run.stepping) await run.stepping;
  const { promise, resolve } = Promise.withResolvers<void>();
  run.stepping = promise;
  try {
    const norm = Math.sqrt(await compute.squaredNorm(run.handle, {}));
    return await compute.step(run.handle, norm > clip ? { ...lr, gradientScale: clip / norm } : lr);
  } finally {
    run.stepping = null;
    resolve();
  }
}

function inputsOf(stage: HostedStage, run: StageRun, tensors: Tensors): { x: Tensor; y: Tensor | undefined } {
  const x = decodeActivation('x', tensors);
  if (!x) throw new MeshError('malformed', `${stage.uid} got no tensor x.`, 'Send the activation as tensor x.');
  const { inputShape, inputDtype, maxTokens } = run.info;
  if (x.dtype !== inputDtype || !fits(x.shape.slice(1), inputShape, maxTokens))
    throw new MeshError(
      'stage-shapes',
      `${stage.uid} takes ${inputDtype} (B, ${inputShape.map((size) => (size < 0 ? `1 to ${maxTokens}` : size)).join(', ')}) and got ${x.dtype} (${x.shape.join(', ')}).`,
      'Check that the stages of this version serve the same model, split at the same layers.',
    );
  // x goes to the worker with the memory that it lies in; targets that travel on need memory of their own.
  const y = tensors.get('y');
  return { x, y: y && !run.info.isLast ? { ...y, data: y.data.slice() } : y };
}

/** −1 stands for any number of tokens that the stage can take. */
const fits = (shape: readonly number[], wanted: readonly number[], maxTokens: number): boolean =>
  shape.length === wanted.length &&
  shape.every((size, i) => (wanted[i] === -1 ? size >= 1 && size <= maxTokens : size === wanted[i]));
