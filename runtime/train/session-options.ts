// What a run is made of, for all who drive it.
import type { Emit } from '../events.ts';
import type { Ask } from '../mesh/ask.ts';
import type { Tensor, Tensors } from '../tensor.ts';
import type { PeerId, RunId } from '../wire/ids.ts';
import type { RunConfig, StagePlan } from './config.ts';
import type { LossScaleState } from './loss-scale.ts';
import type { Roster } from './roster.ts';
import type { Schedule } from './schedule.ts';

/** A run that goes on from where another one was. */
export interface Resumed {
  /** Steps that were taken. */
  step: number;
  lossScale: LossScaleState | null;
  /** Weights and optimizer state of the stage, named `weights/<name>` and `optimizer/<name>`. */
  stateOf(stage: number): Promise<Tensors>;
}

export interface SessionOptions {
  run: RunId;
  config: RunConfig;
  plans: readonly StagePlan[];
  roster: Roster;
  ask: Ask;
  /** Whether a link to that peer is open. */
  isConnected: (peer: PeerId) => boolean;
  emit: Emit;
  schedule: Schedule;
  batchOf: (rows: Uint32Array) => { x: Tensor; y: Tensor };
  /** Tokens to a window; 1 where a row has one label. */
  targetsPerRow: number;
  resumed?: Resumed | undefined;
  signal: AbortSignal;
}
