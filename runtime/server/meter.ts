// What a stage has done lately: rows a second, losses, totals, how long it computed. For records, the dashboard and the routed policy.
import type { Compute } from '../compute.ts';

/** Weight of the newest second in the running mean. */
const FRESH = 0.4;

export class Meter {
  readonly #now: () => number;
  #windowStart: number;
  #windowRows = 0;
  #rate = 0;
  #calls = 0;
  #busyFrom = 0;
  #busyMs = 0;
  #idleShare = 1;
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

  /** Counts the time of a call to the worker as busy; of several at once, none counts twice. */
  async busy<T>(call: () => Promise<T>): Promise<T> {
    if (this.#calls === 0) this.#busyFrom = this.#now();
    this.#calls += 1;
    try {
      return await call();
    } finally {
      this.#calls -= 1;
      if (this.#calls === 0) this.#busyMs += this.#now() - this.#busyFrom;
    }
  }

  /** Share of the last window in which the worker had nothing to do for this stage. */
  get idleShare(): number {
    return this.#idleShare;
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
    if (this.#calls > 0) {
      this.#busyMs += now - this.#busyFrom;
      this.#busyFrom = now;
    }
    this.#idleShare = Math.min(1, Math.max(0, 1 - this.#busyMs / (seconds * 1_000)));
    this.#busyMs = 0;
    this.#windowStart = now;
    this.#windowRows = 0;
    return this.#rate;
  }
}

/** The same Compute, its calls timed. */
export const metered = (compute: Compute, meter: Meter): Compute =>
  new Proxy(compute, {
    get(target, name, receiver) {
      const method: unknown = Reflect.get(target, name, receiver);
      if (typeof method !== 'function') return method;
      return (...args: unknown[]) => meter.busy(() => Reflect.apply(method, target, args) as Promise<unknown>);
    },
  });
