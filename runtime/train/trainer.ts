// A trainer drives microbatches through one pipeline: it sends the first stage a frame that carries the rest of the route, and gets
// the loss when the gradient has come all the way back. It owns no weights.
import type { Emit, MicrobatchKey } from '../events.ts';
import { passOn, type Ask } from '../mesh/ask.ts';
import type { WireFormat } from '../wire/activation-codec.ts';
import type { Reply } from '../wire/messages.ts';
import type { RunId } from '../wire/ids.ts';
import type { Tensor } from '../tensor.ts';
import { pickHops, routeOf } from './paths.ts';
import type { Member, Roster } from './roster.ts';
import type { Microbatch } from './schedule.ts';

export interface TrainerOptions {
  id: string;
  run: RunId;
  /** The pipeline's replicas, by UID; null: each hop is picked for each microbatch. */
  path: string[] | null;
  roster: Roster;
  ask: Ask;
  emit: Emit;
  batchOf: (rows: Uint32Array) => { x: Tensor; y: Tensor };
  /** What the loss of each target is multiplied by: 1 / (targets of the step), times the loss scale. */
  scaleOf: (task: Microbatch) => number;
  /** The seed of the microbatch's dropout masks, if there are any. */
  dropoutOf: (task: Microbatch) => number | undefined;
  deadlineMs: number;
  /** How activations and gradients travel between stages, and what a stage computes first; absent: f32, in order of arrival. */
  wire?: WireFormat | undefined;
  prefer?: 'forward' | 'backward' | undefined;
}

export type Driven = Reply<'stage.forward'> & {
  /** Over the targets that count. */
  meanLoss: number;
};

export class Trainer {
  readonly options: TrainerOptions;

  constructor(options: TrainerOptions) {
    this.options = options;
  }

  get id(): string {
    return this.options.id;
  }

  /** Forward and backward of one microbatch. The key names it for ever, whoever drives it again. */
  async run(
    task: Microbatch,
    key: MicrobatchKey,
    attempt: number,
    signal: AbortSignal,
    path: readonly string[] = this.choose(),
  ): Promise<Driven> {
    const { ask, emit, run, batchOf, deadlineMs, wire, prefer } = this.options;
    const scale = this.options.scaleOf(task);
    const dropout = this.options.dropoutOf(task);
    const stages = this.options.roster.active();
    const [hop, ...route] = routeOf(stages, indicesOf(stages, path));
    const { x, y } = batchOf(task.rows);
    const chosen = [hop, ...route].map((candidates) => this.options.roster.byUid(candidates[0]?.uid ?? ''));
    count(chosen, 1);
    try {
      const { body } = await passOn(
        hop,
        'stage.forward',
        (replica) => ({
          uid: replica.uid,
          run,
          step: task.step,
          attempt,
          key: { ...key, run },
          scale,
          ...(dropout === undefined ? {} : { dropout }),
          ...(wire === undefined ? {} : { wire }),
          ...(prefer === undefined ? {} : { prefer }),
          route,
        }),
        {
          ask,
          emit,
          key,
          signal,
          deadlineMs,
          tensors: new Map([
            ['x', x],
            ['y', y],
          ]),
        },
      );
      const meanLoss = body.loss / (scale * Math.max(1, body.counted));
      emit({ kind: 'microbatch.done', key, attempt, path: body.path, loss: meanLoss, rows: body.rows });
      return { ...body, meanLoss };
    } finally {
      count(chosen, -1);
    }
  }

  /** The replicas, by UID, that a microbatch of this trainer takes now. */
  choose(): string[] {
    const stages = this.options.roster.active();
    return this.options.path ?? pickHops(stages).map((index, stage) => stages[stage]?.[index]?.replica.uid ?? '');
  }
}

/** Where a replica of the path is no longer active, the first of its stage. */
const indicesOf = (stages: readonly Member[][], path: readonly string[]): number[] =>
  stages.map((members, stage) =>
    Math.max(
      0,
      members.findIndex((member) => member.replica.uid === path[stage]),
    ),
  );

function count(members: readonly (Member | undefined)[], by: number): void {
  for (const member of members) if (member) member.outstanding = Math.max(0, member.outstanding + by);
}
