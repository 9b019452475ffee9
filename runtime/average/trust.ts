// Strikes and bans: what a peer did that no honest one does, and for how long it is left out then. No I/O; times come in.

export type Offence =
  | 'not-finite' // NaN or infinity in its weights
  | 'malformed' // another shape, size or number than was asked for
  | 'too-far' // weights many times further away than anybody's
  | 'reversed' // weights that point the other way
  | 'frozen' // the same weights under ever new versions
  | 'progress' // counters that its weights contradict, or that go backwards
  | 'labels'; // label shares that change, or are none

export interface Verdict {
  peer: string;
  offence: Offence;
  /** With the numbers. */
  detail: string;
}

/** Strikes that end in a ban: two of what cannot be an accident, three of the others. */
const STRIKES = 3;
const WEIGHT: Record<Offence, number> = {
  'not-finite': 1.5,
  malformed: 1.5,
  reversed: 1.5,
  frozen: 1.5,
  progress: 1.5,
  labels: 1.5,
  'too-far': 1,
};
/** A clean round makes up for this much of a strike. */
const FORGIVEN = 0.2;
const FIRST_BAN_MS = 600_000;
const LONGEST_BAN_MS = 24 * 3_600_000;

interface Standing {
  strikes: number;
  bans: number;
  bannedUntil: number;
}

export class Trust {
  readonly #standings = new Map<string, Standing>();

  /** Returns how many strikes it has, and until when it is banned if this was the last one. */
  strike(peer: string, offence: Offence, now: number): { strikes: number; bannedForMs: number | null } {
    const standing = this.#of(peer);
    standing.strikes += WEIGHT[offence];
    const { strikes } = standing;
    if (strikes < STRIKES) return { strikes, bannedForMs: null };
    const bannedForMs = Math.min(FIRST_BAN_MS * 2 ** standing.bans, LONGEST_BAN_MS);
    standing.strikes = 0;
    standing.bans += 1;
    standing.bannedUntil = now + bannedForMs;
    return { strikes, bannedForMs };
  }

  /** It took part in a round without offence. */
  clean(peer: string): void {
    const standing = this.#standings.get(peer);
    if (standing) standing.strikes = Math.max(0, standing.strikes - FORGIVEN);
  }

  isBanned(peer: string, now: number): boolean {
    return (this.#standings.get(peer)?.bannedUntil ?? 0) > now;
  }

  #of(peer: string): Standing {
    let standing = this.#standings.get(peer);
    if (!standing) {
      standing = { strikes: 0, bans: 0, bannedUntil: 0 };
      this.#standings.set(peer, standing);
    }
    return standing;
  }
}
