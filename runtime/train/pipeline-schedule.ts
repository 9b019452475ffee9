// Pipeline schedules as lists: what each stage does with the microbatches of one step, in which order, and what that would take. Pure;
// nothing is driven by these lists. How a run comes close to one of them is said at `drivenBy`.

export interface Pass {
  kind: 'forward' | 'backward';
  microbatch: number;
}

/** For each stage its passes in order. */
export type PipelineSchedule = readonly (readonly Pass[])[];

export type PipelineKind = 'gpipe' | '1f1b';

const forward = (microbatch: number): Pass => ({ kind: 'forward', microbatch });
const backward = (microbatch: number): Pass => ({ kind: 'backward', microbatch });

/** All forward passes, then all backward passes. Huang et al. 2019, arXiv:1811.06965. */
export function gpipe(stages: number, microbatches: number): PipelineSchedule {
  const all = Array.from({ length: microbatches }, (_, m) => m);
  return Array.from({ length: stages }, () => [...all.map(forward), ...all.map(backward)]);
}

/**
 * Stage i begins with S − 1 − i forward passes, then takes turns, one forward and one backward, so that it never holds more than S − i
 * microbatches. Narayanan et al. 2019, PipeDream (arXiv:1806.03377), with a flush at the end of the step (arXiv:2006.09503).
 */
export function oneForwardOneBackward(stages: number, microbatches: number): PipelineSchedule {
  return Array.from({ length: stages }, (_, stage) => {
    const ahead = Math.min(stages - 1 - stage, microbatches);
    const passes = Array.from({ length: ahead }, (_unused, m) => forward(m));
    for (let m = 0; m < microbatches; m += 1) {
      if (ahead + m < microbatches) passes.push(forward(ahead + m));
      passes.push(backward(m));
    }
    return passes;
  });
}

/** Share of the time that a stage waits in either schedule, where all stages are equally fast and transfers take no time. */
export const theoreticalIdle = (stages: number, microbatches: number): number =>
  (stages - 1) / (microbatches + stages - 1);

export interface Times {
  /** Of each stage, for one microbatch. */
  forwardMs: readonly number[];
  backwardMs: readonly number[];
  /** From a stage to its neighbour; transfers go on beside the computing. */
  transferMs: number;
}

export interface Simulated {
  makespanMs: number;
  busyMs: number[];
  /** Of all stages together. */
  idleShare: number;
  /** Microbatches whose activations a stage holds at once, at most. */
  peakKept: number[];
}

/** Each pass begins as soon as its stage is free and its input is there. Throws where passes wait for each other for ever. */
export function simulate(schedule: PipelineSchedule, { forwardMs, backwardMs, transferMs }: Times): Simulated {
  const last = schedule.length - 1;
  const doneMs = new Map<string, number>();
  const next = schedule.map(() => 0);
  const freeMs = schedule.map(() => 0);
  const busyMs = schedule.map(() => 0);
  const readyMs = (stage: number, { kind, microbatch }: Pass): number | undefined => {
    const from = kind === 'forward' ? stage - 1 : stage + 1;
    if (kind === 'forward' && stage === 0) return 0;
    if (kind === 'backward' && stage === last) return doneMs.get(nameOf(stage, forward(microbatch)));
    const sentMs = doneMs.get(nameOf(from, { kind, microbatch }));
    return sentMs === undefined ? undefined : sentMs + transferMs;
  };
  for (let isMoving = true; isMoving;) {
    isMoving = false;
    for (const [stage, passes] of schedule.entries())
      for (let pass = passes[next[stage] ?? 0]; pass; pass = passes[next[stage] ?? 0]) {
        const inputMs = readyMs(stage, pass);
        if (inputMs === undefined) break;
        const tookMs = (pass.kind === 'forward' ? forwardMs : backwardMs)[stage] ?? 0;
        const endMs = Math.max(inputMs, freeMs[stage] ?? 0) + tookMs;
        doneMs.set(nameOf(stage, pass), endMs);
        freeMs[stage] = endMs;
        busyMs[stage] = (busyMs[stage] ?? 0) + tookMs;
        next[stage] = (next[stage] ?? 0) + 1;
        isMoving = true;
      }
  }
  if (schedule.some((passes, stage) => next[stage] !== passes.length))
    throw new RangeError('The passes of this schedule wait for each other.');
  const makespanMs = Math.max(0, ...freeMs);
  const busy = busyMs.reduce((sum, ms) => sum + ms, 0);
  return {
    makespanMs,
    busyMs,
    idleShare: makespanMs === 0 ? 0 : 1 - busy / (makespanMs * schedule.length),
    peakKept: schedule.map(peakOf),
  };
}

const nameOf = (stage: number, { kind, microbatch }: Pass): string => `${stage} ${kind} ${microbatch}`;

function peakOf(passes: readonly Pass[]): number {
  let kept = 0;
  let peak = 0;
  for (const { kind } of passes) {
    kept += kind === 'forward' ? 1 : -1;
    peak = Math.max(peak, kept);
  }
  return peak;
}

/** How a run comes close to a schedule. */
export interface Drive {
  /** Microbatches that each trainer has under way. */
  inflight: number;
  /** What a stage computes first where both wait; absent: whatever came first. */
  prefer?: 'forward' | 'backward';
}

/**
 * A stage is driven by requests, not by a list: it does what has come. What came is ruled by how many microbatches are under way, and
 * where several wait for its GPU, by what it prefers. `1f1b`: S + 1 under way, backward first: with S alone a stage would wait while a
 * microbatch is on its way; stage i holds at most as many as are under way, and not S − i, because those count too that are on their
 * way to the stages behind it. `gpipe`: all of the step under way, forward
 * first. In both the last stage takes forward, loss and backward of a microbatch in one pass, so gradients start back before its last
 * forward pass: driven `gpipe` differs from the list there, and takes no longer. Several trainers that share a replica add up.
 */
export function drivenBy(
  kind: PipelineKind | undefined,
  stages: number,
  microbatches: number,
  inflight: number,
): Drive {
  switch (kind) {
    case 'gpipe':
      return { inflight: microbatches, prefer: 'forward' };
    case '1f1b':
      return { inflight: Math.min(stages + 1, microbatches), prefer: 'backward' };
    case undefined:
      return { inflight };
    default:
      return kind satisfies never;
  }
}
