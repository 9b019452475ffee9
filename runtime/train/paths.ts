// Which pipelines there are, and which replica a microbatch takes at each hop. Pure.
import { MeshError } from '../errors.ts';
import type { Hop, Replica, Route } from '../wire/messages.ts';

export type Policy = 'all' | 'disjoint' | 'routed';

/** A replica with what the router knows of it. */
export interface Candidate {
  replica: Replica;
  /** Measured rows a second; 0 while unknown. */
  samplesPerSecond: number;
  /** Microbatches that were sent its way and are not back. */
  outstanding: number;
}

/**
 * The pipelines of a policy, each one replica of every stage, as indices into `stages[i]`. `all`: every combination. `disjoint`: as many
 * as the widest stage has replicas, narrower stages taken in turns. `routed`: one, whose hops are picked for each microbatch.
 */
export function pipelines(policy: Policy, widths: readonly number[]): number[][] {
  if (widths.length === 0 || widths.some((width) => width === 0)) return [];
  switch (policy) {
    case 'all':
      return widths.reduce<number[][]>(
        (paths, width) => paths.flatMap((path) => Array.from({ length: width }, (_, i) => [...path, i])),
        [[]],
      );
    case 'disjoint':
      return Array.from({ length: Math.max(...widths) }, (_, i) => widths.map((width) => i % width));
    case 'routed':
      return [widths.map(() => 0)];
    default:
      return policy satisfies never;
  }
}

/**
 * The chosen replica of each stage first, the others behind it, quickest first: whoever is left takes over. Throws `no-stage` while a
 * stage has none.
 */
export function routeOf(stages: readonly (readonly Candidate[])[], path: readonly number[]): [Hop, ...Route] {
  const [first, ...rest] = stages.map((candidates, stage) => {
    const chosen = candidates[path[stage] ?? 0];
    const others = candidates
      .filter((candidate) => candidate !== chosen)
      .sort((a, b) => b.samplesPerSecond - a.samplesPerSecond);
    return [...(chosen ? [chosen] : []), ...others].map((candidate) => candidate.replica);
  });
  if (!first || [first, ...rest].some((hop) => hop.length === 0))
    throw new MeshError('no-stage', 'A stage has no replica at this moment.', 'It is tried again.');
  return [first, ...rest];
}

/**
 * Routed: at each stage the replica that would be through soonest: (outstanding + 1) / throughput. One that was never measured
 * counts as the mean of the others, so that newcomers get work.
 */
export function pickHops(stages: readonly (readonly Candidate[])[]): number[] {
  return stages.map((candidates) => {
    const known = candidates.filter((candidate) => candidate.samplesPerSecond > 0);
    const mean = known.reduce((sum, candidate) => sum + candidate.samplesPerSecond, 0) / known.length || 1;
    const waits = candidates.map((candidate) => (candidate.outstanding + 1) / (candidate.samplesPerSecond || mean));
    return waits.indexOf(Math.min(...waits));
  });
}
