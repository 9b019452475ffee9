// What a stage has done lately: rows a second, losses, totals. For records, the dashboard and the routed policy.

/** Weight of the newest second in the running mean. */
const FRESH = 0.4;

export class Meter {
  readonly #now: () => number;
  #windowStart: number;
  #windowRows = 0;
  #rate = 0;
  samples = 0;
  loss: number | null = null;

  constructor(now: () => number) {
    this.#now = now;
    this.#windowStart = now();
  }

  count(rows: number, loss: number): void {
    this.samples += rows;
    this.#windowRows += rows;
    this.loss = this.loss === null ? loss : this.loss * 0.9 + loss * 0.1;
  }

  /** Rows a second as last sampled. */
  get rate(): number {
    return this.#rate;
  }

  /** Rows a second; call about once a second. */
  sample(): number {
    const now = this.#now();
    const seconds = (now - this.#windowStart) / 1_000;
    if (seconds < 0.2) return this.#rate;
    const rate = this.#windowRows / seconds;
    this.#rate = this.#rate === 0 ? rate : this.#rate * (1 - FRESH) + rate * FRESH;
    if (this.#rate < 0.01) this.#rate = 0;
    this.#windowStart = now;
    this.#windowRows = 0;
    return this.#rate;
  }
}
