// What a worker tells of its own training as it goes: rows, loss, speed, at most every half second; the clock stands still while nothing is
// trained.
import type { EventOf } from '../events.ts';
import type { LocalStep } from './local-training.ts';

const PROGRESS_MS = 500;
/** Weight of the newest loss in the running mean. */
const FRESH = 0.05;

type Progress = Pick<EventOf<'worker.progress'>, 'step' | 'steps' | 'loss' | 'samplesPerSecond' | 'etaSeconds'>;

export class WorkerFigures {
  readonly #now: () => number;
  #samples = 0;
  #loss = 0;
  #spentMs = 0;
  #since: number | null = null;
  #shownAt = -Infinity;

  constructor(now: () => number) {
    this.#now = now;
  }

  resume(): void {
    this.#since ??= this.#now();
  }

  pause(): void {
    this.#spentMs = this.#elapsedMs;
    this.#since = null;
  }

  took({ rows, loss }: LocalStep): void {
    this.#loss = this.#samples === 0 ? loss : this.#loss * (1 - FRESH) + loss * FRESH;
    this.#samples += rows;
  }

  /** Whether there is something to tell, and nothing was told for a while. */
  get isDue(): boolean {
    return this.#samples > 0 && this.#now() - this.#shownAt >= PROGRESS_MS;
  }

  progress(step: number, steps: number, batch: number): Progress {
    this.#shownAt = this.#now();
    const { samplesPerSecond } = this;
    const etaSeconds = ((steps - step) * batch) / Math.max(samplesPerSecond, 1e-3);
    return { step, steps, loss: this.#loss, samplesPerSecond, etaSeconds };
  }

  get samplesPerSecond(): number {
    return this.#samples / Math.max(this.seconds, 1e-3);
  }

  /** While training. */
  get seconds(): number {
    return this.#elapsedMs / 1_000;
  }

  get #elapsedMs(): number {
    return this.#spentMs + (this.#since === null ? 0 : this.#now() - this.#since);
  }
}
