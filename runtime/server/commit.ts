// How a sync step ends on a hosted stage, once its replicas hold the same sum: the gradient of a parameter that both ends of the model
// share, the norm, the optimizer step. What comes before, the sum over replicas, is exchange.ts.
import { MeshError, toMeshError } from '../errors.ts';
import { isReplaceable } from '../mesh/ask.ts';
import type { StepOptions } from '../compute.ts';
import type { Answer, Context } from '../wire/channel.ts';
import type { Replica, Request } from '../wire/messages.ts';
import type { Tensor, Tensors } from '../tensor.ts';
import type { HostedStage } from './hosted-stage.ts';
import type { StageRun } from './stage-run.ts';

/** First stage's gradient plus last stage's, in this order at both ends: they apply the same bits, and their copies stay the same. */
export async function tie(
  stage: HostedStage,
  body: Request<'stage.tie'>,
  context: Context,
): Promise<Answer<'stage.tie'>> {
  const run = stage.expect(body.run);
  run.expectReduced(body.step, body.attempt);
  const name = tiedName(stage, run);
  const [own, other] = await Promise.all([freezeTied(stage, run, name), pullTied(stage, body, name, context)]);
  context.signal.throwIfAborted();
  // Meanwhile a newer attempt may have begun, whose gradient this sum must not touch.
  run.expectReduced(body.step, body.attempt);
  const parts = run.info.isFirst ? [copyOf(own, name), other] : [other, copyOf(own, name)];
  await stage.options.compute.combine(run.handle, 'gradients', parts, [1, 1], 'set');
  run.expectReduced(body.step, body.attempt);
  run.isTied = true;
  return { body: {} };
}

export async function tied(stage: HostedStage, body: Request<'stage.tied'>): Promise<Answer<'stage.tied'>> {
  const run = stage.expect(body.run);
  run.expectReduced(body.step, body.attempt);
  return { body: {}, tensors: await freezeTied(stage, run, tiedName(stage, run)) };
}

export async function norm(stage: HostedStage, body: Request<'stage.norm'>): Promise<Answer<'stage.norm'>> {
  const run = stage.expect(body.run);
  expectWhole(stage, run, body);
  const isCountedElsewhere = run.info.isLast && run.info.tied !== null;
  const squared = await stage.options.compute.squaredNorm(
    run.handle,
    isCountedElsewhere ? { except: [run.info.tied ?? ''] } : {},
  );
  run.expectReduced(body.step, body.attempt);
  return { body: { squaredNorm: Number.isFinite(squared) ? squared : null } };
}

export async function apply(stage: HostedStage, body: Request<'stage.apply'>): Promise<Answer<'stage.apply'>> {
  const run = stage.expect(body.run);
  if (run.step === body.step + 1) return { body: { step: run.step, gradientNorm: run.lastGradientNorm } };
  if (!run.applying) expectWhole(stage, run, body);
  const { lr, gradientScale } = body;
  const options = { ...(lr === undefined ? {} : { lr }), ...(gradientScale === undefined ? {} : { gradientScale }) };
  run.applying ??= takeStep(stage, run, options).finally(() => (run.applying = null));
  const gradientNorm = await run.applying;
  return { body: { step: body.step + 1, gradientNorm } };
}

async function takeStep(stage: HostedStage, run: StageRun, options: StepOptions): Promise<number> {
  const { gradientNorm } = await stage.options.compute.step(run.handle, options);
  const contributions = run.advance(gradientNorm);
  stage.options.emit({
    kind: 'stage.stepped',
    uid: stage.uid,
    run: run.run,
    step: run.step,
    contributions,
    gradientNorm,
  });
  return gradientNorm;
}

/** The gradient must be the sum over all replicas and, of a shared parameter, over both ends. */
function expectWhole(stage: HostedStage, run: StageRun, at: { step: number; attempt: number }): void {
  if (run.step === at.step && run.attempt === at.attempt && run.isReduced && (run.info.tied === null || run.isTied))
    return;
  throw new MeshError(
    'stale',
    `${stage.uid} is at step ${run.step} attempt ${run.attempt} and cannot apply step ${at.step}.`,
    'Let it adopt the state of another replica.',
  );
}

function tiedName(stage: HostedStage, { info }: StageRun): string {
  if (info.tied !== null) return info.tied;
  throw new MeshError(
    'malformed',
    `${stage.uid} shares no parameter with another stage.`,
    'Ask the first and the last stage of a model with tied embeddings.',
  );
}

/** Read once an attempt, before the other end's is added: whoever asks gets the same bytes. */
function freezeTied(stage: HostedStage, run: StageRun, name: string): Promise<Tensors> {
  if (!run.tied) {
    run.tied = stage.options.compute.read(run.handle, 'gradients', [name]);
    run.tied.catch(() => undefined); // whoever asks for it gets the error; nobody may be asking
  }
  return run.tied;
}

/** From the first replica that has it: all of them hold the same bits. */
async function pullTied(
  stage: HostedStage,
  { run, step, attempt, others }: Request<'stage.tie'>,
  name: string,
  context: Context,
): Promise<Tensors> {
  const until = performance.now() + context.deadlineMs;
  let last: MeshError | null = null;
  for (const [index, replica] of others.entries()) {
    const deadlineMs = (until - performance.now()) / (others.length - index);
    if (deadlineMs <= 0) break;
    try {
      return await pullFrom(replica, deadlineMs);
    } catch (cause) {
      last = toMeshError(cause);
      if (context.signal.aborted || !(isReplaceable(last) || last.code === 'stale')) throw last;
    }
  }
  throw last ?? new MeshError('deadline', 'No time was left to ask the other end.', 'The step is tried again.');

  async function pullFrom(replica: Replica, deadlineMs: number): Promise<Tensors> {
    const { ask } = stage.options;
    const request = { uid: replica.uid, run, step, attempt };
    const { tensors } = await ask(replica, 'stage.tied', request, { signal: context.signal, deadlineMs });
    return copyOf(tensors, name);
  }
}

/** That tensor alone, with memory of its own: what goes to the worker takes its whole buffer along. */
function copyOf(tensors: Tensors, name: string): Tensors {
  const tensor: Tensor | undefined = tensors.get(name);
  if (tensor) return new Map([[name, { ...tensor, data: tensor.data.slice() }]]);
  throw new MeshError(
    'stage-shapes',
    `The other end of the model has no gradient of ${name}.`,
    'Check that the first and the last stage serve the same model.',
  );
}
