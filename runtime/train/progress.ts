// Figures of a run as it goes, at most every half second; the clock stands still while nothing is trained.
import type { Schedule } from './schedule.ts';
import type { Session } from './session.ts';

const PROGRESS_MS = 500;
/** Weight of the newest loss in the running mean. */
const FRESH = 0.05;

export interface Progress {
  count(done: { step: number; loss: number; samples: number }): void;
  pause(): void;
  resume(): void;
  /** While training. */
  seconds(): number;
  /** Rows that were trained on, by this client. */
  samples(): number;
}

/** `remaining`: rows that are still to come when this begins. `tokensPerRow`: null where rows are not made of tokens. */
export function progressReporter(
  session: Session,
  schedule: Schedule,
  options: { epochs: number; remaining: number; tokensPerRow: number | null },
): Progress {
  const { run, emit, roster } = session.options;
  const { epochs, remaining, tokensPerRow } = options;
  let samples = 0;
  let loss = 0;
  let spentMs = 0;
  let since: number | null = null;
  let lastShown = 0;
  const elapsed = (): number => (spentMs + (since === null ? 0 : performance.now() - since)) / 1_000;
  return {
    resume: () => {
      since ??= performance.now();
    },
    pause: () => {
      if (since !== null) spentMs += performance.now() - since;
      since = null;
    },
    seconds: elapsed,
    samples: () => samples,
    count: (done) => {
      samples += done.samples;
      loss = loss === 0 ? done.loss : loss * (1 - FRESH) + done.loss * FRESH;
      const now = performance.now();
      if (now - lastShown < PROGRESS_MS) return;
      lastShown = now;
      const samplesPerSecond = samples / Math.max(elapsed(), 1e-3);
      const memoryBytes = roster.memoryBytes();
      emit({
        kind: 'run.progress',
        run,
        epoch: Math.floor(done.step / schedule.stepsPerEpoch) + 1,
        epochs,
        step: done.step + 1,
        steps: schedule.steps,
        loss,
        samplesPerSecond,
        ...(memoryBytes === null ? {} : { memoryBytes }),
        ...(tokensPerRow === null ? {} : { tokensPerSecond: samplesPerSecond * tokensPerRow }),
        peers: roster.peers(),
        trainers: session.trainers.length,
        etaSeconds: (remaining - samples) / samplesPerSecond,
      });
    },
  };
}
