// A worker that comes when others have trained already begins with a full model of the neighbour that is furthest.
import type { Averaging } from '../average/averaging.ts';
import { batched } from '../average/shelf.ts';
import type { Compute } from '../compute.ts';
import { toMeshError } from '../errors.ts';
import type { Emit } from '../events.ts';
import type { StoredKind } from '../layer-store.ts';
import type { Ask } from '../mesh/ask.ts';
import type { StageRun } from '../server/stage-run.ts';
import type { Tensors } from '../tensor.ts';
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

interface Pulled {
  kind: StoredKind;
  units: number[];
  tensors: Tensors;
}

const OFFER_MS = 5_000;
const PULL_MS = 120_000;

/** Resolves with whose model was taken over; null where nobody has trained yet. All of it is taken over, or nothing. */
export async function catchUp(options: CatchUpOptions): Promise<{ from: string; steps: number } | null> {
  const { run, averaging, compute, emit, signal } = options;
  for (const replica of await furthest(options)) {
    try {
      const { pulled, steps } = await pullAll(options, replica);
      for (const { kind, units, tensors } of pulled) await compute.load(run.handle, { kind, units }, tensors);
      // Where exchanges are counted by steps, this worker is where the others are.
      if (averaging.outer) run.jump(steps);
      return { from: replica.uid, steps };
    } catch (cause) {
      signal.throwIfAborted();
      const { message } = toMeshError(cause);
      emit({ kind: 'log', level: 'warn', message: `The model of ${replica.uid} could not be taken over: ${message}` });
    }
  }
  return null;
}

/** Those that have trained, the furthest first. */
async function furthest({ run, averaging, replicas, ask, signal }: CatchUpOptions): Promise<Replica[]> {
  const offers = await Promise.all(
    replicas.map(async (replica) => {
      const body = { uid: replica.uid, run: run.run, digest: averaging.shelf.digest };
      try {
        const { body: offer } = await ask(replica, 'layers.offer', body, { signal, deadlineMs: OFFER_MS });
        return { replica, steps: offer.steps };
      } catch {
        signal.throwIfAborted();
        return { replica, steps: 0 }; // one that does not answer has nothing to give
      }
    }),
  );
  return offers
    .filter(({ steps }) => steps > 0)
    .sort((a, b) => b.steps - a.steps)
    .map(({ replica }) => replica);
}

async function pullAll(
  { run, averaging, ask, signal }: CatchUpOptions,
  replica: Replica,
): Promise<{ pulled: Pulled[]; steps: number }> {
  const { shelf, outer } = averaging;
  const every = shelf.units.map((_, unit) => unit);
  const pulled: Pulled[] = [];
  let steps = 0;
  for (const kind of outer ? (['slow', 'momentum'] as const) : (['weights'] as const))
    for (const units of batched(every, shelf.units)) {
      const what = { kind, units, format: 'f32' as const };
      const body = { uid: replica.uid, run: run.run, digest: shelf.digest, ...what };
      const answer = await ask(replica, 'layers.pull', body, { signal, deadlineMs: PULL_MS });
      steps = answer.body.steps;
      // Training begins from the slow weights.
      pulled.push({ kind: kind === 'slow' ? 'weights' : kind, units, tensors: answer.tensors });
    }
  return { pulled, steps };
}
