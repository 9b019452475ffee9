// The directory: which peer holds which name, until when. Memory only, no I/O; the clock comes in and `sweep` is called from outside.
import { MeshError } from '../runtime/errors.ts';
import { formatUid, parseUid, type PeerId } from '../runtime/wire/ids.ts';
import type { MeshRecord, SignedRecord } from '../runtime/wire/records.ts';

const MAX_RECORDS = 20_000;
const MAX_RECORDS_PER_PEER = 256;

interface Entry {
  record: MeshRecord;
  signed: SignedRecord;
}

export type Change =
  | { kind: 'added'; record: MeshRecord; signed: SignedRecord; isNew: boolean }
  | { kind: 'removed'; name: string; peer: PeerId; reason: string };

export type Announced = { kind: 'stored' } | { kind: 'refused'; error: MeshError };

export class Directory {
  readonly #now: () => number;
  readonly #onChange: (change: Change) => void;
  readonly #entries = new Map<string, Entry>();
  readonly #namesOf = new Map<PeerId, Set<string>>();

  constructor(options: { now: () => number; onChange: (change: Change) => void }) {
    this.#now = options.now;
    this.#onChange = options.onChange;
  }

  get size(): number {
    return this.#entries.size;
  }

  /** Takes a record whose signature was checked. The newest `issuedAt` wins; a name belongs to one live peer at a time. */
  announce(record: MeshRecord, signed: SignedRecord): Announced {
    if (record.expiresAt <= this.#now())
      return refused('expired-record', `The record ${record.name} has expired.`, 'Announce it again.');
    const held = this.#entries.get(record.name);
    if (held && held.record.expiresAt <= this.#now()) this.#remove(record.name, 'expired');
    const current = this.#entries.get(record.name);
    if (current && current.record.peer !== record.peer) return this.#taken(record, current.record);
    if (current && current.record.issuedAt >= record.issuedAt)
      return refused(
        'expired-record',
        `The record ${record.name} of ${record.issuedAt} is a replay: one of ${current.record.issuedAt} is known.`,
        'Sign a new record for each renewal.',
      );
    const names = this.#namesOf.get(record.peer) ?? new Set<string>();
    if (!current && (names.size >= MAX_RECORDS_PER_PEER || this.size >= MAX_RECORDS))
      return refused(
        'too-large',
        `The directory takes ${MAX_RECORDS_PER_PEER} records of one peer and ${MAX_RECORDS} in all.`,
        'Withdraw the records that are not needed.',
      );
    this.#entries.set(record.name, { record, signed });
    this.#namesOf.set(record.peer, names.add(record.name));
    this.#onChange({ kind: 'added', record, signed, isNew: !current });
    return { kind: 'stored' };
  }

  /** Removes a name if that peer holds it. */
  withdraw(peer: PeerId, name: string, reason: string): void {
    if (this.#entries.get(name)?.record.peer === peer) this.#remove(name, reason);
  }

  dropPeer(peer: PeerId, reason: string): void {
    for (const name of this.#namesOf.get(peer) ?? []) this.#remove(name, reason);
  }

  /** Removes what has expired. */
  sweep(): void {
    const nowMs = this.#now();
    for (const [name, { record }] of this.#entries) if (record.expiresAt <= nowMs) this.#remove(name, 'expired');
  }

  /** Live records whose name starts with `prefix`. */
  find(prefix: string): Entry[] {
    const nowMs = this.#now();
    return [...this.#entries.values()].filter(
      ({ record }) => record.name.startsWith(prefix) && record.expiresAt > nowMs,
    );
  }

  #remove(name: string, reason: string): void {
    const entry = this.#entries.get(name);
    if (!entry) return;
    const { peer } = entry.record;
    const names = this.#namesOf.get(peer);
    this.#entries.delete(name);
    names?.delete(name);
    if (names?.size === 0) this.#namesOf.delete(peer);
    this.#onChange({ kind: 'removed', name, peer, reason });
  }

  #taken(record: MeshRecord, by: MeshRecord): Announced {
    const holder = `${by.peer.slice(0, 8)}…`;
    if (record.kind === 'run')
      return refused('busy', `${record.name} is driven by ${holder} already.`, 'Start the run under another name.');
    return refused(
      'busy',
      `The stage ${record.name} is hosted by ${holder} already.`,
      `Host the next free replica: --stage ${this.#nextFree(record.name)}`,
    );
  }

  #nextFree(name: string): string {
    const parts = parseUid(name);
    let expertIndex = 0;
    while (this.#entries.has(formatUid({ ...parts, expertIndex }))) expertIndex += 1;
    return formatUid({ ...parts, expertIndex });
  }
}

const refused = (code: MeshError['code'], message: string, fix: string): Announced => ({
  kind: 'refused',
  error: new MeshError(code, message, fix),
});
