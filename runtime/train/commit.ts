// How a sync step ends, as the client drives it: the gradients of a parameter that both ends share are added, the norm over the whole
// model is taken, and every replica applies the same step. What comes before is sync.ts.
import { MeshError, toMeshError } from '../errors.ts';
import { isReplaceable } from '../mesh/ask.ts';
import { stageInfo } from '../model/spec.ts';
import { lrAt } from './learning-rate.ts';
import type { Member } from './roster.ts';
import type { Session } from './session.ts';

/** For asking again over a new link: a member that needs longer drops out. */
const APPLY_AGAIN_MS = 3_000;
const APPLY_PAUSE_MS = 500;
/** PyTorch's clip_grad_norm_ has it too. */
const CLIP_EPSILON = 1e-6;

export interface Held {
  member: Member;
  microbatches: number[];
}

/** What every replica is asked to apply, in every attempt to ask it: the same numbers everywhere. */
export interface Pace {
  lr?: number;
  gradientScale?: number;
  /** Of the whole model before clipping, where it was asked for. */
  gradientNorm?: number;
}

export const attemptFailed = (): MeshError =>
  new MeshError('cancelled', 'The attempt failed elsewhere.', 'Nothing to do.');

const membersOf = (held: readonly Held[], stage: number): Member[] =>
  held.filter(({ member }) => member.stage === stage).map(({ member }) => member);

/** Of a model whose first and last stage share a parameter: each replica of either takes the other end's gradient of it. */
export async function tieAll(session: Session, held: readonly Held[], step: number, attempt: number): Promise<void> {
  const { run, ask, config, signal, plans } = session.options;
  const [plan] = plans;
  if (!plan || plans.length === 1 || stageInfo(config.model, plan.from, plan.to).tied === null) return;
  const stop = new AbortController();
  const options = { signal: AbortSignal.any([signal, stop.signal]), deadlineMs: config.deadlineMs };
  const ends = [membersOf(held, 0), membersOf(held, plans.length - 1)] as const;
  const requests = ends.flatMap((members, end) => {
    const others = ends[end === 0 ? 1 : 0].map((member) => member.replica);
    return members.map(({ replica }, i) => {
      // Each begins with another one, so that no replica serves them all.
      const turned = others.map((_, j) => others[(i + j) % others.length] ?? replica);
      return ask(replica, 'stage.tie', { uid: replica.uid, run, step, attempt, others: turned }, options);
    });
  });
  try {
    await Promise.all(requests);
  } catch (cause) {
    stop.abort(attemptFailed());
    throw cause;
  }
}

/** Learning rate and gradient scale of the step. Rejects `not-finite` where the norm is asked for and is not finite. */
export async function paceOf(session: Session, held: readonly Held[], step: number, attempt: number): Promise<Pace> {
  const { config } = session.options;
  const { rate, lossScale } = session;
  const lr = rate ? { lr: lrAt(rate, step) } : {};
  if (config.clip === undefined && !lossScale) return lr;
  const scale = lossScale?.value ?? 1;
  const gradientNorm = (await globalNorm(session, held, step, attempt)) / scale;
  const factor = config.clip === undefined ? 1 : Math.min(1, config.clip / (gradientNorm + CLIP_EPSILON));
  const gradientScale = factor / scale;
  return { ...lr, gradientNorm, ...(gradientScale === 1 ? {} : { gradientScale }) };
}

/** All replicas of a stage hold the same gradient: one of each is asked. */
async function globalNorm(session: Session, held: readonly Held[], step: number, attempt: number): Promise<number> {
  const { plans } = session.options;
  const squares = await Promise.all(
    plans.map((_, stage) => squaredNorm(session, membersOf(held, stage), step, attempt)),
  );
  const norm = Math.sqrt(squares.reduce<number>((sum, square) => sum + (square ?? NaN), 0));
  if (Number.isFinite(norm)) return norm;
  throw new MeshError(
    'not-finite',
    `The gradient of step ${step} is not finite${session.lossScale ? ` at loss scale ${session.lossScale.value}` : ''}.`,
    'Lower the learning rate.',
  );
}

async function squaredNorm(
  session: Session,
  members: readonly Member[],
  step: number,
  attempt: number,
): Promise<number | null> {
  const { run, ask, config, signal } = session.options;
  let last: unknown = new MeshError('no-replica', 'A stage has no replica.', 'Start one.');
  for (const { replica } of members) {
    try {
      const request = { uid: replica.uid, run, step, attempt };
      const options = { signal, deadlineMs: config.deadlineMs / members.length };
      return (await ask(replica, 'stage.norm', request, options)).body.squaredNorm;
    } catch (cause) {
      last = cause;
      if (signal.aborted || !isReplaceable(toMeshError(cause))) throw cause;
    }
  }
  throw last;
}

/**
 * The commit. Every member has the whole gradient by now, so one that fails here only drops out and takes over the state later. A stage
 * of which nobody answered is asked again and again: to give up here would be to lose the run.
 */
export async function applyAll(
  session: Session,
  held: readonly Held[],
  step: number,
  attempt: number,
  pace: Pace,
): Promise<void> {
  const { roster, plans, emit, run } = session.options;
  await Promise.all(
    plans.map(async (plan, stage) => {
      const members = membersOf(held, stage);
      const failed = await applyStage(session, members, plan.name, { step, attempt, ...pace });
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

type Order = Pace & { step: number; attempt: number };

/** Until at least one member has applied; returns those that have not. */
async function applyStage(
  session: Session,
  members: readonly Member[],
  name: string,
  order: Order,
): Promise<Map<Member, MeshError>> {
  const { config, signal } = session.options;
  const until = performance.now() + config.patienceMs;
  for (;;) {
    const errors = await Promise.all(members.map((member) => applyOne(session, member, order)));
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
        `Every replica of ${name} was lost in the commit of step ${order.step}: ${error?.message ?? ''}`,
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

async function applyOne(session: Session, member: Member, order: Order): Promise<MeshError | null> {
  const { ask, run, signal, config } = session.options;
  const { step, attempt, lr, gradientScale } = order;
  const request = {
    ...{ uid: member.replica.uid, run, step, attempt },
    ...(lr === undefined ? {} : { lr }),
    ...(gradientScale === undefined ? {} : { gradientScale }),
  };
  let error: MeshError | null = null;
  for (const deadlineMs of [config.deadlineMs / 2, APPLY_AGAIN_MS]) {
    try {
      await ask(member.replica, 'stage.apply', request, { signal, deadlineMs });
      return null;
    } catch (cause) {
      signal.throwIfAborted();
      error = toMeshError(cause);
      if (error.code !== 'link-lost') break;
    }
  }
  return error;
}
