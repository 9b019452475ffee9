// What the links from each peer carry, told by real transfers: a running mean for each peer, and what arrives from all of them together.
// No I/O; times come in.

/** Weight of the newest transfer. */
const FRESH = 0.3;
/** Smaller transfers are mostly round trips: they count only while nothing better is known. */
const LEAST_BYTES = 64 * 1024;
/** After this long without a transfer a figure begins to lose its weight, and is the median of all after twice as long. */
const STALE_MS = 120_000;

interface Measured {
  bytesPerSecond: number;
  /** Of transfers that were large enough. */
  isSure: boolean;
  at: number;
}

export class Bandwidth {
  readonly #byPeer = new Map<string, Measured>();
  #together = 0;

  /** A transfer of so many bytes that took so long, which ended `at` (ms). */
  record(peer: string, bytes: number, seconds: number, at: number): void {
    if (!(bytes > 0 && seconds > 0)) return;
    const bytesPerSecond = bytes / seconds;
    const isSure = bytes >= LEAST_BYTES;
    const known = this.#byPeer.get(peer);
    if (known?.isSure === true && !isSure) return;
    const isFirst = known === undefined || (isSure && !known.isSure);
    const mean = isFirst ? bytesPerSecond : known.bytesPerSecond * (1 - FRESH) + bytesPerSecond * FRESH;
    this.#byPeer.set(peer, { bytesPerSecond: mean, isSure, at });
  }

  /** What came from several peers at once, in all. */
  recordTogether(bytes: number, seconds: number): void {
    if (bytes < LEAST_BYTES || !(seconds > 0)) return;
    const rate = bytes / seconds;
    // A round that asked for little tells a lower bound, not what can be received.
    this.#together = rate > this.#together ? rate : this.#together * (1 - FRESH / 4) + rate * (FRESH / 4);
  }

  /** Bytes a second, null while nothing is known of that peer. */
  of(peer: string, now: number): number | null {
    const known = this.#byPeer.get(peer);
    if (known === undefined) return null;
    const age = (now - known.at - STALE_MS) / STALE_MS;
    if (age <= 0) return known.bytesPerSecond;
    const share = Math.min(1, age);
    return known.bytesPerSecond * (1 - share) + this.#median() * share;
  }

  /** What this worker can receive from all together: at least what it ever did from one. Infinity while nothing is known. */
  get downlink(): number {
    if (this.#together === 0) return Infinity;
    return Math.max(this.#together, ...[...this.#byPeer.values()].map(({ bytesPerSecond }) => bytesPerSecond));
  }

  forget(peer: string): void {
    this.#byPeer.delete(peer);
  }

  #median(): number {
    const rates = [...this.#byPeer.values()].map(({ bytesPerSecond }) => bytesPerSecond).sort((a, b) => a - b);
    return rates[Math.floor(rates.length / 2)] ?? 0;
  }
}
