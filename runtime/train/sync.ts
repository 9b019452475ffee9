// Synchronous training: a step is a transaction. All microbatches run, the replicas of each stage add up their gradients, all apply.
// Whatever fails before the last part makes the step begin again as another attempt, with nothing of the old one left; so every
// planned microbatch counts exactly once, and the result equals one machine training alone, to rounding.
import { MeshError, toMeshError } from '../errors.ts';
import { isReplaceable } from '../mesh/ask.ts';
import type { Trainer } from './trainer.ts';
import type { Member } from './roster.ts';
import type { Microbatch } from './schedule.ts';
import type { Session } from './session.ts';

const MAX_ATTEMPTS = 50;
const MAX_PAUSE_MS = 2_000;
/** For asking again over a new link: a member that needs longer drops out. */
const APPLY_AGAIN_MS = 3_000;
const APPLY_PAUSE_MS = 500;

interface Held {
  member: Member;
  microbatches: number[];
}

/** Runs step `step` to its commit; returns the mean loss over its rows. */
export async function syncStep(session: Session, step: number): Promise<number> {
  const { schedule, emit, run, signal } = session.options;
  const tasks = schedule.at(step);
  for (let attempt = 0; ; attempt += 1) {
    signal.throwIfAborted();
    await session.ready(step);
    try {
      const trainers = session.formPipelines();
      const { loss, held } = await runAll(session, trainers, tasks, attempt);
      await reduceAll(session, held, step, attempt);
      await applyAll(session, held, step, attempt);
      session.applied += tasks.length;
      emit({ kind: 'step.applied', run, step, loss, stages: contributions(session, held) });
      return loss;
    } catch (cause) {
      signal.throwIfAborted();
      const error = toMeshError(cause);
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
  const { run, config, roster, signal } = session.options;
  const stop = new AbortController();
  const held = new Map<string, Held>(
    roster.members('active').map((member) => [member.replica.uid, { member, microbatches: [] }]),
  );
  let loss = 0;
  let next = 0;
  const drive = async (): Promise<void> => {
    for (let task = tasks[next++]; task; task = tasks[next++]) {
      const trainer = trainers[(task.step * tasks.length + task.microbatch) % trainers.length];
      if (!trainer) throw new MeshError('no-replica', 'There is no pipeline.', 'Start a replica of every stage.');
      const key = { run, trainer: trainer.id, step: task.step, microbatch: task.microbatch };
      const result = await trainer.run(task, key, attempt, AbortSignal.any([signal, stop.signal]));
      loss += result.loss;
      for (const uid of result.path) {
        const holder = held.get(uid);
        if (!holder)
          throw new MeshError('stale', `${uid} took part and is no longer a member.`, 'The step is tried again.');
        holder.microbatches.push(task.microbatch);
      }
    }
  };
  try {
    await Promise.all(Array.from({ length: Math.min(tasks.length, trainers.length * config.inflight) }, drive));
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

/**
 * The commit. Every member has the whole gradient by now, so one that fails here only drops out and takes over the state later. A stage
 * of which nobody answered is asked again and again: to give up here would be to lose the run.
 */
async function applyAll(session: Session, held: readonly Held[], step: number, attempt: number): Promise<void> {
  const { roster, plans, emit, run } = session.options;
  await Promise.all(
    plans.map(async (plan, stage) => {
      const members = held.filter(({ member }) => member.stage === stage).map(({ member }) => member);
      const failed = await applyStage(session, members, plan.name, step, attempt);
      for (const member of members) if (!failed.has(member)) roster.setReliable(member);
      for (const [member, error] of failed) {
        roster.setOut(member);
        emit({
          kind: 'log',
          level: 'warn',
          message: `${run}: ${member.replica.uid} missed the commit of step ${step}: ${error.message}`,
        });
      }
    }),
  );
}

/** Until at least one member has applied; returns those that have not. */
async function applyStage(
  session: Session,
  members: readonly Member[],
  name: string,
  step: number,
  attempt: number,
): Promise<Map<Member, MeshError>> {
  const { config, signal } = session.options;
  const until = performance.now() + config.patienceMs;
  for (;;) {
    const errors = await Promise.all(members.map((member) => applyOne(session, member, step, attempt)));
    const failed = new Map(members.flatMap((member, i) => (errors[i] ? [[member, errors[i]] as const] : [])));
    if (failed.size < members.length) return failed;
    const [error] = failed.values();
    if (error?.code === 'not-finite') throw error;
    if (
      !error ||
      ![...failed.values()].some(isReplaceable) ||
      performance.now() > until ||
      members.every((member) => isGone(session, member))
    )
      throw new MeshError(
        'no-replica',
        `Every replica of ${name} was lost in the commit of step ${step}: ${error?.message ?? ''}`,
        'Run with more replicas of every stage; start again.',
        { cause: error },
      );
    signal.throwIfAborted();
    await new Promise((resolve) => setTimeout(resolve, APPLY_PAUSE_MS));
  }
}

/** Its record is gone, or another process has taken its place: what it held is lost. */
const isGone = (session: Session, member: Member): boolean =>
  session.options.roster.byUid(member.replica.uid) !== member;

async function applyOne(session: Session, member: Member, step: number, attempt: number): Promise<MeshError | null> {
  const { ask, run, signal, config } = session.options;
  let error: MeshError | null = null;
  for (const deadlineMs of [config.deadlineMs / 2, APPLY_AGAIN_MS]) {
    try {
      await ask(member.replica, 'stage.apply', { uid: member.replica.uid, run, step, attempt }, { signal, deadlineMs });
      return null;
    } catch (cause) {
      signal.throwIfAborted();
      error = toMeshError(cause);
      if (error.code !== 'link-lost') break;
    }
  }
  return error;
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

const attemptFailed = (): MeshError => new MeshError('cancelled', 'The attempt failed elsewhere.', 'Nothing to do.');

/** What another attempt cannot mend. */
const isHopeless = (error: MeshError): boolean =>
  error.code === 'not-finite' ||
  error.code === 'stage-shapes' ||
  error.code === 'no-replica' ||
  error.code === 'usage' ||
  error.code === 'malformed';
