// Who is whose neighbour: ring, random, full, or a random graph of a given degree for many workers. Always connected.
import { z } from 'zod';
import { Draws } from './draws.ts';

export const topologySchema = z.discriminatedUnion('kind', [
  /** Each pair with this chance. */
  z.strictObject({ kind: z.literal('random'), chance: z.number().min(0).max(1).default(0.5) }),
  z.strictObject({ kind: z.literal('ring') }),
  z.strictObject({ kind: z.literal('full') }),
  /** Rings in random order laid over each other, half as many as the degree: each worker has about so many neighbours. */
  z.strictObject({ kind: z.literal('sparse'), degree: z.int().min(2).max(256).default(14) }),
]);
export type Topology = z.infer<typeof topologySchema>;

/** Of each worker its neighbours, ascending; symmetric. A random graph that is not connected is drawn again, at most so many times. */
const ATTEMPTS = 100;

export function neighboursOf(topology: Topology, workers: number, seed: number): number[][] {
  switch (topology.kind) {
    case 'ring':
      return graphOf(workers, ringOf(Array.from({ length: workers }, (_, i) => i)));
    case 'full':
      return graphOf(workers, pairsOf(workers));
    case 'random': {
      const draws = new Draws(seed, 'topology');
      for (let attempt = 0; attempt < ATTEMPTS; attempt += 1) {
        const graph = graphOf(workers, pairsOf(workers).filter(() => draws.uniform() < topology.chance)); // prettier-ignore
        if (isConnected(graph)) return graph;
      }
      return graphOf(workers, ringOf(shuffled(workers, draws)));
    }
    case 'sparse': {
      const draws = new Draws(seed, 'topology');
      const rings = Array.from({ length: Math.ceil(topology.degree / 2) }, () => ringOf(shuffled(workers, draws)));
      return graphOf(workers, rings.flat());
    }
    default:
      return topology satisfies never;
  }
}

type Pair = readonly [number, number];

const pairsOf = (workers: number): Pair[] =>
  Array.from({ length: workers }, (_, i) => Array.from({ length: i }, (__, m): Pair => [m, i])).flat();

const ringOf = (order: readonly number[]): Pair[] =>
  order.map((worker, i) => [worker, order[(i + 1) % order.length] ?? worker]);

function shuffled(workers: number, draws: Draws): number[] {
  const order = Array.from({ length: workers }, (_, i) => i);
  for (let last = workers - 1; last > 0; last -= 1) {
    const other = draws.below(last + 1);
    [order[last], order[other]] = [order[other] ?? 0, order[last] ?? 0];
  }
  return order;
}

function graphOf(workers: number, pairs: readonly Pair[]): number[][] {
  const sets = Array.from({ length: workers }, () => new Set<number>());
  for (const [a, b] of pairs)
    if (a !== b) {
      sets[a]?.add(b);
      sets[b]?.add(a);
    }
  return sets.map((set) => [...set].sort((a, b) => a - b));
}

function isConnected(graph: readonly (readonly number[])[]): boolean {
  const reached = new Set([0]);
  for (const worker of reached) for (const other of graph[worker] ?? []) reached.add(other);
  return reached.size === graph.length;
}
