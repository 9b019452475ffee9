// Whose turn it is at a peer's GPU, where a run asks for an order: passes wait here, not in the worker's queue, which cannot be
// reordered. Passes of runs that ask for none do not come here.

export type Prefer = 'forward' | 'backward';

/** One computes, one stands ready in the worker, so that the GPU never waits for this thread. */
const UNDER_WAY = 2;

interface Waiter {
  isFirst: boolean;
  start: () => void;
}

export class Turns {
  #underWay = 0;
  /** In the order in which they came. */
  readonly #waiting: Waiter[] = [];

  /**
   * Runs `work` when it is its turn, at once where there is no `prefer`. Rejects with the signal's reason, without having run it, when
   * that comes first. What else may have changed while it waited, `work` itself must look at.
   */
  async take<T>(kind: Prefer, prefer: Prefer | undefined, signal: AbortSignal, work: () => Promise<T>): Promise<T> {
    if (prefer === undefined) return work();
    signal.throwIfAborted();
    if (this.#underWay >= UNDER_WAY) await this.#place(kind === prefer, signal);
    else this.#underWay += 1;
    try {
      signal.throwIfAborted();
      return await work();
    } finally {
      this.#next();
    }
  }

  /** Resolves with a place taken over from one that is through. */
  #place(isFirst: boolean, signal: AbortSignal): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const abort = (): void => {
      this.#waiting.splice(this.#waiting.indexOf(waiter), 1);
      reject(signal.reason as Error);
    };
    const waiter: Waiter = {
      isFirst,
      start: () => {
        signal.removeEventListener('abort', abort);
        resolve();
      },
    };
    signal.addEventListener('abort', abort, { once: true });
    this.#waiting.push(waiter);
    return promise;
  }

  #next(): void {
    const preferred = this.#waiting.findIndex((waiter) => waiter.isFirst);
    const [waiter] = this.#waiting.splice(Math.max(0, preferred), 1);
    if (waiter) waiter.start();
    else this.#underWay -= 1;
  }
}
