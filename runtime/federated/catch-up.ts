// A worker that comes when others have trained already begins with a full model of the neighbour that is furthest; one that averages beside
// training goes on with it after a sleep.
import type { Averaging } from '../average/averaging.ts';
import type { OuterExchange } from '../average/outer-exchange.ts';
import { nextExchange } from '../average/outer-schedule.ts';
import { takeWeights } from '../average/take-over.ts';
import type { Compute } from '../compute.ts';
import { toMeshError } from '../errors.ts';
import type { Emit } from '../events.ts';
import type { Ask } from '../mesh/ask.ts';
import type { StageRun } from '../server/stage-run.ts';
import type { Replica } from '../wire/messages.ts';

export interface CatchUpOptions {
  run: StageRun;
  averaging: Averaging;
  replicas: readonly Replica[];
  ask: Ask;
  compute: Compute;
  emit: Emit;
  signal: AbortSignal;
}

const OFFER_MS = 5_000;

/** Whose model was taken over; or why none was: those that answer have not begun, nobody answers, or no whole model came. */
export type CaughtUp = { from: string; steps: number } | 'nobody-ahead' | 'nobody-there' | 'failed';

/** All of a model is taken over, or nothing. */
export async function catchUp(options: CatchUpOptions): Promise<CaughtUp> {
  const { averaging, emit, signal } = options;
  const { ahead, answered } = await furthest(options);
  for (const replica of ahead) {
    try {
      const steps = averaging.outer
        ? await joinExchanges(options, averaging.outer, replica)
        : await beginWith(options, replica);
      return { from: replica.uid, steps };
    } catch (cause) {
      signal.throwIfAborted();
      const { message } = toMeshError(cause);
      emit({ kind: 'log', level: 'warn', message: `The model of ${replica.uid} could not be taken over: ${message}` });
    }
  }
  if (ahead.length > 0) return 'failed';
  return answered > 0 ? 'nobody-ahead' : 'nobody-there';
}

/** Those that are ahead, the furthest first. Who goes in step with others is behind only once they have gone on without it. */
async function furthest({
  run,
  averaging,
  replicas,
  ask,
  signal,
}: CatchUpOptions): Promise<{ ahead: Replica[]; answered: number }> {
  const isInStep = averaging.outer !== null || averaging.averager?.isSynchronous === true;
  const offers = await Promise.all(
    replicas.map(async (replica) => {
      const body = { uid: replica.uid, run: run.run, digest: averaging.shelf.digest };
      try {
        const { body: offer } = await ask(replica, 'layers.offer', body, { signal, deadlineMs: OFFER_MS });
        return { replica, steps: offer.steps, isAhead: isInStep ? offer.round > 0 : offer.steps > 0 };
      } catch {
        signal.throwIfAborted();
        return null; // one that does not answer has nothing to give
      }
    }),
  );
  const answers = offers.filter((offer) => offer !== null);
  const ahead = answers
    .filter(({ isAhead }) => isAhead)
    .sort((a, b) => b.steps - a.steps)
    .map(({ replica }) => replica);
  return { ahead, answered: answers.length };
}

async function beginWith({ run, averaging, ask, compute, signal }: CatchUpOptions, replica: Replica): Promise<number> {
  const { shelf, averager } = averaging;
  const { steps } = await takeWeights({ ask, run: run.run, shelf, compute, handle: run.handle }, replica, signal);
  if (averager?.isSynchronous === true) run.jump(steps);
  return steps;
}

/**
 * Group by group, as each is after some exchange; then this worker is where the others are, counted in steps, and takes part in the exchanges
 * that were due before that and are not in what it took over.
 */
async function joinExchanges(
  { run, averaging, replicas, signal }: CatchUpOptions,
  outer: OuterExchange,
  replica: Replica,
): Promise<number> {
  const { plan } = outer;
  let steps = 0;
  for (const group of plan.groups.keys()) steps = Math.max(steps, (await outer.adopt(group, replica, signal)).steps);
  run.jump(steps);
  for (const [group, units] of plan.groups.entries())
    for (;;) {
      const { round, due } = nextExchange(plan, group, averaging.shelf.lastExchange(units[0] ?? 0));
      if (due > steps) break;
      await outer.exchange(round, replicas, signal);
      await outer.settle();
    }
  return steps;
}
