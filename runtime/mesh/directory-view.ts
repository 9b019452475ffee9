// What a peer knows of the directory: the live records it watches, kept through the loss of the monitor. It has no timers and no
// I/O; the client feeds it and calls `sweep`. Times are on the monitor's clock.
import type { Emit } from '../events.ts';
import { RECORD_TTL_MS, type MeshRecord } from '../wire/records.ts';

/** The monitor says when a record expires; this is how long the view waits for it to do so before it acts by itself. */
const EXPIRY_GRACE_MS = 1_000;

interface Entry {
  record: MeshRecord;
  /** Seen since the monitor was last joined. */
  isConfirmed: boolean;
}

export type OnRecords = (records: ReadonlyMap<string, MeshRecord>) => void;

interface Watcher {
  prefix: string;
  onChange: OnRecords;
  /** It has been told what there was at first; before that, changes are part of it. */
  isTold: boolean;
}

export class DirectoryView {
  readonly #now: () => number;
  readonly #emit: Emit;
  readonly #entries = new Map<string, Entry>();
  readonly #watchers = new Set<Watcher>();
  readonly #changed = new Set<string>();
  #isConnected = true;
  #unconfirmedUntilMs = 0;

  constructor(options: { now: () => number; emit: Emit }) {
    this.#now = options.now;
    this.#emit = options.emit;
  }

  get prefixes(): Set<string> {
    return new Set([...this.#watchers].map((watcher) => watcher.prefix));
  }

  /** `start` tells the first state, which counts as news even if it is empty; every change is told after it. */
  watch(prefix: string, onChange: OnRecords): { start: () => void; stop: () => void } {
    const watcher = { prefix, onChange, isTold: false };
    this.#watchers.add(watcher);
    return {
      start: () => {
        watcher.isTold = true;
        this.#tell(watcher);
      },
      stop: () => {
        this.#watchers.delete(watcher);
        this.#dropUnwatched();
      },
    };
  }

  matching(prefix: string): Map<string, MeshRecord> {
    const found = new Map<string, MeshRecord>();
    for (const [name, entry] of this.#entries) if (name.startsWith(prefix)) found.set(name, entry.record);
    return found;
  }

  /** From here on nothing is dropped, until `joined`. */
  lost(): void {
    this.#isConnected = false;
  }

  /** Entries that are not seen again within a record's life are dropped by `sweep`. */
  joined(): void {
    this.#isConnected = true;
    this.#unconfirmedUntilMs = this.#now() + RECORD_TTL_MS;
    for (const entry of this.#entries.values()) entry.isConfirmed = false;
  }

  /** Takes a verified record. An older one from the same peer is ignored. */
  apply(record: MeshRecord): void {
    if (![...this.#watchers].some((watcher) => record.name.startsWith(watcher.prefix))) return;
    const known = this.#entries.get(record.name);
    if (known && known.record.peer === record.peer && known.record.issuedAt > record.issuedAt) return;
    if (known && known.record.peer !== record.peer) this.#drop(record.name, 'replaced by another peer');
    const current = this.#entries.get(record.name);
    this.#entries.set(record.name, { record, isConfirmed: true });
    if (!current) this.#emit({ kind: 'record.added', name: record.name, peer: record.peer });
    if (!current || !saysTheSame(current.record, record)) this.#changed.add(record.name);
  }

  remove(name: string, peer: string, reason: string): void {
    if (this.#entries.get(name)?.record.peer === peer) this.#drop(name, reason);
  }

  sweep(): void {
    if (!this.#isConnected) return;
    const nowMs = this.#now();
    for (const [name, { record, isConfirmed }] of this.#entries) {
      if (isConfirmed && record.expiresAt + EXPIRY_GRACE_MS <= nowMs) this.#drop(name, 'expired');
      if (!isConfirmed && this.#unconfirmedUntilMs <= nowMs)
        this.#drop(name, 'not renewed after the monitor came back');
    }
  }

  /** Tells the watchers of what has changed since the last call. */
  notify(): void {
    const changed = [...this.#changed];
    this.#changed.clear();
    for (const watcher of [...this.#watchers])
      if (watcher.isTold && changed.some((name) => name.startsWith(watcher.prefix))) this.#tell(watcher);
  }

  #tell({ prefix, onChange }: Watcher): void {
    try {
      onChange(this.matching(prefix));
    } catch (cause) {
      const why = cause instanceof Error ? cause.message : String(cause);
      this.#emit({ kind: 'log', level: 'warn', message: `A listener to the directory failed: ${why}` });
    }
  }

  #drop(name: string, reason: string): void {
    const entry = this.#entries.get(name);
    if (!entry) return;
    this.#entries.delete(name);
    this.#changed.add(name);
    this.#emit({ kind: 'record.removed', name, peer: entry.record.peer, reason });
  }

  #dropUnwatched(): void {
    const prefixes = [...this.prefixes];
    for (const name of this.#entries.keys())
      if (!prefixes.some((prefix) => name.startsWith(prefix))) this.#entries.delete(name);
  }
}

/** Equal but for the times: a renewal without news. */
function saysTheSame(a: MeshRecord, b: MeshRecord): boolean {
  const untimed = (record: MeshRecord) => JSON.stringify({ ...record, issuedAt: 0, expiresAt: 0 });
  return untimed(a) === untimed(b);
}
