// Taking over the slow weights of another replica, and their momentum, both of the same exchange: what a replica does that joins
// low-communication training late, or that the others have left behind.
import { MeshError } from '../errors.ts';
import type { Replica } from '../wire/messages.ts';
import type { PullsOptions } from './pulls.ts';
import { batched } from './shelf.ts';

const PULL_MS = 120_000;
const TRIES = 8;

export interface TakenOver {
  /** The last exchange of the group that is in it; −1: none. */
  round: number;
  /** Local steps that the other replica had taken. */
  steps: number;
}

/** All units of a group, or nothing: live, shown and slow weights are the other's slow ones afterwards. */
export async function takeOver(
  options: Pick<PullsOptions, 'ask' | 'run' | 'shelf' | 'compute' | 'handle'>,
  replica: Replica,
  units: readonly number[],
  signal: AbortSignal,
): Promise<TakenOver> {
  const { ask, run, shelf, compute, handle } = options;
  for (let tries = 0; tries < TRIES; tries += 1) {
    const answers = [];
    for (const kind of ['slow', 'momentum'] as const)
      for (const batch of batched(units, shelf.units)) {
        const what = { kind, units: batch, format: 'f32' as const };
        const body = { uid: replica.uid, run, digest: shelf.digest, ...what };
        answers.push({ kind, batch, ...(await ask(replica, 'layers.pull', body, { signal, deadlineMs: PULL_MS })) });
      }
    const [first] = answers;
    // An exchange came between: they are not of one moment.
    if (!first || answers.some(({ body }) => body.round !== first.body.round)) continue;
    for (const { kind, batch, tensors } of answers)
      await compute.load(handle, { kind: kind === 'slow' ? 'weights' : kind, units: batch }, tensors);
    return { round: first.body.round - 1, steps: answers.at(-1)?.body.steps ?? 0 };
  }
  throw new MeshError(
    'stale',
    `${replica.uid} exchanged layers each time before its state was read.`,
    'Try again, or raise average.outer.steps.',
  );
}
