// A peer's own records: signed anew at each renewal and sent to the monitor, all of them again after every join.
import { MeshError, toMeshError, type MeshErrorCode } from '../errors.ts';
import type { Emit } from '../events.ts';
import { replies } from '../wire/monitor-messages.ts';
import { RECORD_TTL_MS, type MeshRecord, type SignedRecord } from '../wire/records.ts';
import { signRecord, type Identity } from './identity.ts';
import type { MonitorConnection } from './monitor-connection.ts';

/** Below the monitor's message limit with room to spare. */
const MAX_BATCH_CHARACTERS = 24 * 1024;
const MAX_BATCH_RECORDS = 64;

interface Announcement {
  make: () => MeshRecord;
  lastRefusal: string;
}

export class Announcer {
  readonly #identity: Identity;
  readonly #connection: MonitorConnection;
  readonly #emit: Emit;
  readonly #announcements = new Map<string, Announcement>();
  #lastIssuedAt = 0;
  /** One call after the other, so that an older record never arrives after a newer one. */
  #turn: Promise<unknown> = Promise.resolve();

  constructor(identity: Identity, connection: MonitorConnection, emit: Emit) {
    this.#identity = identity;
    this.#connection = connection;
    this.#emit = emit;
  }

  async announce(name: string, make: () => MeshRecord): Promise<void> {
    if (make().name !== name)
      throw new MeshError('usage', `A record named ${make().name} cannot be announced as ${name}.`, `Name it ${name}.`);
    const announcement = { make, lastRefusal: '' };
    this.#announcements.set(name, announcement);
    if (!this.#connection.isJoined) return;
    try {
      const refusal = (await this.#inTurn(() => this.#send([name]))).get(name);
      if (refusal) throw refusal;
    } catch (cause) {
      const error = toMeshError(cause);
      if (error.code === 'unreachable' || error.code === 'deadline') return; // goes out at the next renewal or join
      if (this.#announcements.get(name) === announcement) this.#announcements.delete(name);
      throw error;
    }
  }

  async withdraw(name: string): Promise<void> {
    if (this.#announcements.delete(name)) await this.#withdraw([name]);
  }

  /** Sends every record again. A refusal is reported when it is new; the record is tried again each time. */
  async renew(): Promise<void> {
    if (!this.#connection.isJoined || this.#announcements.size === 0) return;
    try {
      const refusals = await this.#inTurn(() => this.#send([...this.#announcements.keys()]));
      for (const [name, announcement] of this.#announcements) {
        const reason = refusals.get(name)?.message ?? '';
        if (reason !== '' && reason !== announcement.lastRefusal) this.#emit({ kind: 'record.rejected', name, reason });
        announcement.lastRefusal = reason;
      }
    } catch (cause) {
      if (!this.#connection.isJoined) return; // they go out at the next join
      this.#emit({ kind: 'log', level: 'warn', message: `Renewing records failed: ${toMeshError(cause).message}` });
    }
  }

  /** Withdraws all of them. */
  async close(): Promise<void> {
    const names = [...this.#announcements.keys()];
    this.#announcements.clear();
    for (let start = 0; start < names.length; start += MAX_BATCH_RECORDS)
      await this.#withdraw(names.slice(start, start + MAX_BATCH_RECORDS));
  }

  async #withdraw(names: string[]): Promise<void> {
    try {
      if (this.#connection.isJoined)
        await this.#inTurn(() => this.#connection.call('withdraw', { names }, replies.done));
    } catch (cause) {
      // Without a monitor there is nothing to withdraw from: it forgets a peer that is gone.
      if (toMeshError(cause).code !== 'unreachable') throw cause;
    }
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#turn.then(work, work);
    this.#turn = result;
    return result;
  }

  /** The refused ones, by name. */
  async #send(names: string[]): Promise<Map<string, MeshError>> {
    const refusals = new Map<string, MeshError>();
    for (const records of await this.#signedBatches(names)) {
      const { refused } = await this.#connection.call('announce', { records }, replies.announce);
      for (const { name, error } of refused)
        refusals.set(name, new MeshError(error.code as MeshErrorCode, error.message, error.fix));
    }
    return refusals;
  }

  async #signedBatches(names: string[]): Promise<SignedRecord[][]> {
    const batches: SignedRecord[][] = [];
    let characters = Infinity;
    for (const name of names) {
      const announcement = this.#announcements.get(name);
      if (!announcement) continue;
      // No two records are of the same millisecond, else the later one would be taken for a replay.
      const issuedAt = Math.max(Math.trunc(this.#connection.nowOfMonitor()), this.#lastIssuedAt + 1);
      this.#lastIssuedAt = issuedAt;
      const times = { peer: this.#identity.peer, issuedAt, expiresAt: issuedAt + RECORD_TTL_MS };
      const signed = await signRecord(this.#identity, { ...announcement.make(), ...times });
      const isFull = (batches.at(-1)?.length ?? 0) >= MAX_BATCH_RECORDS;
      if (isFull || characters + signed.payload.length > MAX_BATCH_CHARACTERS) {
        batches.push([]);
        characters = 0;
      }
      characters += signed.payload.length;
      batches.at(-1)?.push(signed);
    }
    return batches;
  }
}
