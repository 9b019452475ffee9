// The virtual clock: a heap of what happens when. What is due at the same time happens in the order in which it was asked for, so that a
// run is the same on every host. A timer can be moved, which is how flows follow their rates.

export interface Timer {
  readonly at: number;
}

interface Entry extends Timer {
  at: number;
  order: number;
  /** In the heap; -1: done or cancelled. */
  index: number;
  action: () => void;
}

export class Clock {
  readonly #heap: Entry[] = [];
  #orders = 0;
  #now = 0;
  /** Called when all that was due at one time has happened, before time goes on. */
  onQuiet: () => void = () => {};

  /** Virtual seconds. */
  get now(): number {
    return this.#now;
  }

  /** `at`: a time from now on; Infinity waits until it is moved. */
  at(at: number, action: () => void): Timer {
    const entry: Entry = { at: Math.max(at, this.#now), order: this.#orders++, index: this.#heap.length, action };
    this.#heap.push(entry);
    this.#up(entry);
    return entry;
  }

  after(seconds: number, action: () => void): Timer {
    return this.at(this.#now + seconds, action);
  }

  /** Nothing happens to a timer that is done or cancelled. */
  move(timer: Timer, at: number): void {
    const entry = timer as Entry;
    if (entry.index < 0) return;
    entry.at = Math.max(at, this.#now);
    entry.order = this.#orders++;
    this.#up(entry);
    this.#down(entry);
  }

  cancel(timer: Timer): void {
    const entry = timer as Entry;
    if (entry.index >= 0) this.#remove(entry);
  }

  /** Until nothing is due, `until` is reached (what is due then still happens) or `isOver` says so. */
  run(until: number, isOver: () => boolean = () => false): void {
    while (!isOver()) {
      this.onQuiet();
      const next = this.#heap[0];
      if (!next || next.at > until) break;
      this.#now = next.at;
      for (let due: Entry | undefined = next; due && due.at <= this.#now; due = this.#heap[0]) {
        this.#remove(due);
        due.action();
      }
    }
    if (!isOver()) this.#now = Math.max(this.#now, until);
  }

  #remove(entry: Entry): void {
    const last = this.#heap.pop();
    const { index } = entry;
    entry.index = -1;
    if (!last || last === entry) return;
    this.#place(last, index);
    this.#up(last);
    this.#down(last);
  }

  #up(entry: Entry): void {
    while (entry.index > 0) {
      const parent = this.#heap[(entry.index - 1) >> 1];
      if (!parent || isBefore(parent, entry)) break;
      this.#swap(parent, entry);
    }
  }

  #down(entry: Entry): void {
    for (;;) {
      const left = this.#heap[2 * entry.index + 1];
      const right = this.#heap[2 * entry.index + 2];
      const first = left && right && isBefore(right, left) ? right : left;
      if (!first || isBefore(entry, first)) break;
      this.#swap(entry, first);
    }
  }

  #swap(a: Entry, b: Entry): void {
    const { index } = a;
    this.#place(a, b.index);
    this.#place(b, index);
  }

  #place(entry: Entry, index: number): void {
    entry.index = index;
    this.#heap[index] = entry;
  }
}

const isBefore = (a: Entry, b: Entry): boolean => a.at < b.at || (a.at === b.at && a.order < b.order);
