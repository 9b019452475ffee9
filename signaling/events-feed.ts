// The newest events of the mesh for the dashboards: a ring of 500, and one batch per tick to each observer.
import type { MeshEvent } from '../runtime/events.ts';

const KEPT = 500;
const TICK_MS = 50;
const MAX_BATCH = 256;

/** An event of a peer is only known to have a kind; whoever shows it treats the rest as text of a stranger. */
export type FeedEvent = { kind: string } & Record<string, unknown>;

export class EventsFeed {
  readonly #now: () => number;
  readonly #observers = new Set<(events: FeedEvent[]) => void>();
  readonly #ring: FeedEvent[] = [];
  #fresh: FeedEvent[] = [];
  #timer: NodeJS.Timeout | undefined;

  constructor(options: { now: () => number }) {
    this.#now = options.now;
  }

  /** `publisher` and `at` are stamped here, whatever the sender wrote. */
  add(publisher: string, events: readonly (FeedEvent | MeshEvent)[]): void {
    const at = this.#now();
    const stamped = events.map((event) => ({ ...event, publisher, at }));
    this.#ring.push(...stamped);
    this.#ring.splice(0, Math.max(0, this.#ring.length - KEPT));
    if (this.#observers.size === 0) return;
    this.#fresh.push(...stamped);
    this.#fresh.splice(0, Math.max(0, this.#fresh.length - KEPT));
    this.#timer ??= setTimeout(() => this.flush(), TICK_MS);
  }

  newest(): FeedEvent[] {
    return [...this.#ring];
  }

  /** From now on each new event, in batches; what waited for the tick goes to the earlier observers first. */
  observe(observer: (events: FeedEvent[]) => void): () => void {
    this.flush();
    this.#observers.add(observer);
    return () => this.#observers.delete(observer);
  }

  flush(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const events = this.#fresh;
    this.#fresh = [];
    for (let start = 0; start < events.length; start += MAX_BATCH)
      for (const observer of this.#observers) observer(events.slice(start, start + MAX_BATCH));
  }

  close(): void {
    clearTimeout(this.#timer);
    this.#observers.clear();
  }
}
