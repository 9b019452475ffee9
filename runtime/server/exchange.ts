// What replicas of one stage do with each other: the exact all-reduce of a sync step, the periodic average of async training; and how a
// stage comes to its state: from the seed, from a checkpoint, from another replica. How a sync step ends is commit.ts.
import { MeshError } from '../errors.ts';
import type { Answer, Context } from '../wire/channel.ts';
import type { Request } from '../wire/messages.ts';
import type { PeerId } from '../wire/ids.ts';
import type { Tensor, Tensors } from '../tensor.ts';
import type { HostedStage } from './hosted-stage.ts';
import { averagingOf } from './layers.ts';
import { stepNow } from './microbatch.ts';
import type { StageRun } from './stage-run.ts';

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
  run.isSealed = true;
  const holders = body.members.filter((member) => member.microbatches.length > 0);
  const isShared = holders.some((member) => member !== own);
  // Read before the sum takes its place, because the others will ask for it; what is not shared stays where it is.
  const partial = isShared && holders.includes(own) ? freeze(stage, run) : null;
  const parts = await Promise.all(
    (isShared ? holders : []).map(async (member) => {
      if (member === own && partial) return copied(await partial);
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
  if (isShared)
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
  run.isSealed = true;
  return { body: {}, tensors: await freeze(stage, run) };
}

export async function flush(stage: HostedStage, body: Request<'stage.flush'>): Promise<Answer<'stage.flush'>> {
  const run = stage.expect(body.run);
  if (run.mode === 'async') await stepNow(stage, run);
  return { body: { step: run.step } };
}

/**
 * w ← w_now + (average − snapshot): steps taken while the others' weights were on their way are not lost. Replicas that do not answer
 * are left out. One at a time: two that start from the same snapshot would add the same difference twice.
 */
export async function average(
  stage: HostedStage,
  body: Request<'stage.average'>,
  context: Context,
): Promise<Answer<'stage.average'>> {
  const run = stage.expect(body.run);
  const averaging = averagingOf(stage.uid, run);
  run.round ??= averaging
    .round(body.replicas, body.round, context.signal)
    .then((merged) => merged.filter((uid) => uid !== stage.uid).length)
    .finally(() => (run.round = null));
  return { body: { merged: await run.round } };
}

/** Builds the stage, or finds it built; what the request brings is the state of one that is new. It takes no work until that is in. */
export function open(
  stage: HostedStage,
  { start, ...body }: Omit<Request<'stage.open'>, 'uid'>,
  tensors: Tensors,
  owner: PeerId,
): Promise<Answer<'stage.open'>> {
  const { compute } = stage.options;
  return stage.alone(async () => {
    const before = stage.run;
    const run = await stage.openNow(body, owner);
    const isNew = run !== before;
    if (isNew && tensors.size > 0) {
      run.isAdopting = true;
      try {
        for (const kind of ['weights', 'optimizer'] as const) {
          const part = partOf(tensors, `${kind}/`);
          if (part.size > 0) await compute.write(run.handle, kind, part);
        }
        run.jump(start ?? 0);
      } catch (cause) {
        // Half a state must not be taken for the run's.
        await stage.close(run.run);
        throw cause;
      } finally {
        run.isAdopting = false;
      }
    }
    return { body: { info: run.info, step: run.step, isNew } };
  });
}

/** Opens the stage with another replica's weights, optimizer state and step. It takes no work until that is done. */
export function adopt(
  stage: HostedStage,
  body: Request<'stage.adopt'>,
  owner: PeerId,
  context: Context,
): Promise<Answer<'stage.adopt'>> {
  const { compute, ask, emit } = stage.options;
  return stage.alone(async () => {
    const { from, ...open } = body;
    const run = await stage.openNow(open, owner);
    run.isAdopting = true;
    try {
      const options = { signal: context.signal, deadlineMs: context.deadlineMs };
      const { body: pulled, tensors } = await ask(
        from,
        'stage.pull',
        { uid: from.uid, run: body.run, state: 'all' },
        options,
      );
      await compute.write(run.handle, 'weights', partOf(tensors, 'weights/'));
      await compute.write(run.handle, 'optimizer', partOf(tensors, 'optimizer/'));
      await compute.discard(run.handle, { gradients: true });
      run.jump(pulled.step);
      // Of low-communication training also what its exchanges are about: else it would bring all that was ever learned as news of its own.
      const outer = run.averaging?.outer;
      for (const group of outer?.plan.groups.keys() ?? []) await outer?.adopt(group, from, context.signal);
    } finally {
      run.isAdopting = false;
    }
    emit({ kind: 'stage.adopted', uid: stage.uid, run: run.run, step: run.step, from: from.uid });
    return { body: { info: run.info, step: run.step } };
  });
}

export async function pull(stage: HostedStage, body: Request<'stage.pull'>): Promise<Answer<'stage.pull'>> {
  const run = stage.expect(body.run);
  // A step under way is in what is read, and is not counted before it is done.
  await run.applying?.catch(() => undefined); // its own asker has the error
  const { step } = run;
  const { compute } = stage.options;
  if (body.state !== 'all') return { body: { step }, tensors: await compute.read(run.handle, body.state) };
  // Asked in one turn: the worker keeps the order, and no step comes between them.
  const [weights, optimizer] = await Promise.all([
    compute.read(run.handle, 'weights'),
    compute.read(run.handle, 'optimizer'),
  ]);
  return { body: { step }, tensors: new Map([...named(weights, 'weights/'), ...named(optimizer, 'optimizer/')]) };
}

const named = (tensors: Tensors, prefix: string): [string, Tensor][] =>
  [...tensors].map(([name, tensor]) => [prefix + name, tensor]);

/** With memory of their own: what goes to the worker takes its whole buffer along. */
const partOf = (tensors: Tensors, prefix: string): Tensors =>
  new Map(
    [...tensors]
      .filter(([name]) => name.startsWith(prefix))
      .map(([name, tensor]) => [name.slice(prefix.length), { ...tensor, data: tensor.data.slice() }]),
  );

/** This replica's own gradient, read once an attempt; whoever asks gets the same bytes. */
function freeze(stage: HostedStage, run: StageRun): Promise<Tensors> {
  if (!run.partial) {
    run.partial = stage.options.compute.read(run.handle, 'gradients');
    run.partial.catch(() => undefined); // whoever asks for it gets the error; nobody may be asking
  }
  return run.partial;
}

const copied = (tensors: Tensors): Tensors =>
  new Map([...tensors].map(([name, tensor]) => [name, { ...tensor, data: tensor.data.slice() }]));
