// Random views of a neighbourhood, for the property tests of planners: also with peers of whom nothing is known, or nothing sensible.
import fc from '../support/fast-check.ts';
import type { NetworkView, PeerView, PlanInput } from '../../runtime/average/planner.ts';

const ids = fc.uniqueArray(fc.stringMatching(/^[a-z]{1,4}$/), { minLength: 0, maxLength: 12 });

const sane = fc.double({ min: 0.001, max: 1000, noNaN: true });
const odd = fc.constantFrom(0, -1, NaN, Infinity, -Infinity, 1e300, 1e-300);
const figure = fc.oneof({ weight: 6, arbitrary: sane }, { weight: 1, arbitrary: odd });

export interface Given {
  input: Omit<PlanInput, 'random'>;
  seed: number;
}

/** `least`: how many peers there are at least; `isSane`: without odd figures. */
export const given = ({ least = 0, isSane = false } = {}): fc.Arbitrary<Given> =>
  fc
    .tuple(
      ids.filter((all) => all.length >= least),
      fc.array(isSane ? sane : fc.oneof({ weight: 9, arbitrary: sane }, fc.constant(0)), {
        minLength: 1,
        maxLength: 8,
      }),
      fc.nat(),
    )
    .chain(([peerIds, unitBytes, seed]) => {
      const value = isSane ? sane : figure;
      const peers = peerIds.map((id) =>
        fc.record<PeerView>({
          id: fc.constant(id),
          bytesPerSecond: fc.oneof({ weight: 5, arbitrary: value }, fc.constant(null)),
          divergence: value,
          progress: fc.array(value, { minLength: isSane ? unitBytes.length : 0, maxLength: unitBytes.length }),
          degree: fc.integer({ min: 0, max: 20 }),
        }),
      );
      const downlink = fc.oneof(fc.constant(Infinity), sane, odd);
      return fc.record({
        seed: fc.constant(seed),
        input: fc.record({
          self: fc.constant('SELF'),
          peers: fc.tuple(...peers),
          unitBytes: fc.constant(unitBytes),
          downlink,
          round: fc.nat(),
        }),
      });
    });

/** The same draws for the same seed. */
export function randomOf(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 2 ** 32;
  };
}

export const inputOf = ({ input, seed }: Given): PlanInput => ({ ...input, random: randomOf(seed) });

/** Peers that may be asked at all. */
export const askable = ({ peers }: Pick<PlanInput, 'peers'>): PeerView[] =>
  peers.filter(({ bytesPerSecond: rate }) => rate === null || (rate > 0 && Number.isFinite(rate)));

const PAIRS = 36;

/** Connected networks of 3 to 9 workers; a pull takes up to `most` seconds, and at least a second more than computing. */
export const networks = (most: number): fc.Arbitrary<NetworkView> =>
  fc
    .tuple(
      fc.integer({ min: 3, max: 9 }),
      fc.array(fc.double({ min: 0, max: most, noNaN: true }), { minLength: PAIRS, maxLength: PAIRS }),
      fc.array(fc.boolean(), { minLength: PAIRS, maxLength: PAIRS }),
      fc.array(fc.double({ min: 1, max: 2, noNaN: true }), { minLength: 9, maxLength: 9 }),
    )
    .map(([count, pulls, linked, computing]) => {
      const pair = (i: number, m: number): number => (Math.max(i, m) * (Math.max(i, m) - 1)) / 2 + Math.min(i, m);
      const seconds = Array.from({ length: count }, (_, i) =>
        Array.from({ length: count }, (__, m) => {
          const own = computing[i] ?? 1;
          if (i === m) return own;
          const isOnPath = Math.abs(i - m) === 1;
          return isOnPath || linked[pair(i, m)] === true ? Math.max(own + 1, pulls[pair(i, m)] ?? 0) : null;
        }),
      );
      return { ids: seconds.map((_, i) => `w${i}`), seconds, learningRate: 0.01 };
    });
