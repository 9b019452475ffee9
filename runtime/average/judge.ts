// What a round tells about the peers that took part: which of them did what no honest one does. It remembers of each peer the last that it
// sent and claimed. No I/O; what follows from a verdict is trust.ts.
import type { Clipping } from './clipping.ts';
import type { Arrival } from './round.ts';
import type { Verdict } from './trust.ts';

/** What a peer said of itself before its units were asked for. */
export interface Claim {
  peer: string;
  /** Of its weights: grows with every change. */
  version: number;
  /** By unit, its running sums of squared movement. */
  progress: readonly number[];
  /** Its share of each class. */
  labels: readonly number[];
}

interface Remembered {
  version: number;
  progress: readonly number[];
  labels: readonly number[];
  /** By unit: the size of what it sent last, its distance then, and the version. */
  sent: Map<number, { version: number; squaredNorm: number; distance: number; progress: number; ownPath: number }>;
}

export interface JudgeOptions {
  units: number;
  clipping: Clipping;
  /** Classes of the data; 0 where there are none. */
  classes: number;
}

/** Times the usual distance, or the unit's own size while none is known. */
const FAR = 8;
const FAR_AT_FIRST = 4;
/** Cosine of the angle between its weights and ours below which it points elsewhere. */
const REVERSED = -0.3;
/** Claimed movement may be so many times what its weights allow, for each version that went by. */
const IMPLAUSIBLE = 20;
const CHANGED = 1e-3;
/** A movement, squared, of a unit's squared size, that would show in any format of the wire. */
const VISIBLE = 1e-4;

export class Judge {
  readonly #options: JudgeOptions;
  readonly #peers = new Map<string, Remembered>();

  constructor(options: JudgeOptions) {
    this.#options = options;
  }

  /** What the peers claim, before anything is pulled. Who is named is not to be asked. */
  claims(claims: readonly Claim[]): Verdict[] {
    return claims.flatMap((claim) => {
      const known = this.#peers.get(claim.peer);
      const verdict = this.#claimed(claim, known);
      if (verdict) return [verdict];
      this.#peers.set(claim.peer, {
        version: claim.version,
        progress: claim.progress,
        labels: known?.labels ?? claim.labels,
        sent: known?.sent ?? new Map<number, never>(),
      });
      return [];
    });
  }

  /**
   * What came. `ownSquaredNorm` and `ownPath` (running sum of squared movement) by unit. Where more than half of the peers that answered
   * seem far away, it is this worker that is: nobody is to blame then.
   */
  arrivals(
    arrivals: ReadonlyMap<number, readonly (Arrival & { peer: string })[]>,
    ownSquaredNorm: readonly number[],
    ownPath: readonly number[],
  ): Verdict[] {
    const byPeer = new Map<string, Arrival[]>();
    for (const list of arrivals.values())
      for (const arrival of list) byPeer.set(arrival.peer, [...(byPeer.get(arrival.peer) ?? []), arrival]);
    const certain: Verdict[] = [];
    const relative: Verdict[] = [];
    for (const [peer, list] of byPeer) {
      const known = this.#peers.get(peer);
      const broken = list.find(({ isFinite }) => !isFinite);
      const verdict = broken
        ? { peer, offence: 'not-finite' as const, detail: `unit ${broken.unit} holds NaN or infinity` }
        : (this.#frozen(peer, list, known) ?? this.#implausible(peer, list, known, ownPath));
      if (verdict) certain.push(verdict);
      else {
        const far = this.#far(peer, list, ownSquaredNorm);
        if (far) relative.push(far);
      }
      if (known && !broken) remember(known, list, ownPath);
    }
    return relative.length * 2 > byPeer.size ? certain : [...certain, ...relative];
  }

  forget(peer: string): void {
    this.#peers.delete(peer);
  }

  #claimed({ peer, version, progress, labels }: Claim, known: Remembered | undefined): Verdict | null {
    const { units, classes } = this.#options;
    if (progress.length !== units)
      return { peer, offence: 'malformed', detail: `it counts ${progress.length} units, not ${units}` };
    const total = labels.reduce((sum, share) => sum + share, 0);
    if (classes > 0 && (labels.length !== classes || Math.abs(total - 1) > 0.01))
      return {
        peer,
        offence: 'labels',
        detail: `${labels.length} shares of ${classes} labels that add up to ${total}`,
      };
    if (!known) return null;
    if (version < known.version)
      return { peer, offence: 'progress', detail: `its version went back from ${known.version} to ${version}` };
    const back = progress.findIndex((sum, unit) => sum < (known.progress[unit] ?? 0));
    if (back >= 0)
      return {
        peer,
        offence: 'progress',
        detail: `unit ${back} went back from ${known.progress[back]} to ${progress[back]}`,
      };
    if (labels.some((share, label) => Math.abs(share - (known.labels[label] ?? 0)) > CHANGED))
      return { peer, offence: 'labels', detail: 'its label shares are not those that it told at first' };
    return null;
  }

  /** Weights that train never come back to the same squared norm, to the last bit, in all that was sent again. */
  #frozen(peer: string, list: readonly Arrival[], known: Remembered | undefined): Verdict | null {
    if (!known) return null;
    const again = list.filter(({ unit }) => (known.sent.get(unit)?.version ?? Infinity) < known.version);
    const same = again.filter(({ unit, squaredNorm }) => known.sent.get(unit)?.squaredNorm === squaredNorm);
    if (same.length === 0 || same.length < again.length) return null;
    const moved = same.some(
      ({ unit, squaredNorm }) =>
        (known.progress[unit] ?? 0) - (known.sent.get(unit)?.progress ?? 0) > VISIBLE * squaredNorm,
    );
    if (!moved) return null;
    const before = known.sent.get(same[0]?.unit ?? 0)?.version;
    return {
      peer,
      offence: 'frozen',
      detail: `version ${known.version} is the same as version ${before} to the last bit`,
    };
  }

  /**
   * A unit that is now at distance d of ours, and was at d' when ours had moved by p less, cannot have moved by more than d + d' + p. Its
   * running sum of squares may exceed that where it went to and fro, by as much for each version at most.
   */
  #implausible(
    peer: string,
    list: readonly Arrival[],
    known: Remembered | undefined,
    ownPath: readonly number[],
  ): Verdict | null {
    if (!known) return null;
    for (const { unit, squaredDistance } of list) {
      const before = known.sent.get(unit);
      if (!before) continue;
      const versions = known.version - before.version + 1;
      const claimed = (known.progress[unit] ?? 0) - before.progress;
      const own = Math.sqrt(versions * Math.max(0, (ownPath[unit] ?? 0) - before.ownPath));
      const bound = Math.sqrt(squaredDistance) + before.distance + own;
      const most = IMPLAUSIBLE * versions * bound * bound;
      if (claimed > most && bound > 0)
        return {
          peer,
          offence: 'progress',
          detail: `unit ${unit} claims to have moved by ${claimed}, at most ${most} is possible`,
        };
    }
    return null;
  }

  #far(peer: string, list: readonly Arrival[], ownSquaredNorm: readonly number[]): Verdict | null {
    let dot = 0;
    let own = 0;
    let its = 0;
    let farthest = { unit: -1, times: 0 };
    for (const { unit, squaredDistance, squaredNorm } of list) {
      const ours = ownSquaredNorm[unit] ?? 0;
      dot += (squaredNorm + ours - squaredDistance) / 2;
      own += ours;
      its += squaredNorm;
      const usual = this.#options.clipping.usual(unit);
      const times = Math.sqrt(squaredDistance) / (usual === null ? Math.sqrt(ours) * (FAR_AT_FIRST / FAR) : usual);
      if (times > farthest.times) farthest = { unit, times };
    }
    const cosine = dot / Math.sqrt(own * its);
    if (own > 0 && its > 0 && cosine < REVERSED)
      return { peer, offence: 'reversed', detail: `cosine ${cosine.toFixed(3)} to our weights` };
    if (farthest.times > FAR)
      return {
        peer,
        offence: 'too-far',
        detail: `unit ${farthest.unit} is ${farthest.times.toPrecision(3)} times as far away as usual`,
      };
    return null;
  }
}

function remember(known: Remembered, list: readonly Arrival[], ownPath: readonly number[]): void {
  for (const { unit, squaredNorm, squaredDistance } of list)
    known.sent.set(unit, {
      version: known.version,
      squaredNorm,
      distance: Math.sqrt(squaredDistance),
      progress: known.progress[unit] ?? 0,
      ownPath: ownPath[unit] ?? 0,
    });
}
