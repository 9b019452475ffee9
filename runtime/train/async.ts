// Asynchronous training: every trainer runs on its own, every stage steps when it has enough microbatches, replicas are averaged now
// and then. Staleness is bounded by what may be in flight, and reported. A microbatch that fails is driven again under its old key.
import { MeshError, toMeshError } from '../errors.ts';
import type { Microbatch } from './schedule.ts';
import type { Session } from './session.ts';
import type { Trainer } from './trainer.ts';

const MAX_TRIES = 100;
const AVERAGE_MS = 60_000;
const ROSTER_MS = 250;

export interface AsyncProgress {
  step: number;
  loss: number;
  samples: number;
}

/** Drives all steps from `from` up to (not including) `to`; resolves when every microbatch of them is done, and averages at the end. */
export async function asyncSteps(
  session: Session,
  from: number,
  to: number,
  onProgress: (progress: AsyncProgress) => void,
): Promise<number> {
  const { schedule, config, signal } = session.options;
  const stop = new AbortController();
  const ended = AbortSignal.any([signal, stop.signal]);
  await session.ready(from);
  session.formPipelines();
  const queue = tasksOf(schedule.at, from, to);
  const running = new Map<string, Promise<void>>();
  let lastAverage = from;
  let worstStaleness = 0;
  let done = 0;
  const lane = async (trainer: Trainer): Promise<void> => {
    while (session.trainers.includes(trainer)) {
      const next = queue.next();
      if (next.done) return;
      const result = await drive(session, trainer, next.value, ended);
      worstStaleness = Math.max(worstStaleness, result.staleness);
      session.applied += 1;
      done += 1;
      onProgress({
        step: next.value.step,
        loss: result.loss * (next.value.batchRows / result.rows),
        samples: result.rows,
      });
      if (next.value.step >= lastAverage + config.averageEvery) {
        lastAverage = next.value.step;
        await averageAll(session);
      }
    }
  };
  const total = tasksCount(schedule.at, from, to);
  const startLanes = (): void => {
    for (const trainer of session.trainers)
      for (let i = 0; i < config.inflight; i += 1) {
        const name = `${trainer.id}.${i}`;
        if (!running.has(name))
          running.set(
            name,
            lane(trainer).finally(() => running.delete(name)),
          );
      }
  };
  try {
    while (done < total) {
      ended.throwIfAborted();
      startLanes();
      await Promise.race([Promise.all(running.values()), session.options.roster.change(ROSTER_MS)]);
      if (done >= total) break;
      await session.ready(Math.max(1, from));
      session.formPipelines();
    }
    await Promise.all(running.values());
  } catch (cause) {
    stop.abort(toMeshError(cause));
    await Promise.allSettled(running.values());
    throw cause;
  }
  await averageAll(session);
  return worstStaleness;
}

/** Until it is done, by whichever trainer can; always under the key that it was planned with. */
async function drive(
  session: Session,
  trainer: Trainer,
  task: Microbatch,
  signal: AbortSignal,
): Promise<{ loss: number; rows: number; staleness: number }> {
  const key = { run: session.options.run, trainer: trainer.id, step: task.step, microbatch: task.microbatch };
  let driver = trainer;
  for (let tries = 1; ; tries += 1) {
    signal.throwIfAborted();
    try {
      return await driver.run(task, key, 0, signal);
    } catch (cause) {
      signal.throwIfAborted();
      const error = toMeshError(cause);
      if (error.code === 'not-finite' || error.code === 'stage-shapes' || tries >= MAX_TRIES) throw error;
      await session.probe(0);
      await session.ready(1);
      const [first, ...others] = session.formPipelines();
      if (!first)
        throw new MeshError('no-replica', 'There is no pipeline.', 'Start a replica of every stage.', { cause });
      driver = others[tries % (others.length + 1)] ?? first;
    }
  }
}

export async function averageAll(session: Session): Promise<void> {
  const { plans, roster, ask, run, emit, signal } = session.options;
  await Promise.all(
    plans.map(async (plan, stage) => {
      const members = roster.members('active', stage);
      if (members.length < 2) return;
      const replicas = members.map((member) => member.replica);
      const outcomes = await Promise.allSettled(
        replicas.map((replica) =>
          ask(replica, 'stage.average', { uid: replica.uid, run, replicas }, { signal, deadlineMs: AVERAGE_MS }),
        ),
      );
      const merged = replicas.filter((_, i) => outcomes[i]?.status === 'fulfilled').map((replica) => replica.uid);
      emit({ kind: 'stages.averaged', run, stage: plan.name, replicas: merged });
    }),
  );
}

function* tasksOf(at: (step: number) => Microbatch[], from: number, to: number): Generator<Microbatch, undefined> {
  for (let step = from; step < to; step += 1) yield* at(step);
  return undefined;
}

function tasksCount(at: (step: number) => Microbatch[], from: number, to: number): number {
  let count = 0;
  for (let step = from; step < to; step += 1) count += at(step).length;
  return count;
}
