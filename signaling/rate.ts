// A token bucket with an injected clock: how much a socket may send, and how long to stop reading it when it sent more.

export class TokenBucket {
  readonly #perSecond: number;
  readonly #burst: number;
  readonly #now: () => number;
  #tokens: number;
  #filledAt: number;

  constructor(options: { perSecond: number; burst: number; now: () => number }) {
    this.#perSecond = options.perSecond;
    this.#burst = options.burst;
    this.#now = options.now;
    this.#tokens = options.burst;
    this.#filledAt = options.now();
  }

  /** Takes `amount` and returns for how many milliseconds the sender has to pause: 0 while it is within its rate. */
  take(amount: number): number {
    const nowMs = this.#now();
    const elapsedMs = Math.max(0, nowMs - this.#filledAt);
    this.#filledAt = nowMs;
    this.#tokens = Math.min(this.#burst, this.#tokens + (elapsedMs / 1000) * this.#perSecond) - amount;
    return this.#tokens >= 0 ? 0 : (-this.#tokens / this.#perSecond) * 1000;
  }
}
