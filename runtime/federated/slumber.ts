// Notices that this process did not run for a while (a closed laptop, a stopped process, a frozen tab): its clock ticked late, and nothing was
// trained meanwhile although it should have been. A tab whose timers are only slowed down goes on training, and is awake.
const TICK_MS = 1_000;
/** Others have trained on for so long. */
const SLEPT_MS = 15_000;
/** Slow timers tick once a minute: beyond this it is sleep, whether there should have been steps or not. */
const CERTAIN_MS = 120_000;

export class Slumber {
  readonly #now: () => number;
  readonly #timer: ReturnType<typeof setInterval>;
  #lastTick: number;
  #lastStep: number;
  /** Longest time without a step since the last tick, as far as it has ended. */
  #idleMs = 0;
  #isTraining = false;
  #hasSlept = false;
  /** Called as it wakes. */
  onWake: () => void = () => {};

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

  /** From now on steps are taken. */
  resume(): void {
    if (this.#isTraining) return;
    this.tick();
    this.#isTraining = true;
    this.#lastStep = this.#now();
  }

  /** From now on there are none, and a short sleep cannot be told from slow timers. */
  pause(): void {
    if (!this.#isTraining) return;
    this.tick();
    this.#isTraining = false;
  }

  /** By the timer, and by whoever wants to know at once. */
  tick(): void {
    const now = this.#now();
    const lateMs = now - this.#lastTick;
    const idleMs = Math.max(this.#idleMs, now - this.#lastStep);
    this.#lastTick = now;
    this.#idleMs = 0;
    const isIdle = this.#isTraining && lateMs >= SLEPT_MS && idleMs >= lateMs - 2 * TICK_MS;
    if (!isIdle && (this.#isTraining || lateMs < CERTAIN_MS)) return;
    this.#hasSlept = true;
    this.onWake();
  }

  /** Whether it slept, and that was not made up for. */
  get hasSlept(): boolean {
    return this.#hasSlept;
  }

  madeUpFor(): void {
    this.#hasSlept = false;
  }

  close(): void {
    clearInterval(this.#timer);
  }
}
