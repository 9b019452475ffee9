// Events on their way to the monitor: bounded, in batches below the monitor's message limit. What does not fit is counted.
import type { MeshEvent } from '../events.ts';
import { MAX_EVENT_CHARACTERS } from '../wire/monitor-messages.ts';

const MAX_WAITING = 500;
const MAX_BATCH_EVENTS = 256;
const MAX_BATCH_CHARACTERS = 24 * 1024;

export class EventOutbox {
  readonly #waiting: { event: MeshEvent; characters: number }[] = [];
  #dropped = 0;

  /** The oldest are dropped when there are more than 500. */
  add(events: readonly MeshEvent[]): void {
    for (const event of events) {
      const characters = JSON.stringify(event).length;
      if (characters > MAX_EVENT_CHARACTERS) this.#dropped += 1;
      else this.#waiting.push({ event, characters });
    }
    const surplus = this.#waiting.length - MAX_WAITING;
    if (surplus > 0) this.#dropped += this.#waiting.splice(0, surplus).length;
  }

  /** The next batch, or null when nothing waits. */
  take(): MeshEvent[] | null {
    const batch: MeshEvent[] = [];
    for (let characters = 0; batch.length < MAX_BATCH_EVENTS;) {
      const next = this.#waiting[0];
      if (!next || characters + next.characters > MAX_BATCH_CHARACTERS) break;
      characters += next.characters;
      batch.push(next.event);
      this.#waiting.shift();
    }
    return batch.length > 0 ? batch : null;
  }

  /** How many were dropped since the last call. */
  takeDropped(): number {
    const dropped = this.#dropped;
    this.#dropped = 0;
    return dropped;
  }
}
