// When workers do what. Free: each in its own time, training and collecting at once. In step: all train, then all collect, then all merge.
import type { World } from './collection.ts';
import type { Worker } from './worker.ts';

export interface Schedule {
  /** It is there and holds a model: at the start, and when it has caught up. */
  join(worker: Worker): void;
  /** It is gone; it has stopped already. */
  leave(worker: Worker): void;
}

/** At the end of an iteration both what training made and what has come are there; `overlap`: they are waited for side by side. */
export class Free implements Schedule {
  readonly #overlap: boolean;

  constructor(overlap: boolean) {
    this.#overlap = overlap;
  }

  join(worker: Worker): void {
    const again = (): void => {
      worker.merge();
      this.join(worker);
    };
    if (!this.#overlap) {
      worker.train(() => worker.collect(again));
      return;
    }
    let waiting = 2;
    const half = (): void => {
      waiting -= 1;
      if (waiting === 0) again();
    };
    worker.train(half);
    worker.collect(half);
  }

  leave(): void {}
}

/** Who comes while a round goes on takes part from the next one; who leaves is not waited for. */
export class Lockstep implements Schedule {
  readonly #here = new Set<Worker>();
  #round = new Set<Worker>();
  #waitingFor = new Set<Worker>();
  #next: () => void = () => {};
  #isUnderWay = false;
  readonly #world: World;

  constructor(world: World) {
    this.#world = world;
  }

  join(worker: Worker): void {
    this.#here.add(worker);
    if (this.#isUnderWay) return;
    this.#isUnderWay = true;
    // Those who join at the same moment begin together.
    this.#world.clock.after(0, () => this.#begin());
  }

  leave(worker: Worker): void {
    this.#here.delete(worker);
    this.#round.delete(worker);
    this.#arrive(worker);
  }

  #begin(): void {
    this.#round = new Set(this.#here);
    if (this.#round.size === 0) {
      this.#isUnderWay = false;
      return;
    }
    this.#all(
      (worker, done) => worker.train(done),
      () => {
        for (const worker of this.#round) worker.show();
        this.#all(
          (worker, done) => worker.collect(done),
          () => {
            for (const worker of this.#round) worker.merge();
            this.#begin();
          },
        );
      },
    );
  }

  #all(start: (worker: Worker, done: () => void) => void, then: () => void): void {
    this.#waitingFor = new Set(this.#round);
    this.#next = then;
    if (this.#round.size === 0) then();
    for (const worker of this.#round) start(worker, () => this.#arrive(worker));
  }

  #arrive(worker: Worker): void {
    if (!this.#waitingFor.delete(worker) || this.#waitingFor.size > 0) return;
    this.#next();
  }
}
