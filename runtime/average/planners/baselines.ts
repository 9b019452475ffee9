// What averaging is compared with: gossip and synchronous methods, each as one round of pulls.
import type { Mixing, Plan, Planner, PlanInput } from '../planner.ts';
import { EMPTY_PLAN, everyUnit, pick, planOf, sample, usableOf, wholeFrom, type Usable } from './common.ts';

const UNIFORM: Mixing = { kind: 'uniform' };

/** APPG as MPLS has it: every neighbour's whole model, the mean of all (Zhang and You, arXiv 1901.08215, is about gradients as well). */
export const appg = (): Planner => fromEveryone('appg', false, () => UNIFORM);

/**
 * Every peer's whole model, the mean of all, in step: the mean of the whole network where all are neighbours of each other. Models are
 * pulled, one by one; a ring of partial sums would move two models a worker instead.
 */
export const allReduce = (): Planner => fromEveryone('all-reduce', true, () => UNIFORM);

/**
 * D-PSGD (Lian et al., 2017): x_i ← Σ_j W_ij x_j in step, with Metropolis weights W_ij = 1 / (1 + max(degree i, degree j)), doubly
 * stochastic on any graph. What a neighbour that does not answer would have counted stays with this worker.
 */
export const dPsgd = (): Planner =>
  fromEveryone('d-psgd', true, ({ peers }, { peers: neighbours }) => {
    const own = neighbours.length;
    const weightOf = (degree: number): number => 1 / (1 + Math.max(own, degree > 0 ? degree : 0));
    return { kind: 'weights', of: Object.fromEntries(peers.map(({ id, degree }) => [id, weightOf(degree)])) };
  });

/** AD-PSGD (Lian et al., ICML 2018): exchange with one random neighbour, both take the mean of the two. */
export const adPsgd = (): Planner => ({
  name: 'ad-psgd',
  isSynchronous: false,
  plan: (input) => {
    const usable = usableOf(input);
    const count = usable.peers.length;
    if (count === 0) return EMPTY_PLAN;
    const first = pick(count, input.random);
    const order = usable.peers.map((_, i) => (first + i) % count);
    return wholeFrom(usable, order, input.unitBytes, () => 0.5, { isExchange: true });
  },
});

export interface FromSome {
  /** How many at most. */
  readonly peers?: number | undefined;
}

/**
 * Epidemic Learning (de Vos et al., NeurIPS 2023), its local variant, in pull form: each worker asks `peers` random neighbours for their
 * models, where the original sends its own to so many. As many models arrive, and of each worker as many leave in the mean.
 */
export const epidemic = ({ peers: count = 3 }: FromSome = {}): Planner => ({
  name: 'epidemic',
  isSynchronous: false,
  plan: (input) => {
    const usable = usableOf(input);
    const { taken, rest } = sample(usable.peers.length, count, input.random);
    const asked = new Set(taken);
    const units = usable.peers.map((_, s) => (asked.has(s) ? everyUnit(input.unitBytes) : []));
    const others = rest.map((s) => usable.peers[s]?.id ?? '');
    return planOf(usable, units, input.unitBytes, UNIFORM, { spares: () => others });
  },
});

/**
 * DivShare (Biswas et al., WWW 2025), in pull form: each unit, the fragment here, from `peers` random neighbours of its own, where the
 * original sends each of its fragments to so many.
 */
export const divshare = ({ peers: count = 2 }: FromSome = {}): Planner => ({
  name: 'divshare',
  isSynchronous: false,
  plan: (input) => {
    const usable = usableOf(input);
    const drawn = input.unitBytes.map(() => sample(usable.peers.length, count, input.random));
    const units = usable.peers.map((_, s) => drawn.flatMap(({ taken }, unit) => (taken.includes(s) ? [unit] : [])));
    const spares = (unit: number): string[] => (drawn[unit]?.rest ?? []).map((s) => usable.peers[s]?.id ?? '');
    return planOf(usable, units, input.unitBytes, UNIFORM, { spares });
  },
});

/** Everyone trains alone. */
export const none = (): Planner => ({ name: 'none', isSynchronous: false, plan: () => EMPTY_PLAN });

function fromEveryone(
  name: string,
  isSynchronous: boolean,
  mixing: (usable: Usable, input: PlanInput) => Mixing,
): Planner {
  return {
    name,
    isSynchronous,
    plan: (input): Plan => {
      const usable = usableOf(input);
      const units = usable.peers.map(() => everyUnit(input.unitBytes));
      return planOf(usable, units, input.unitBytes, mixing(usable, input));
    },
  };
}
