// Changes of the directory to those who watch it: gathered for a tick, the last change of a name counts.
import type { PeerId } from '../runtime/wire/ids.ts';
import type { SignedRecord } from '../runtime/wire/records.ts';
import type { Change } from './records.ts';

const TICK_MS = 20;

export interface ChangeBatch {
  added: SignedRecord[];
  removed: { name: string; peer: PeerId; reason: string }[];
}

export interface Watcher {
  readonly prefixes: ReadonlySet<string>;
  send(batch: ChangeBatch): void;
}

export class ChangeFeed {
  readonly #watchers: () => Iterable<Watcher>;
  #waiting = new Map<string, Change>();
  #timer: NodeJS.Timeout | undefined;

  constructor(watchers: () => Iterable<Watcher>) {
    this.#watchers = watchers;
  }

  add(change: Change): void {
    this.#waiting.set(change.kind === 'added' ? change.record.name : change.name, change);
    this.#timer ??= setTimeout(() => this.flush(), TICK_MS);
  }

  flush(): void {
    this.close();
    const changes = this.#waiting;
    this.#waiting = new Map();
    if (changes.size > 0) for (const watcher of this.#watchers()) this.#send(watcher, changes);
  }

  close(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  #send(watcher: Watcher, changes: ReadonlyMap<string, Change>): void {
    const batch: ChangeBatch = { added: [], removed: [] };
    for (const [name, change] of changes) {
      if (!watcher.prefixes.values().some((prefix) => name.startsWith(prefix))) continue;
      if (change.kind === 'added') batch.added.push(change.signed);
      else batch.removed.push({ name, peer: change.peer, reason: change.reason });
    }
    if (batch.added.length > 0 || batch.removed.length > 0) watcher.send(batch);
  }
}
