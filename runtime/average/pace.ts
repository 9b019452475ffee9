// How far apart rounds beside training are: by what the last ones took from it. No I/O.

/** Rounds that are remembered. */
const REMEMBERED = 8;

export class Pace {
  readonly #busyMs: number[] = [];

  /** A round took so much from training. */
  took(busyMs: number): void {
    this.#busyMs.push(busyMs);
    if (this.#busyMs.length > REMEMBERED) this.#busyMs.shift();
  }

  /**
   * Mean of the last ones but the largest: one that was held up (the machine slept, shaders were compiled for the first) says nothing of the
   * next. 0 before there were two.
   */
  get usualMs(): number {
    const counted = this.#busyMs.toSorted((a, b) => a - b).slice(0, -1);
    return counted.reduce((sum, ms) => sum + ms, 0) / Math.max(1, counted.length);
  }
}
