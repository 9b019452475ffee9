// What replicas of one stage do with each other: the exact all-reduce of a sync step, the periodic average of async training, and
// taking over the state of another replica.
import { MeshError } from '../errors.ts';
import type { Answer, Context } from '../wire/channel.ts';
import type { Replica, Reply, Request } from '../wire/messages.ts';
import type { PeerId } from '../wire/ids.ts';
import type { Tensors } from '../tensor.ts';
import type { HostedStage } from './hosted-stage.ts';
import type { StageRun } from './stage-run.ts';

const ADOPT_TRIES = 5;

/**
 * The gradient becomes the sum over the members' own gradients, added in the order given, so that every replica computes the same
 * bits. Each member pulls the others' sums; a member that holds nothing adds nothing.
 */
export async function reduce(
  stage: HostedStage,
  body: Request<'stage.reduce'>,
  context: Context,
): Promise<Answer<'stage.reduce'>> {
  const run = stage.expect(body.run);
  const { compute, ask } = stage.options;
  if (run.enter(body.step, body.attempt)) await compute.discard(run.handle, { gradients: true });
  const own = body.members.find((member) => member.replica.uid === stage.uid);
  if (!own)
    throw new MeshError('malformed', `${stage.uid} is not among the members.`, 'Name every replica that takes part.');
  run.expectHeld(body.step, body.attempt, own.microbatches);
  const partial = freeze(stage, run);
  const holders = body.members.filter((member) => member.microbatches.length > 0);
  const parts = await Promise.all(
    holders.map(async (member) => {
      if (member === own) return copied(await partial);
      const { step, attempt } = body;
      const request = { uid: member.replica.uid, run: body.run, step, attempt, microbatches: member.microbatches };
      return (
        await ask(member.replica, 'stage.gradients', request, {
          signal: context.signal,
          deadlineMs: context.deadlineMs,
        })
      ).tensors;
    }),
  );
  context.signal.throwIfAborted();
  // While the parts were on their way a newer attempt may have begun, whose gradient this sum must not touch.
  run.expectHeld(body.step, body.attempt, own.microbatches);
  if (parts.length > 1 || holders[0] !== own)
    await compute.combine(
      run.handle,
      'gradients',
      parts,
      parts.map(() => 1),
      'set',
    );
  run.expectHeld(body.step, body.attempt, own.microbatches);
  run.isReduced = true;
  return { body: { microbatches: holders.flatMap((member) => member.microbatches) } };
}

export async function gradients(
  stage: HostedStage,
  body: Request<'stage.gradients'>,
): Promise<Answer<'stage.gradients'>> {
  const run = stage.expect(body.run);
  run.expectHeld(body.step, body.attempt, body.microbatches);
  return { body: {}, tensors: await freeze(stage, run) };
}

export async function apply(stage: HostedStage, body: Request<'stage.apply'>): Promise<Answer<'stage.apply'>> {
  const run = stage.expect(body.run);
  if (run.step === body.step + 1) return { body: { step: run.step, gradientNorm: run.lastGradientNorm } };
  if (run.step !== body.step || run.attempt !== body.attempt || !run.isReduced)
    throw new MeshError(
      'stale',
      `${stage.uid} is at step ${run.step} attempt ${run.attempt} and cannot apply step ${body.step}.`,
      'Let it adopt the state of another replica.',
    );
  // Whoever asks again while the step is being taken waits for that same step.
  run.applying ??= commit(stage, run).finally(() => {
    run.applying = null;
  });
  return { body: await run.applying };
}

async function commit(stage: HostedStage, run: StageRun): Promise<Reply<'stage.apply'>> {
  const { gradientNorm } = await stage.options.compute.step(run.handle);
  const contributions = run.advance(gradientNorm);
  const { step } = run;
  stage.options.emit({ kind: 'stage.stepped', uid: stage.uid, run: run.run, step, contributions, gradientNorm });
  return { step, gradientNorm };
}

/** w ← w_now + (average − snapshot): steps taken while the others' weights were on their way are not lost. Replicas that do not answer are left out. */
export async function average(
  stage: HostedStage,
  body: Request<'stage.average'>,
  context: Context,
): Promise<Answer<'stage.average'>> {
  const run = stage.expect(body.run);
  const { compute, ask } = stage.options;
  const snapshot = await compute.read(run.handle, 'weights');
  const others = await Promise.allSettled(
    body.replicas
      .filter((replica) => replica.uid !== stage.uid)
      .map(
        async (replica) =>
          (
            await ask(
              replica,
              'stage.pull',
              { uid: replica.uid, run: body.run, state: 'weights' },
              { signal: context.signal, deadlineMs: context.deadlineMs },
            )
          ).tensors,
      ),
  );
  const pulled = others.flatMap((outcome) => (outcome.status === 'fulfilled' ? [outcome.value] : []));
  if (pulled.length > 0) {
    const share = 1 / (pulled.length + 1);
    await compute.combine(run.handle, 'weights', [snapshot, ...pulled], [share - 1, ...pulled.map(() => share)], 'add');
  }
  return { body: { merged: pulled.length } };
}

/** Opens the stage with another replica's weights, optimizer state and step. */
export async function adopt(
  stage: HostedStage,
  body: Request<'stage.adopt'>,
  owner: PeerId,
  context: Context,
): Promise<Answer<'stage.adopt'>> {
  const { compute, emit } = stage.options;
  const { from, ...open } = body;
  const run = await stage.open(open, owner);
  const { step, weights, optimizer } = await stateOf(stage, from, body, context);
  await compute.write(run.handle, 'weights', weights);
  await compute.write(run.handle, 'optimizer', optimizer);
  await compute.discard(run.handle, { gradients: true });
  run.jump(step);
  emit({ kind: 'stage.adopted', uid: stage.uid, run: run.run, step: run.step, from: from.uid });
  return { body: { info: run.info, step: run.step } };
}

/** Both halves as of one step. They are asked for together; an async replica may still step in between, and is then asked again. */
async function stateOf(
  stage: HostedStage,
  from: Replica,
  { run }: Request<'stage.adopt'>,
  { signal, deadlineMs }: Context,
): Promise<{ step: number; weights: Tensors; optimizer: Tensors }> {
  for (let tries = 1; ; tries += 1) {
    const [weights, optimizer] = await Promise.all(
      (['weights', 'optimizer'] as const).map((state) =>
        stage.options.ask(from, 'stage.pull', { uid: from.uid, run, state }, { signal, deadlineMs }),
      ),
    );
    if (weights && optimizer && weights.body.step === optimizer.body.step)
      return { step: weights.body.step, weights: weights.tensors, optimizer: optimizer.tensors };
    if (tries >= ADOPT_TRIES)
      throw new MeshError(
        'conflict',
        `${from.uid} took a step while its state was copied, ${tries} times in a row.`,
        'Copy it again.',
      );
  }
}

export async function pull(stage: HostedStage, body: Request<'stage.pull'>): Promise<Answer<'stage.pull'>> {
  const run = stage.expect(body.run);
  // A step that is being taken belongs to what is read, and is not counted before it is done.
  await run.applying?.catch(() => undefined); // its own asker has the error
  const { step } = run;
  return { body: { step }, tensors: await stage.options.compute.read(run.handle, body.state) };
}

/** This replica's own gradient, read once an attempt; whoever asks gets the same bytes. */
function freeze(stage: HostedStage, run: StageRun): Promise<Tensors> {
  run.partial ??= stage.options.compute.read(run.handle, 'gradients');
  return run.partial;
}

const copied = (tensors: Tensors): Tensors =>
  new Map([...tensors].map(([name, tensor]) => [name, { ...tensor, data: tensor.data.slice() }]));
