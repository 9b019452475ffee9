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

/** What a peer told of a unit's weights as it sent them. */
export interface Told {
  version: number;
  progress: number;
}

interface Remembered {
  version: number;
  progress: readonly number[];
  labels: readonly number[];
  /** By unit: what it told of what it sent last, how large that was, how far away, and the own running sum then. */
  sent: Map<number, Told & { squaredNorm: number; distance: number; ownPath: number }>;
}

type Sent = Arrival & Told;

export interface JudgeOptions {
  units: number;
  clipping: Clipping;
  /** Classes of the data; 0 where there are none. */
  classes: number;
}

/** Times the usual distance, or the unit's own size while none is known. */
const FAR = 20;
const FAR_AT_FIRST = 5;
/** Of the unit's own size: what differs by less is never too far, however near the others usually are. What is seldom trained leaps. */
const NEAR = 1;
/** Cosine of the angle between its weights and ours below which it points elsewhere. */
const REVERSED = -0.3;
/** Claimed movement may be so many times what its weights allow, or their own squared size, for each version that went by. */
const IMPLAUSIBLE = 20;
const SIZES = 4;
const CHANGED = 1e-3;
/** A movement, squared, of a unit's squared size, that would show in any format of the wire. */
const VISIBLE = 1e-4;

export class Judge {
  readonly #options: JudgeOptions;
  readonly #peers = new Map<string, Remembered>();

  constructor(options: JudgeOptions) {
    this.#options = options;
  }

  /**
   * What the peers claim, before anything is pulled. Who is named is not to be asked. Counters that went back are an offence once: from then on
   * they are what the peer is compared with, because one whose device was lost begins anew.
   */
  claims(claims: readonly Claim[]): Verdict[] {
    return claims.flatMap((claim) => {
      const { peer, version, progress } = claim;
      const known = this.#peers.get(peer);
      const verdict = this.#claimed(claim, known);
      if (verdict !== null && verdict.offence !== 'progress') return [verdict];
      const sent = verdict === null && known ? known.sent : new Map<number, never>();
      this.#peers.set(peer, { version, progress, labels: known?.labels ?? claim.labels, sent });
      return verdict ? [verdict] : [];
    });
  }

  /**
   * What came. `ownSquaredNorm` and `ownPath` (running sum of squared movement) by unit; `told` by peer and unit, with a space between.
   * Where more than half of the peers that answered seem far away, it is this worker that is: nobody is to blame then.
   */
  arrivals(
    arrivals: ReadonlyMap<number, readonly (Arrival & { peer: string })[]>,
    ownSquaredNorm: readonly number[],
    ownPath: readonly number[],
    told: ReadonlyMap<string, Told> = new Map(),
  ): Verdict[] {
    const byPeer = Map.groupBy([...arrivals.values()].flat(), ({ peer }) => peer);
    const certain: Verdict[] = [];
    const relative: Verdict[] = [];
    for (const [peer, list] of byPeer) {
      const known = this.#peers.get(peer);
      const sent = list.flatMap((arrival) => {
        const of = told.get(`${peer} ${arrival.unit}`);
        return of ? [{ ...arrival, ...of }] : [];
      });
      const broken = list.find(({ isFinite }) => !isFinite);
      const back = backwards(peer, sent, known);
      const verdict = broken
        ? { peer, offence: 'not-finite' as const, detail: `unit ${broken.unit} holds NaN or infinity` }
        : (reversed(peer, list, ownSquaredNorm) ??
          back ??
          frozen(peer, sent, known) ??
          implausible(peer, sent, known, ownPath));
      if (verdict) certain.push(verdict);
      else {
        const far = this.#far(peer, list, ownSquaredNorm);
        if (far) relative.push(far);
      }
      if (!known || broken) continue;
      // It may have begun anew between its claim and now: what it claims next is not compared with what it claimed before.
      if (back) this.#peers.set(peer, { ...known, version: 0, progress: [], sent: new Map() });
      else remember(known, sent, ownPath);
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

  #far(peer: string, list: readonly Arrival[], ownSquaredNorm: readonly number[]): Verdict | null {
    let farthest = { unit: -1, times: 0 };
    for (const { unit, squaredDistance } of list) {
      const own = Math.sqrt(ownSquaredNorm[unit] ?? 0);
      const distance = Math.sqrt(squaredDistance);
      const usual = this.#options.clipping.usual(unit) ?? own * (FAR_AT_FIRST / FAR);
      if (usual === 0 || distance <= own * NEAR) continue;
      if (distance / usual > farthest.times) farthest = { unit, times: distance / usual };
    }
    if (farthest.times > FAR)
      return {
        peer,
        offence: 'too-far',
        detail: `unit ${farthest.unit} is ${farthest.times.toPrecision(3)} times as far away as usual`,
      };
    return null;
  }
}

/** Models that began alike and are averaged never point away from each other. */
function reversed(peer: string, list: readonly Arrival[], ownSquaredNorm: readonly number[]): Verdict | null {
  let dot = 0;
  let own = 0;
  let its = 0;
  for (const { unit, squaredDistance, squaredNorm } of list) {
    const ours = ownSquaredNorm[unit] ?? 0;
    dot += (squaredNorm + ours - squaredDistance) / 2;
    own += ours;
    its += squaredNorm;
  }
  const cosine = dot / Math.sqrt(own * its);
  if (!(own > 0 && its > 0 && cosine < REVERSED)) return null;
  return { peer, offence: 'reversed', detail: `cosine ${cosine.toFixed(3)} to our weights` };
}

/** What it tells with its weights is no less than what it told before it was asked for them. */
function backwards(peer: string, sent: readonly Sent[], known: Remembered | undefined): Verdict | null {
  const less = sent.find(({ unit, progress }) => progress < (known?.progress[unit] ?? 0));
  if (!less) return null;
  const claimed = known?.progress[less.unit];
  const detail = `unit ${less.unit} came with a count of ${less.progress}, after one of ${claimed}`;
  return { peer, offence: 'progress', detail };
}

/** Weights that train never come back to the same squared norm, to the last bit, in all that was sent again. */
function frozen(peer: string, sent: readonly Sent[], known: Remembered | undefined): Verdict | null {
  const again = sent.flatMap((now) => {
    const before = known?.sent.get(now.unit);
    return before && before.version < now.version ? [{ now, before }] : [];
  });
  const [first] = again;
  if (!first || again.some(({ now, before }) => now.squaredNorm !== before.squaredNorm)) return null;
  if (!again.some(({ now, before }) => now.progress - before.progress > VISIBLE * now.squaredNorm)) return null;
  const { now, before } = first;
  const detail = `version ${now.version} is the same as version ${before.version} to the last bit`;
  return { peer, offence: 'frozen', detail };
}

/**
 * A unit that is now at distance d of ours, and was at d' when ours had moved by p less, is no more than d + d' + p from where it was. Its
 * running sum of squares exceeds that where it went to and fro: training takes it away, and merging with others takes it back, uncounted.
 * How often nobody can tell; but no version is many times its own size away from the last.
 */
function implausible(
  peer: string,
  sent: readonly Sent[],
  known: Remembered | undefined,
  ownPath: readonly number[],
): Verdict | null {
  for (const { unit, version, progress, squaredDistance, squaredNorm } of sent) {
    const before = known?.sent.get(unit);
    if (!before) continue;
    const versions = Math.max(1, version - before.version + 1);
    const claimed = progress - before.progress;
    const own = Math.sqrt(versions * Math.max(0, (ownPath[unit] ?? 0) - before.ownPath));
    const bound = Math.sqrt(squaredDistance) + before.distance + own;
    const size = Math.max(squaredNorm, before.squaredNorm);
    const most = versions * Math.max(IMPLAUSIBLE * bound * bound, SIZES * size);
    if (claimed <= most || most === 0) continue;
    const detail = `unit ${unit} claims to have moved by ${claimed}, at most ${most} is possible`;
    return { peer, offence: 'progress', detail };
  }
  return null;
}

function remember(known: Remembered, sent: readonly Sent[], ownPath: readonly number[]): void {
  for (const { unit, version, progress, squaredNorm, squaredDistance } of sent)
    known.sent.set(unit, {
      ...{ version, progress, squaredNorm },
      distance: Math.sqrt(squaredDistance),
      ownPath: ownPath[unit] ?? 0,
    });
}
