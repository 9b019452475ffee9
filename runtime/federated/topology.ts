// Who is whose neighbour among N workers: ring, full, random, or a list of edges. Pure, and the same on every worker.
import { z } from 'zod';
import { MeshError } from '../errors.ts';
import { randomWords } from '../train/random.ts';

const edge = z.tuple([z.int().min(0), z.int().min(0)]);

/** `random`: each pair with this probability (Erdős–Rényi), drawn from the run's seed; parts that hang apart are joined by one edge. */
export const topologySchema = z.union([
  z.enum(['ring', 'full']),
  z.strictObject({ random: z.number().min(0).max(1) }),
  z.strictObject({ edges: z.array(edge).min(1).max(100_000) }),
]);
export type Topology = z.infer<typeof topologySchema>;

/** Streams of random numbers that no epoch, step or averaging uses. */
const TOPOLOGY_STREAM = 2 ** 45;

/** Neighbours of each worker, ascending. Throws `usage` for an edge to a worker that there is not. */
export function neighbours(topology: Topology, workers: number, seed: number): number[][] {
  const sets = Array.from({ length: workers }, () => new Set<number>());
  const join = (a: number, b: number): void => {
    if (a === b) return;
    sets[a]?.add(b);
    sets[b]?.add(a);
  };
  if (topology === 'ring') sets.forEach((_, i) => join(i, (i + 1) % workers));
  else if (topology === 'full') sets.forEach((_, a) => sets.forEach((__, b) => join(a, b)));
  else if ('random' in topology) {
    const words = randomWords(seed, TOPOLOGY_STREAM);
    for (let a = 0; a < workers; a += 1)
      for (let b = a + 1; b < workers; b += 1) if (words() / 2 ** 32 < topology.random) join(a, b);
    const parts = partsOf(sets);
    for (let p = 1; p < parts.length; p += 1) join(parts[p - 1]?.[0] ?? 0, parts[p]?.[0] ?? 0);
  } else
    for (const [a, b] of topology.edges) {
      if (a >= workers || b >= workers || a === b)
        throw new MeshError(
          'usage',
          `The edge ${a}–${b} joins no two of ${workers} workers.`,
          `Workers are counted from 0 to ${workers - 1}.`,
        );
      join(a, b);
    }
  return sets.map((set) => [...set].sort((a, b) => a - b));
}

/** Workers that hang together. */
function partsOf(sets: readonly ReadonlySet<number>[]): number[][] {
  const seen = new Set<number>();
  return sets.flatMap((_, start) => {
    if (seen.has(start)) return [];
    const part = [start];
    seen.add(start);
    for (const worker of part)
      for (const next of sets[worker] ?? [])
        if (!seen.has(next)) {
          seen.add(next);
          part.push(next);
        }
    return [part];
  });
}
