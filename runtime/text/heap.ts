// A binary heap: the first by `isBefore` comes out first. Equal elements come out in no promised order.

export class Heap<T> {
  readonly #items: T[] = [];
  readonly #isBefore: (a: T, b: T) => boolean;

  constructor(isBefore: (a: T, b: T) => boolean) {
    this.#isBefore = isBefore;
  }

  push(item: T): void {
    const items = this.#items;
    let at = items.length;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      const above = items[parent];
      if (above === undefined || !this.#isBefore(item, above)) break;
      items[at] = above;
      at = parent;
    }
    items[at] = item;
  }

  pop(): T | undefined {
    const items = this.#items;
    const top = items[0];
    const last = items.pop();
    if (last === undefined || items.length === 0) return top;
    let at = 0;
    for (;;) {
      const left = items[2 * at + 1];
      const right = items[2 * at + 2];
      if (left === undefined) break;
      const goesRight = right !== undefined && this.#isBefore(right, left);
      const child = goesRight ? right : left;
      if (!this.#isBefore(child, last)) break;
      items[at] = child;
      at = 2 * at + (goesRight ? 2 : 1);
    }
    items[at] = last;
    return top;
  }
}
