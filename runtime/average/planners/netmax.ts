// NetMax (Zhou et al., ICDE 2021): each worker pulls one whole model from one neighbour, chosen by the policy of a network monitor, which
// needs to see the whole network. And NetMax as the paper of MPLS compares with it: always the quickest neighbour.
import type { NetworkView, Planner, PlanInput, Plan } from '../planner.ts';
import { byId, EMPTY_PLAN, pick, usableOf, wholeFrom, type Usable } from './common.ts';
import { optimisePolicy, type Policy } from './netmax-policy.ts';

/** The work for a policy grows with the cube of the workers: beyond this many the uniform policy is used. */
const MAX_WORKERS = 64;

/** A policy is kept while no time in the network has become so much longer or shorter than it was computed with. */
const DRIFT = 1.1;

/**
 * x ← x + c (x_m − x). Where nothing is known of the network, or not of this worker, every neighbour is as likely as the others and c is ½.
 */
export function netmax(): Planner {
  let last: { network: NetworkView; policy: Policy } | null = null;
  const policyOf = (network: NetworkView): Policy => {
    if (last === null || !areAlike(last.network, network)) last = { network, policy: optimisePolicy(network) };
    return last.policy;
  };
  return {
    name: 'netmax',
    isSynchronous: false,
    plan: (input) => {
      const usable = usableOf(input);
      if (usable.peers.length === 0) return EMPTY_PLAN;
      const row = rowFor(usable, input, policyOf);
      return row === null ? fromAnyone(usable, input) : drawFrom(usable, input, row);
    },
  };
}

function areAlike(one: NetworkView, other: NetworkView): boolean {
  if (one === other) return true;
  if (one.ids.length !== other.ids.length || one.learningRate !== other.learningRate) return false;
  return one.ids.every((id, i) => {
    if (id !== other.ids[i]) return false;
    return one.seconds[i]?.every((before, m) => {
      const now = other.seconds[i]?.[m] ?? null;
      if (before === null || now === null) return before === now;
      return now <= before * DRIFT && before <= now * DRIFT;
    });
  });
}

interface Row {
  /** By usable peer. */
  readonly chances: readonly number[];
  readonly weights: readonly number[];
  /** Of pulling from none. */
  readonly idle: number;
}

/** null where the policy says nothing of this worker or of any of its peers. */
function rowFor(
  { peers }: Usable,
  { self, network }: PlanInput,
  policyOf: (network: NetworkView) => Policy,
): Row | null {
  if (network === undefined || network.ids.length > MAX_WORKERS) return null;
  const at = network.ids.indexOf(self);
  const seconds = network.seconds[at];
  if (!seconds?.some((time, m) => m !== at && time !== null)) return null;
  const policy = policyOf(network);
  const indices = new Map(network.ids.map((id, i) => [id, i]));
  const of = (matrix: Policy['p'], id: string): number => matrix[at]?.[indices.get(id) ?? -1] ?? 0;
  const chances = peers.map(({ id }) => of(policy.p, id));
  if (!chances.some((chance) => chance > 0)) return null;
  return { chances, weights: peers.map(({ id }) => of(policy.weight, id)), idle: of(policy.p, self) };
}

/** Who is not there any more leaves its chance to the others. */
function drawFrom(usable: Usable, { unitBytes, random }: PlanInput, { chances, weights, idle }: Row): Plan {
  const total = chances.reduce((a, b) => a + b, idle);
  let left = random() * total - idle;
  if (left < 0) return EMPTY_PLAN;
  const likely = usable.peers.flatMap((_, s) => ((chances[s] ?? 0) > 0 ? [s] : []));
  const chosen = likely.find((s) => (left -= chances[s] ?? 0) < 0) ?? likely.at(-1) ?? 0;
  const others = likely.filter((s) => s !== chosen).sort((a, b) => (chances[b] ?? 0) - (chances[a] ?? 0) || a - b);
  return wholeFrom(usable, [chosen, ...others], unitBytes, (s) => weights[s] ?? 0);
}

function fromAnyone(usable: Usable, { unitBytes, random }: PlanInput): Plan {
  const count = usable.peers.length;
  const first = pick(count, random);
  const order = usable.peers.map((_, i) => (first + i) % count);
  return wholeFrom(usable, order, unitBytes, () => 0.5);
}

/** The whole model of the neighbour with the quickest link, ½ of it. */
export const netmaxLite = (): Planner => ({
  name: 'netmax-lite',
  isSynchronous: false,
  plan: (input) => {
    const usable = usableOf(input);
    const rated = usable.peers.map(({ id }, s) => ({ s, id, rate: usable.rates[s] ?? 0 }));
    rated.sort((a, b) => b.rate - a.rate || byId(a.id, b.id));
    const order = rated.map(({ s }) => s);
    return wholeFrom(usable, order, input.unitBytes, () => 0.5);
  },
});
