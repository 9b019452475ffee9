// Which rows make up which microbatch of which step. Pure: the same plan on every machine, and known before the run begins.

export interface Microbatch {
  step: number;
  /** Index within the step. */
  microbatch: number;
  epoch: number;
  /** Rows of the data set. */
  rows: Uint32Array;
  /** Rows of the whole step: gradients are means over them. */
  batchRows: number;
}

export interface ScheduleOptions {
  rows: number;
  batch: number;
  microbatch: number;
  epochs: number;
  maxSteps?: number | undefined;
  /** The order of the rows in an epoch. */
  order: (epoch: number) => Uint32Array;
}

export interface Schedule {
  steps: number;
  stepsPerEpoch: number;
  microbatches: number;
  samples: number;
  /** Rows of step `step`. */
  rowsAt(step: number): number;
  microbatchesAt(step: number): number;
  /** The microbatches of step `step`, in order; together exactly its rows. */
  at(step: number): Microbatch[];
}

export function makeSchedule(options: ScheduleOptions): Schedule {
  const { rows, batch, microbatch } = options;
  const stepsPerEpoch = Math.ceil(rows / batch);
  const steps = Math.min(stepsPerEpoch * options.epochs, options.maxSteps ?? Infinity);
  const rowsOf = (step: number): number => Math.min(batch, rows - (step % stepsPerEpoch) * batch);
  let cached: { epoch: number; order: Uint32Array } | null = null;
  let microbatches = 0;
  let samples = 0;
  for (let step = 0; step < steps; step += 1) {
    microbatches += Math.ceil(rowsOf(step) / microbatch);
    samples += rowsOf(step);
  }
  return {
    steps,
    stepsPerEpoch,
    microbatches,
    samples,
    rowsAt: rowsOf,
    microbatchesAt: (step) => Math.ceil(rowsOf(step) / microbatch),
    at(step) {
      const epoch = Math.floor(step / stepsPerEpoch);
      if (cached?.epoch !== epoch) cached = { epoch, order: options.order(epoch) };
      const start = (step % stepsPerEpoch) * batch;
      const batchRows = rowsOf(step);
      return Array.from({ length: Math.ceil(batchRows / microbatch) }, (_, m) => ({
        step,
        microbatch: m,
        epoch,
        batchRows,
        rows: (cached?.order ?? new Uint32Array()).slice(
          start + m * microbatch,
          start + Math.min((m + 1) * microbatch, batchRows),
        ),
      }));
    },
  };
}
