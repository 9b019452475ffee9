// Notices that this process did not run for a while (a closed laptop, a stopped process, a frozen tab): its clock ticked late, and nothing was
// trained meanwhile. A tab whose timers are only slowed down goes on training, and is awake.
const TICK_MS = 1_000;
/** Others have trained on for so long. */
const SLEPT_MS = 15_000;

export class Slumber {
  readonly #now: () => number;
  readonly #timer: ReturnType<typeof setInterval>;
  #lastTick: number;
  #lastStep: number;
  /** Longest time without a step since the last tick, as far as it has ended. */
  #idleMs = 0;
  #sleptMs = 0;

  /** `now`: milliseconds of a clock that goes on while the machine sleeps. */
  constructor(now: () => number = Date.now) {
    this.#now = now;
    this.#lastTick = this.#lastStep = now();
    this.#timer = setInterval(() => this.tick(), TICK_MS);
  }

  /** A step was taken. */
  stepped(): void {
    const now = this.#now();
    this.#idleMs = Math.max(this.#idleMs, now - this.#lastStep);
    this.#lastStep = now;
  }

  /** By the timer. */
  tick(): void {
    const now = this.#now();
    const lateMs = now - this.#lastTick;
    const idleMs = Math.max(this.#idleMs, now - this.#lastStep);
    if (lateMs >= SLEPT_MS && idleMs >= lateMs - 2 * TICK_MS) this.#sleptMs += lateMs;
    this.#lastTick = now;
    this.#idleMs = 0;
  }

  /** How long it slept since that was last made up for; 0 where it did not. */
  get sleptMs(): number {
    return this.#sleptMs;
  }

  madeUpFor(): void {
    this.#sleptMs = 0;
  }

  close(): void {
    clearInterval(this.#timer);
  }
}
