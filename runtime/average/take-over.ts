// Taking over units of another replica: all that were asked for, or nothing. What a worker does that comes late, or that the others have left
// behind.
import { MeshError } from '../errors.ts';
import { paddedTo } from '../layer-store.ts';
import { f32Of, type Tensors } from '../tensor.ts';
import type { Replica, Reply } from '../wire/messages.ts';
import type { PullsOptions } from './pulls.ts';
import { batched, type Shelf } from './shelf.ts';

const PULL_MS = 120_000;
const TRIES = 8;

export type TakeOverOptions = Pick<PullsOptions, 'ask' | 'run' | 'shelf' | 'compute' | 'handle'>;

export interface TakenOver {
  /** The last exchange of the group that is in it; −1: none. */
  round: number;
  /** Local steps that the other replica had taken. */
  steps: number;
}

interface Pulled {
  kind: Kind;
  units: number[];
  tensors: Tensors;
  reply: Reply<'layers.pull'>;
}

/** Its shown weights, of one moment or nearly so. Rejects before anything is changed where they are no weights of these units. */
export async function takeWeights(
  options: TakeOverOptions,
  replica: Replica,
  signal: AbortSignal,
): Promise<{ steps: number }> {
  const { shelf, compute, handle } = options;
  const answers = [];
  for (const units of batched(
    shelf.units.map((_, unit) => unit),
    shelf.units,
  ))
    answers.push(await pulled(options, replica, 'weights', units, undefined, signal));
  await Promise.all(answers.map(({ units, tensors }) => compute.load(handle, { kind: 'weights', units }, tensors)));
  return { steps: answers.at(-1)?.reply.steps ?? 0 };
}

/**
 * The slow weights of a group and their momentum, both of the same exchange: `least`, which is waited for, or a later one. Live, shown and slow
 * weights are the other's slow ones afterwards.
 */
export async function takeOver(
  options: TakeOverOptions,
  replica: Replica,
  units: readonly number[],
  least: number,
  signal: AbortSignal,
): Promise<TakenOver> {
  const { shelf, compute, handle } = options;
  for (let tries = 0; tries < TRIES; tries += 1) {
    const answers = [];
    for (const kind of ['momentum', 'slow'] as const)
      for (const batch of batched(units, shelf.units))
        answers.push(
          await pulled(options, replica, kind, batch, kind === 'momentum' && least >= 0 ? least : undefined, signal),
        );
    const [first] = answers;
    // An exchange came between: they are not of one moment.
    if (!first || answers.some(({ reply }) => reply.round !== first.reply.round)) continue;
    const round = first.reply.round - 1;
    // Asked of the compute worker in one turn: nobody is given slow weights of one exchange and momentum of another.
    const loads = answers.map(({ kind, units: batch, tensors }) =>
      compute.load(handle, { kind: kind === 'slow' ? 'weights' : kind, units: batch }, tensors),
    );
    shelf.exchanged(units, round, first.reply.before ?? null);
    await Promise.all(loads);
    return { round, steps: answers.at(-1)?.reply.steps ?? 0 };
  }
  throw new MeshError(
    'stale',
    `${replica.uid} exchanged layers each time before its state was read.`,
    'Try again, or raise average.outer.steps.',
  );
}

type Kind = 'weights' | 'slow' | 'momentum';

async function pulled(
  { ask, run, shelf }: TakeOverOptions,
  replica: Replica,
  kind: Kind,
  units: number[],
  round: number | undefined,
  signal: AbortSignal,
): Promise<Pulled> {
  const what = { kind, units, format: 'f32' as const, ...(round === undefined ? {} : { round }) };
  const body = { uid: replica.uid, run, digest: shelf.digest, ...what };
  const { body: reply, tensors } = await ask(replica, 'layers.pull', body, { signal, deadlineMs: PULL_MS });
  expectUnits(shelf, units, tensors);
  return { kind, units, tensors, reply };
}

/** Throws `malformed` or `not-finite`. The compute worker looks too, but not before what came first has been written. */
function expectUnits(shelf: Shelf, units: readonly number[], tensors: Tensors): void {
  const count = units.reduce((sum, unit) => sum + paddedTo(shelf.units[unit]?.count ?? 0), 0);
  const data = tensors.get('data');
  if (tensors.size !== 1 || data?.dtype !== 'f32' || data.data.byteLength !== count * 4)
    throw new MeshError(
      'malformed',
      `${units.length} units of ${count} values came as ${[...tensors.keys()].join(', ') || 'nothing'} of ${data?.data.byteLength ?? 0} bytes.`,
      'Check that both replicas are of the same model, cut into units of the same size.',
    );
  if (!f32Of(data).every(Number.isFinite))
    throw new MeshError(
      'not-finite',
      'The units to take over hold NaN or infinity.',
      'Take over from another replica.',
    );
}
