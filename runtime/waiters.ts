// Promises that must settle when their owner (a worker, a device) dies. Each settles exactly once: with its own outcome or
// with the owner's death, whichever comes first; after the death everything rejects at once.
import type { MeshError } from './errors.ts';

export class Waiters {
  readonly #pending = new Set<(cause: MeshError) => void>();
  #death: MeshError | null = null;

  get death(): MeshError | null {
    return this.#death;
  }

  get size(): number {
    return this.#pending.size;
  }

  /** The outcome of `promise`, or a rejection as soon as the owner dies. */
  attach<T>(promise: Promise<T>): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      if (this.#death !== null) {
        promise.catch(() => {}); // its own failure is only another sign of the same death
        reject(this.#death);
        return;
      }
      this.#pending.add(reject);
      promise.then(
        (value) => {
          this.#pending.delete(reject);
          resolve(value);
        },
        (cause: unknown) => {
          this.#pending.delete(reject);
          reject(cause);
        },
      );
    });
  }

  die(cause: MeshError): void {
    if (this.#death !== null) return;
    this.#death = cause;
    for (const reject of this.#pending) reject(cause);
    this.#pending.clear();
  }
}
