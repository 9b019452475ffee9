// Asynchronous training: every trainer runs on its own, every stage steps when it has enough microbatches, replicas are averaged now
// and then. Staleness is bounded by what may be in flight, and reported. A microbatch that fails is driven again under its old key and
// over the replicas that it went to first, because those that did it already answer without doing it twice.
import { MeshError, toMeshError } from '../errors.ts';
import type { Member } from './roster.ts';
import type { Microbatch } from './schedule.ts';
import type { Session } from './session.ts';
import type { Driven, Trainer } from './trainer.ts';

const MAX_TRIES = 50;
const AVERAGE_MS = 60_000;
const FLUSH_MS = 20_000;
const ROSTER_MS = 250;

export interface AsyncProgress {
  step: number;
  loss: number;
  samples: number;
}

/** Drives steps `from` up to (not including) `to`; when all their microbatches are done, brings the replicas together. Returns the worst staleness. */
export async function asyncSteps(
  session: Session,
  from: number,
  to: number,
  onProgress: (progress: AsyncProgress) => void,
): Promise<number> {
  await session.ready(from);
  session.formPipelines();
  const lanes = new Lanes(session, tasksOf(session, from, to), from, onProgress);
  try {
    await lanes.run();
  } finally {
    await lanes.stop();
  }
  await bringTogether(session);
  return lanes.worstStaleness;
}

/** `inflight` lanes for each trainer, each taking the next task from one queue; lanes follow the trainers that come and go. */
class Lanes {
  readonly #session: Session;
  readonly #tasks: Iterator<Microbatch, undefined>;
  readonly #onProgress: (progress: AsyncProgress) => void;
  readonly #running = new Map<string, Promise<void>>();
  readonly #stop = new AbortController();
  readonly #failure = Promise.withResolvers<never>();
  #isExhausted = false;
  #averaging: Promise<void> | null = null;
  #lastAverage: number;
  worstStaleness = 0;

  constructor(
    session: Session,
    tasks: Iterator<Microbatch, undefined>,
    from: number,
    onProgress: (progress: AsyncProgress) => void,
  ) {
    this.#session = session;
    this.#tasks = tasks;
    this.#lastAverage = from;
    this.#onProgress = onProgress;
    this.#failure.promise.catch(() => undefined); // it is raced wherever this class waits; it may also come when nobody does
  }

  /** Until the queue is empty and every lane is through. Rejects with the first failure of any lane. */
  async run(): Promise<void> {
    const { roster } = this.#session.options;
    for (;;) {
      this.#signal.throwIfAborted();
      this.#start();
      if (this.#isExhausted && this.#running.size === 0) return;
      await Promise.race([
        this.#failure.promise,
        roster.change(ROSTER_MS),
        ...(this.#isExhausted ? [Promise.all(this.#running.values())] : []),
      ]);
      if (this.#isExhausted) continue;
      await Promise.race([this.#failure.promise, this.#session.ready(1, this.#signal)]);
      this.#session.formPipelines();
    }
  }

  async stop(): Promise<void> {
    this.#stop.abort(new MeshError('cancelled', 'Training ended elsewhere.', 'Nothing to do.'));
    await Promise.allSettled([...this.#running.values(), this.#averaging]);
  }

  get #signal(): AbortSignal {
    return AbortSignal.any([this.#session.options.signal, this.#stop.signal]);
  }

  #start(): void {
    if (this.#isExhausted) return;
    for (const trainer of this.#session.trainers)
      for (let i = 0; i < this.#session.drive(Infinity).inflight; i += 1) {
        const name = `${trainer.id}.${i}`;
        if (this.#running.has(name)) continue;
        this.#running.set(
          name,
          this.#lane(trainer)
            .catch((cause: unknown) => this.#failure.reject(toMeshError(cause)))
            .finally(() => this.#running.delete(name)),
        );
      }
  }

  async #lane(trainer: Trainer): Promise<void> {
    const signal = this.#signal;
    while (this.#session.trainers.includes(trainer)) {
      const next = this.#tasks.next();
      if (next.done) {
        this.#isExhausted = true;
        return;
      }
      const task = next.value;
      const result = await drive(this.#session, trainer, task, signal);
      for (const uid of result.path) {
        const member = this.#session.options.roster.byUid(uid);
        if (member) this.#session.options.roster.setReliable(member);
      }
      this.worstStaleness = Math.max(this.worstStaleness, result.staleness);
      this.#session.applied += 1;
      this.#onProgress({ step: task.step, loss: result.meanLoss, samples: result.rows });
      this.#averageWhenDue(task.step);
    }
  }

  /** Beside training, and one at a time. */
  #averageWhenDue(step: number): void {
    if (this.#averaging || step < this.#lastAverage + this.#session.options.config.averageEvery) return;
    this.#averaging = averageAll(this.#session).finally(() => {
      this.#averaging = null;
      this.#lastAverage = step;
    });
    this.#averaging.catch((cause: unknown) => this.#failure.reject(toMeshError(cause)));
  }
}

/** Until it is done, by whichever trainer can. */
async function drive(session: Session, trainer: Trainer, task: Microbatch, signal: AbortSignal): Promise<Driven> {
  const key = { run: session.options.run, trainer: trainer.id, step: task.step, microbatch: task.microbatch };
  const path = trainer.choose();
  for (let tries = 1; ; tries += 1) {
    signal.throwIfAborted();
    try {
      return await trainer.run(task, key, 0, signal, path);
    } catch (cause) {
      signal.throwIfAborted();
      const error = toMeshError(cause);
      if (error.code === 'not-finite' || error.code === 'stage-shapes' || error.code === 'usage' || tries >= MAX_TRIES)
        throw error;
      await session.probe(1);
      await session.ready(1, signal);
    }
  }
}

/**
 * The last steps of batches that are not full, then one average that all replicas of a stage have: what was applied is in the weights
 * of each. All of them do that round, for what one shows is what it had in its own last; then all take over what the first one has.
 */
async function bringTogether(session: Session): Promise<void> {
  const { roster, ask, run, signal, plans, emit } = session.options;
  session.averageRound += 1;
  await Promise.all(
    plans.map(async (plan, stage) => {
      const members = roster.members('active', stage);
      const flushed = await settled(members, (member) =>
        ask(member.replica, 'stage.flush', { uid: member.replica.uid, run }, { signal, deadlineMs: FLUSH_MS }),
      );
      signal.throwIfAborted();
      for (const [member, error] of flushed) dropOut(session, member, error);
      const left = members.filter((member) => !flushed.has(member));
      if (left.length < 2) return;
      const replicas = left.map((member) => member.replica);
      const options = { signal, deadlineMs: AVERAGE_MS };
      const round = session.averageRound;
      const unmerged = await settled(left, ({ replica }) =>
        ask(replica, 'stage.average', { uid: replica.uid, run, replicas, round }, options),
      );
      signal.throwIfAborted();
      const [first, ...others] = left.filter((member) => !unmerged.has(member));
      if (!first) throw [...unmerged.values()][0] ?? new MeshError('no-replica', `No replica of ${plan.name} is left.`, 'Start one.'); // prettier-ignore
      for (const [member, error] of unmerged) dropOut(session, member, error);
      const failed = await settled(others, (member) =>
        ask(member.replica, 'stage.adopt', { ...session.admission.openBody(member), from: first.replica }, options),
      );
      signal.throwIfAborted();
      for (const [member, error] of failed) dropOut(session, member, error);
      emit({ kind: 'stages.averaged', run, stage: plan.name, replicas: replicas.map((replica) => replica.uid) });
    }),
  );
}

/** Those for which the work failed, and why. */
async function settled(
  members: readonly Member[],
  work: (member: Member) => Promise<unknown>,
): Promise<Map<Member, MeshError>> {
  const outcomes = await Promise.allSettled(members.map(work));
  return new Map(
    members.flatMap((member, i) => {
      const outcome = outcomes[i];
      return outcome?.status === 'rejected' ? [[member, toMeshError(outcome.reason)] as const] : [];
    }),
  );
}

function dropOut(session: Session, member: Member, error: MeshError): void {
  const { roster, emit, run } = session.options;
  roster.setOut(member);
  emit({
    kind: 'log',
    level: 'warn',
    message: `${run}: ${member.replica.uid} was left out of the average: ${error.message}`,
  });
}

async function averageAll(session: Session): Promise<void> {
  const { plans, roster, ask, run, emit, signal } = session.options;
  const round = (session.averageRound += 1);
  await Promise.all(
    plans.map(async (plan, stage) => {
      const replicas = roster.members('active', stage).map((member) => member.replica);
      if (replicas.length < 2) return;
      const outcomes = await Promise.allSettled(
        replicas.map((replica) =>
          ask(replica, 'stage.average', { uid: replica.uid, run, replicas, round }, { signal, deadlineMs: AVERAGE_MS }),
        ),
      );
      signal.throwIfAborted();
      const merged = replicas.filter((_, i) => {
        const outcome = outcomes[i];
        return outcome?.status === 'fulfilled' && outcome.value.body.merged > 0;
      });
      emit({ kind: 'stages.averaged', run, stage: plan.name, replicas: merged.map((replica) => replica.uid) });
    }),
  );
}

function* tasksOf(session: Session, from: number, to: number): Generator<Microbatch, undefined> {
  for (let step = from; step < to; step += 1) yield* session.options.schedule.at(step);
  return undefined;
}
