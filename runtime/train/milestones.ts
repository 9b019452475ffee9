// Where a run stops for a moment: to evaluate, to keep a checkpoint, to end. Pure.

export interface Milestone {
  /** Steps that are taken by then. */
  step: number;
  evaluates: boolean;
  keepsCheckpoint: boolean;
}

export interface MilestoneOptions {
  /** Steps that were taken before. */
  start: number;
  steps: number;
  stepsPerEpoch: number;
  mode: 'sync' | 'async';
  /** null: after every epoch. */
  evalEvery: number | null;
  /** null: never. */
  checkpointEvery: number | null;
}

/**
 * In order; the last one is the end of the run, which evaluates and keeps a checkpoint whatever the rest says. In async mode there is one
 * state of the model only at the end of an epoch, where its replicas are brought together.
 */
export function milestones(options: MilestoneOptions): Milestone[] {
  const { start, steps, stepsPerEpoch, mode, evalEvery, checkpointEvery } = options;
  const found: Milestone[] = [];
  const isEvery = (step: number, every: number): boolean => step % every === 0;
  for (let step = start + 1; step < steps; step += 1) {
    const endsEpoch = isEvery(step, stepsPerEpoch);
    const evaluates = mode === 'async' || evalEvery === null ? endsEpoch : isEvery(step, evalEvery);
    const keepsCheckpoint = checkpointEvery !== null && (mode === 'async' ? endsEpoch : isEvery(step, checkpointEvery));
    if (evaluates || keepsCheckpoint) found.push({ step, evaluates, keepsCheckpoint });
  }
  return [...found, { step: steps, evaluates: true, keepsCheckpoint: checkpointEvery !== null }];
}
