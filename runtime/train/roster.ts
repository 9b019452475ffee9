// The replicas that a run works with: who is there according to the directory, who holds the run's state, who dropped out.
// It decides nothing by itself; the loops ask it.
import type { PeerId, Uid } from '../wire/ids.ts';
import { parseUid } from '../wire/ids.ts';
import type { Replica } from '../wire/messages.ts';
import type { MeshRecord, StageRecord } from '../wire/records.ts';
import type { Candidate } from './paths.ts';

/** `new`: holds nothing of the run yet; `active`: in step with it; `out`: dropped out, may come back as new after a while. */
export type MemberState = 'new' | 'active' | 'out';

export interface Member extends Candidate {
  stage: number;
  state: MemberState;
  /** When an `out` member may be tried again. */
  retryAt: number;
  /** How often in a row it dropped out: each time it waits twice as long. */
  failures: number;
  /** GPU memory that its peer has in use, as far as its record tells. */
  memoryBytes: number | undefined;
}

export interface RosterOptions {
  stages: readonly string[];
  version: number;
  subversion: number;
  now: () => number;
}

const RETRY_MS = 1_000;
const MAX_RETRY_MS = 60_000;

export class Roster {
  readonly #options: RosterOptions;
  readonly #members = new Map<Uid, Member>();
  readonly #waiters = new Set<() => void>();

  constructor(options: RosterOptions) {
    this.#options = options;
  }

  /** Takes the directory's view; returns the peers whose records went, for the links to look at. */
  update(records: ReadonlyMap<string, MeshRecord>, isConnected: (peer: PeerId) => boolean): PeerId[] {
    const gone: PeerId[] = [];
    const seen = new Set<string>();
    for (const record of records.values()) {
      const stage = record.kind === 'stage' ? this.#stageOf(record) : -1;
      if (record.kind !== 'stage' || stage < 0) continue;
      seen.add(record.name);
      const known = this.#members.get(record.name);
      const replica: Replica = { uid: record.name, peer: record.peer, addresses: record.addresses };
      if (known?.replica.peer === record.peer) {
        known.replica = replica;
        known.samplesPerSecond = record.samplesPerSecond;
        known.memoryBytes = record.memoryBytes;
        setPaused(known, record.isPaused);
      } else
        this.#members.set(record.name, {
          replica,
          stage,
          state: record.isPaused ? 'out' : 'new',
          samplesPerSecond: record.samplesPerSecond,
          outstanding: 0,
          retryAt: record.isPaused ? Infinity : 0,
          failures: 0,
          memoryBytes: record.memoryBytes,
        });
    }
    for (const [uid, member] of this.#members) {
      if (seen.has(uid)) continue;
      gone.push(member.replica.peer);
      // A peer whose link still lives has only lost the monitor.
      if (member.state !== 'active' || !isConnected(member.replica.peer)) this.#members.delete(uid);
    }
    this.#wake();
    return gone;
  }

  members(state: MemberState, stage?: number): Member[] {
    return [...this.#members.values()]
      .filter((member) => member.state === state && (stage === undefined || member.stage === stage))
      .sort(byUid);
  }

  /** Active members, stage by stage, in the order of their UIDs. */
  active(): Member[][] {
    return this.#options.stages.map((_, stage) => this.members('active', stage));
  }

  /** Newcomers, and those who dropped out long enough ago. */
  candidates(): Member[] {
    const now = this.#options.now();
    return [...this.members('new'), ...this.members('out').filter((member) => member.retryAt <= now)];
  }

  setActive(member: Member): void {
    member.state = 'active';
    this.#wake();
  }

  /** It did its part: what was before is forgiven. */
  setReliable(member: Member): void {
    member.failures = 0;
  }

  setOut(member: Member): void {
    member.state = 'out';
    member.outstanding = 0;
    member.retryAt = this.#options.now() + Math.min(RETRY_MS * 2 ** member.failures, MAX_RETRY_MS);
    member.failures += 1;
  }

  byUid(uid: string): Member | undefined {
    return this.#members.get(uid as Uid);
  }

  peers(): number {
    return new Set(this.active().flatMap((members) => members.map((member) => member.replica.peer))).size;
  }

  /** GPU memory that the peers of active members have in use; null while none has told. */
  memoryBytes(): number | null {
    const told = new Map<PeerId, number>();
    for (const { replica, memoryBytes } of this.members('active'))
      if (memoryBytes !== undefined) told.set(replica.peer, memoryBytes);
    return told.size === 0 ? null : [...told.values()].reduce((sum, bytes) => sum + bytes, 0);
  }

  /** Resolves at the next change, or after `ms`. */
  change(ms: number): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, ms);
    this.#waiters.add(resolve);
    return promise.finally(() => {
      clearTimeout(timer);
      this.#waiters.delete(resolve);
    });
  }

  #wake(): void {
    for (const wake of this.#waiters) wake();
  }

  #stageOf(record: StageRecord): number {
    const uid = parseUid(record.name);
    if (uid.version !== this.#options.version || uid.subversion !== this.#options.subversion) return -1;
    return this.#options.stages.indexOf(uid.stage);
  }
}

/** One that pauses drops out until its record says that it goes on. */
function setPaused(member: Member, isPaused: boolean): void {
  if (isPaused) {
    if (member.state !== 'out') member.outstanding = 0;
    member.state = 'out';
    member.retryAt = Infinity;
  } else if (member.retryAt === Infinity) member.retryAt = 0;
}

function byUid(a: Member, b: Member): number {
  return parseUid(a.replica.uid).expertIndex - parseUid(b.replica.uid).expertIndex;
}
