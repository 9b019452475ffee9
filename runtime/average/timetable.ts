// How long iterations take in the whole network, as far as a worker knows: its own row measured, the others' learnt from its neighbours, who
// learnt them from theirs. What NetMax asks its monitor for is gathered without one. No I/O; times come in.
import type { NetworkView } from './planner.ts';
import type { Uid } from '../wire/ids.ts';
import type { Times } from '../wire/messages.ts';

/** A row that nobody has renewed for so long is of a worker that left. */
const STALE_MS = 300_000;
/** Of others; while there is no room, workers that are new are not learnt of. */
const MOST_ROWS = 255;

interface Row {
  /** When it was measured, on this worker's clock. */
  at: number;
  alone: number;
  peers: ReadonlyMap<Uid, number>;
}

export class Timetable {
  readonly #rows = new Map<Uid, Row>();

  /** Seconds of an iteration of `uid` by itself, and with each peer that it pulls from. */
  measured(uid: Uid, alone: number, peers: ReadonlyMap<Uid, number>, now: number): void {
    this.#rows.set(uid, { at: now, alone, peers });
  }

  /** What a neighbour knows; the fresher of two rows stays. */
  learn(rows: readonly Times[], self: Uid, now: number): void {
    for (const [uid, { at }] of this.#rows) if (now - at > STALE_MS) this.#rows.delete(uid);
    for (const { uid, ageMs, alone, peers } of rows) {
      const at = now - ageMs;
      const known = this.#rows.get(uid);
      if (uid === self || (known?.at ?? -Infinity) >= at || ageMs > STALE_MS) continue;
      const others = this.#rows.size - (this.#rows.has(self) ? 1 : 0);
      if (!known && others >= MOST_ROWS) continue;
      this.#rows.set(uid, { at, alone, peers: new Map(peers.map(({ uid: peer, seconds }) => [peer, seconds])) });
    }
  }

  told(now: number): Times[] {
    return this.#fresh(now).map(([uid, { at, alone, peers }]) => ({
      uid,
      ageMs: now - at,
      alone,
      peers: [...peers].slice(0, 256).map(([peer, seconds]) => ({ uid: peer, seconds })),
    }));
  }

  /** Ids are those that `idOf` gives; a worker without one is left out. */
  view(idOf: (uid: Uid) => string | undefined, learningRate: number, now: number): NetworkView {
    const rows = this.#fresh(now).flatMap(([uid, row]) => {
      const id = idOf(uid);
      return id === undefined ? [] : [{ uid, id, row }];
    });
    return {
      ids: rows.map(({ id }) => id),
      seconds: rows.map(({ uid, row }) =>
        rows.map((other) => (other.uid === uid ? row.alone : (row.peers.get(other.uid) ?? null))),
      ),
      learningRate,
    };
  }

  #fresh(now: number): [Uid, Row][] {
    return [...this.#rows].filter(([, { at }]) => now - at <= STALE_MS).sort(([a], [b]) => (a < b ? -1 : 1));
  }
}
