// Waiting for a round: whoever asks for one that is still to come is told when it is there, or that it will not be.
import { MeshError } from '../errors.ts';

export class Gate {
  #reached = -1;
  #closed: MeshError | null = null;
  readonly #waiting = new Set<() => void>();

  /** The newest round that is there; −1: none. */
  get reached(): number {
    return this.#reached;
  }

  reach(round: number): void {
    this.#reached = Math.max(this.#reached, round);
    this.#wake();
  }

  /** Whoever waits is told so, now and later. */
  close(reason: string): void {
    this.#closed = new MeshError('closed', reason, 'Nothing to do.');
    this.#wake();
  }

  /** Resolves once that round is there. Rejects with the signal's reason, or `closed`. */
  async until(round: number, signal: AbortSignal): Promise<void> {
    await this.when(() => this.#reached >= round, signal);
  }

  /** Resolves once `isSo`, looked at whenever something was reached or told. */
  async when(isSo: () => boolean, signal: AbortSignal): Promise<void> {
    for (;;) {
      signal.throwIfAborted();
      if (isSo()) return;
      if (this.#closed) throw this.#closed;
      const { promise, resolve } = Promise.withResolvers<void>();
      const wake = (): void => resolve();
      this.#waiting.add(wake);
      signal.addEventListener('abort', wake, { once: true });
      await promise;
      this.#waiting.delete(wake);
      signal.removeEventListener('abort', wake);
    }
  }

  /** Something else changed that a waiter may look at. */
  tell(): void {
    this.#wake();
  }

  #wake(): void {
    for (const wake of [...this.#waiting]) wake();
  }
}
