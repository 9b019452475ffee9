// Synchronous training: a step is a transaction. All microbatches run, the replicas of each stage add up their gradients, all apply.
// Whatever fails before the last part makes the step begin again as another attempt, with nothing of the old one left; so every
// planned microbatch counts exactly once, and the result equals one machine training alone, to rounding.
import { MeshError, toMeshError } from '../errors.ts';
import { applyAll, attemptFailed, paceOf, tieAll, type Held } from './commit.ts';
import type { Trainer } from './trainer.ts';
import type { Microbatch } from './schedule.ts';
import type { Session } from './session.ts';

const MAX_ATTEMPTS = 50;
const MAX_PAUSE_MS = 2_000;

/** Runs step `step` to its commit; returns the mean loss over its targets. */
export async function syncStep(session: Session, step: number): Promise<number> {
  const { schedule, emit, run, signal } = session.options;
  const tasks = schedule.at(step);
  for (let attempt = 0; ; attempt += 1) {
    signal.throwIfAborted();
    await session.ready(step);
    let isCommitting = false;
    try {
      const trainers = session.formPipelines();
      const { loss, held } = await runAll(session, trainers, tasks, attempt);
      await reduceAll(session, held, step, attempt);
      await tieAll(session, held, step, attempt);
      const pace = await paceOf(session, held, step, attempt);
      isCommitting = true;
      await applyAll(session, held, step, attempt, pace);
      session.lossScale?.good();
      session.applied += tasks.length;
      const { gradientScale: _, lr = session.options.config.optimizer.lr, ...figures } = pace;
      emit({ kind: 'step.applied', run, step, loss, stages: contributions(session, held), lr, ...figures });
      return loss;
    } catch (cause) {
      signal.throwIfAborted();
      const error = toMeshError(cause);
      // Too large for f16 at this scale: the same step again at a smaller one, so that every planned microbatch still counts.
      if (error.code === 'not-finite' && !isCommitting && session.lossScale?.lower()) {
        const reason = `${error.message} The loss scale is lowered to ${session.lossScale.value}.`;
        emit({ kind: 'step.retried', run, step, attempt: attempt + 1, reason });
        continue;
      }
      if (isHopeless(error) || attempt >= MAX_ATTEMPTS) throw error;
      emit({ kind: 'step.retried', run, step, attempt: attempt + 1, reason: error.message });
      await session.probe(step);
      // What fails again at once is given time to change, so that the attempts outlast a short trouble.
      if (attempt > 0) await session.options.roster.change(Math.min(attempt * 100, MAX_PAUSE_MS));
    }
  }
}

/** Every microbatch through its trainer's pipeline; tells which replica then holds which of them. */
async function runAll(
  session: Session,
  trainers: readonly Trainer[],
  tasks: readonly Microbatch[],
  attempt: number,
): Promise<{ loss: number; held: Held[] }> {
  const { run, roster, signal } = session.options;
  const { inflight } = session.drive(Math.ceil(tasks.length / Math.max(1, trainers.length)));
  const stop = new AbortController();
  const held = new Map<string, Held>(
    roster.members('active').map((member) => [member.replica.uid, { member, microbatches: [] }]),
  );
  const lossScale = session.lossScale?.value ?? 1;
  let loss = 0;
  let next = 0;
  const drive = async (): Promise<void> => {
    for (let task = tasks[next++]; task; task = tasks[next++]) {
      const trainer = trainers[(task.step * tasks.length + task.microbatch) % trainers.length];
      if (!trainer) throw new MeshError('no-replica', 'There is no pipeline.', 'Start a replica of every stage.');
      const key = { run, trainer: trainer.id, step: task.step, microbatch: task.microbatch };
      const result = await trainer.run(task, key, attempt, AbortSignal.any([signal, stop.signal]));
      loss += result.loss / lossScale;
      for (const uid of result.path) {
        const holder = held.get(uid);
        if (!holder)
          throw new MeshError('stale', `${uid} took part and is no longer a member.`, 'The step is tried again.');
        holder.microbatches.push(task.microbatch);
      }
    }
  };
  try {
    await Promise.all(Array.from({ length: Math.min(tasks.length, trainers.length * inflight) }, drive));
  } catch (cause) {
    // The others of this attempt count for nothing now: their work is called off rather than waited for.
    stop.abort(attemptFailed());
    throw cause;
  }
  return { loss, held: [...held.values()] };
}

async function reduceAll(session: Session, held: readonly Held[], step: number, attempt: number): Promise<void> {
  const { run, ask, config, signal, plans } = session.options;
  const stop = new AbortController();
  const options = { signal: AbortSignal.any([signal, stop.signal]), deadlineMs: config.deadlineMs };
  const requests = plans.flatMap((_, stage) => {
    const ofStage = held.filter(({ member }) => member.stage === stage);
    const members = ofStage.map(({ member, microbatches }) => ({ replica: member.replica, microbatches }));
    return ofStage.map(({ member }) =>
      ask(member.replica, 'stage.reduce', { uid: member.replica.uid, run, step, attempt, members }, options),
    );
  });
  try {
    await Promise.all(requests);
  } catch (cause) {
    stop.abort(attemptFailed());
    throw cause;
  }
}

/** For the event log: the microbatches in each stage's applied gradient. */
function contributions(session: Session, held: readonly Held[]): Record<string, number[]> {
  return Object.fromEntries(
    session.options.plans.map((plan, stage) => [
      plan.name,
      held
        .filter(({ member }) => member.stage === stage)
        .flatMap(({ microbatches }) => microbatches)
        .sort((a, b) => a - b),
    ]),
  );
}

/** What another attempt cannot mend. */
const isHopeless = (error: MeshError): boolean =>
  error.code === 'not-finite' ||
  error.code === 'stage-shapes' ||
  error.code === 'no-replica' ||
  error.code === 'usage' ||
  error.code === 'malformed';
