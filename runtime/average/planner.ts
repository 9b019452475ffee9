// Who pulls what from whom in one round of averaging: the contract of every planner. Pure: a view of the neighbours in, a plan out; the
// same planners run in the product (averager.ts) and in the simulator. Random numbers come in as a function. A planner never sees a peer
// that is banned, and a peer that it is not told of does not exist.

/** What one worker knows of a neighbour when it plans. */
export interface PeerView {
  readonly id: string;
  /** Of the link from that peer, measured in real transfers; null while nothing is known of it. */
  readonly bytesPerSecond: number | null;
  /** Σ over classes of |own share − its share|, 0 to 2 (Eq. 2 of MPLS). */
  readonly divergence: number;
  /** By unit: how far training has moved its weights since this worker last planned with it, as the squared norm of the movement (Eq. 5). */
  readonly progress: readonly number[];
  /** How many neighbours it has itself. */
  readonly degree: number;
}

export interface PlanInput {
  readonly self: string;
  /** In the order of their ids. */
  readonly peers: readonly PeerView[];
  /** Size of each unit (a layer, or a row chunk of a large one) as it travels, in bytes. */
  readonly unitBytes: readonly number[];
  /** What this worker can receive from all peers together, bytes a second; Infinity while nothing is known. */
  readonly downlink: number;
  /** Uniform in [0, 1). */
  readonly random: () => number;
  /** Counts this worker's rounds from 0. */
  readonly round: number;
  /** Seconds that an iteration with each peer takes, of the whole network as far as it is known: what `netmax` plans with. */
  readonly network?: NetworkView;
}

export interface NetworkView {
  /** Every known worker. */
  readonly ids: readonly string[];
  /** seconds[i][m]: of an iteration of worker i that pulls from m; on the diagonal one without a pull. null: no link. */
  readonly seconds: readonly (readonly (number | null)[])[];
  /** The learning rate of local training. */
  readonly learningRate: number;
}

export interface Pull {
  readonly peer: string;
  /** Indices of units, ascending. */
  readonly units: readonly number[];
  /** How long it should take: Σ M / B; 0 where the link is unknown. */
  readonly etaSeconds: number;
}

export interface Plan {
  /** At most one entry for each peer, none without units. */
  readonly pulls: readonly Pull[];
  readonly mixing: Mixing;
  /** Both sides change: what is pulled is answered with what this worker has, as AD-PSGD does. */
  readonly isExchange?: boolean;
  /** Whom a unit may be asked from instead where its peer fails, best first; absent: it is left out of this round. */
  readonly spares?: (unit: number) => readonly string[];
}

/**
 * How what arrives becomes the new weights. `uniform`: Eq. 1, (Σ y·w_s + w) / (Σ y + 1). `weights`: w + Σ c_s (w_s − w), the rest of the
 * weight staying with this worker; a peer that is not named counts 0, and so does one that did not answer. Spares are named too, with what
 * they count where they answer in another's stead.
 */
export type Mixing =
  { readonly kind: 'uniform' } | { readonly kind: 'weights'; readonly of: Readonly<Record<string, number>> };

export interface Planner {
  readonly name: string;
  /** All workers do round k together, and training waits for it: what they mix is of the same round everywhere. */
  readonly isSynchronous: boolean;
  plan(input: PlanInput): Plan;
}
