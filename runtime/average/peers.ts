// What a replica knows of those that it averages with: links, claims, trust, times. It turns them into what a planner sees, and verdicts into
// strikes, bans and events.
import type { Emit } from '../events.ts';
import type { PeerId, Uid } from '../wire/ids.ts';
import type { Replica, Reply } from '../wire/messages.ts';
import { Bandwidth } from './bandwidth.ts';
import { Judge } from './judge.ts';
import type { Clipping } from './clipping.ts';
import type { NetworkView, PeerView } from './planner.ts';
import { Timetable } from './timetable.ts';
import { Trust, type Verdict } from './trust.ts';

export type Offer = Reply<'layers.offer'>;

export interface PeersOptions {
  uid: Uid;
  units: number;
  clipping: Clipping;
  labels: readonly number[];
  /** False: nobody is judged. */
  isWatching: boolean;
  emit: Emit;
  now: () => number;
}

export class Peers {
  readonly bandwidth = new Bandwidth();
  readonly timetable = new Timetable();
  readonly judge: Judge;
  readonly #options: PeersOptions;
  readonly #trust = new Trust();
  /** Who was last seen under each UID. */
  readonly #uids = new Map<PeerId, Uid>();
  /** Counters as they were when the peer was last planned with: what it did since is its progress. */
  readonly #before = new Map<PeerId, readonly number[]>();
  readonly #struckNow = new Set<PeerId>();

  constructor(options: PeersOptions) {
    this.#options = options;
    const { units, clipping, labels } = options;
    this.judge = new Judge({ units, clipping, classes: labels.length });
  }

  /** Those that are not banned, without this replica itself. */
  admitted(replicas: readonly Replica[]): Replica[] {
    const now = this.#options.now();
    return replicas.filter(({ uid, peer }) => {
      if (uid === this.#options.uid || this.#trust.isBanned(peer, now)) return false;
      for (const [other, known] of this.#uids) if (known === uid && other !== peer) this.#forget(other);
      this.#uids.set(peer, uid);
      return true;
    });
  }

  /** Whether it was among those that this replica averages with. */
  isNeighbour(peer: PeerId): boolean {
    return this.#uids.has(peer);
  }

  isBanned(peer: PeerId): boolean {
    return this.#trust.isBanned(peer, this.#options.now());
  }

  /** What planners see of the peers that made an offer and none that is false. */
  views(offers: ReadonlyMap<PeerId, Offer>, round: number): PeerView[] {
    const now = this.#options.now();
    if (this.#options.isWatching)
      this.strike(this.judge.claims([...offers].map(([peer, offer]) => ({ peer, ...offer }))), round);
    return [...offers]
      .filter(([peer]) => !this.#struckNow.has(peer) && !this.isBanned(peer))
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([peer, offer]) => {
        this.timetable.learn(offer.times, this.#options.uid, now);
        const before = this.#before.get(peer);
        this.#before.set(peer, offer.progress);
        return {
          id: peer,
          bytesPerSecond: this.bandwidth.of(peer, now),
          divergence: divergenceOf(this.#options.labels, offer.labels),
          progress: offer.progress.map((sum, unit) => Math.max(0, sum - (before?.[unit] ?? 0))),
          degree: offer.degree,
        };
      });
  }

  network(self: PeerId, learningRate: number): NetworkView {
    const { uid, now } = this.#options;
    const ids = new Map<Uid, PeerId>([[uid, self], ...[...this.#uids].map(([peer, of]) => [of, peer] as const)]);
    // A worker that is no neighbour still counts in the network; its UID will do for it.
    return this.timetable.view((of) => ids.get(of) ?? of, learningRate, now());
  }

  /** Seconds of an iteration with each neighbour, as the links are now. */
  measure(wholeBytes: number, aloneSeconds: number): void {
    const { uid, now } = this.#options;
    const seconds = new Map<Uid, number>();
    for (const [peer, of] of this.#uids) {
      const rate = this.bandwidth.of(peer, now());
      if (rate !== null) seconds.set(of, Math.max(aloneSeconds, wholeBytes / rate));
    }
    this.timetable.measured(uid, aloneSeconds, seconds, now());
  }

  /** Who is struck in this round is left out of it, and not struck again, whatever else of it comes to light. */
  strike(verdicts: readonly Verdict[], round: number): void {
    const { uid, emit, now } = this.#options;
    for (const { peer: id, offence, detail } of verdicts) {
      const peer = id as PeerId;
      if (this.#struckNow.has(peer)) continue;
      this.#struckNow.add(peer);
      const of = this.#uids.get(peer) ?? peer;
      const { strikes, bannedForMs } = this.#trust.strike(peer, offence, now());
      emit({ kind: 'peer.struck', uid, peer: of, offence, detail, strikes });
      if (bannedForMs === null) continue;
      emit({ kind: 'peer.banned', uid, peer: of, offence, reason: detail, round, seconds: bannedForMs / 1_000 });
      this.judge.forget(peer);
      this.bandwidth.forget(peer);
    }
  }

  /** Another peer has taken its place. What it is banned for stays. */
  #forget(peer: PeerId): void {
    this.#uids.delete(peer);
    this.#before.delete(peer);
    this.judge.forget(peer);
    this.bandwidth.forget(peer);
  }

  isStruck(peer: PeerId): boolean {
    return this.#struckNow.has(peer);
  }

  /** The round is over: who took part without offence is a little more trusted. */
  endRound(tookPart: readonly PeerId[]): void {
    for (const peer of tookPart) if (!this.#struckNow.has(peer)) this.#trust.clean(peer);
    this.#struckNow.clear();
  }

  uidOf(peer: PeerId): string {
    return this.#uids.get(peer) ?? peer;
  }
}

/** Eq. 2 of MPLS: Σ |p_i − p_s|. */
export const divergenceOf = (own: readonly number[], other: readonly number[]): number =>
  own.reduce((sum, share, label) => sum + Math.abs(share - (other[label] ?? 0)), 0);
