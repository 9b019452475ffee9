// What a run is made of, for all who drive it.
import type { Emit } from '../events.ts';
import type { Ask } from '../mesh/ask.ts';
import type { Tensor } from '../tensor.ts';
import type { PeerId, RunId } from '../wire/ids.ts';
import type { RunConfig, StagePlan } from './config.ts';
import type { Roster } from './roster.ts';
import type { Schedule } from './schedule.ts';

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
  signal: AbortSignal;
}
