// What is compared: planners with their settings, under a name each, and the two ends of the scale. No averaging at all bounds them from
// below; a server that averages everyone's model over a network that takes no time, from above.
import { z } from 'zod';
import { takesNothing } from '../average-spec.ts';
import { PLANNER_NAMES, plannerSpecSchema, type PlannerSpec } from '../average/planners/index.ts';

export type System =
  | { readonly kind: 'planner'; readonly name: string; readonly planner: PlannerSpec }
  | { readonly kind: 'oracle'; readonly name: string };

/** Planners by their own names, and these. */
const NAMED: Readonly<Record<string, PlannerSpec>> = {
  'mpls-paper-fill': { name: 'mpls', fill: 'paper' },
  'mpls-no-fill': { name: 'mpls', fill: 'none' },
  'mpls-bandwidth': { name: 'mpls', tau1: 1 },
  'mpls-divergence': { name: 'mpls', tau2: 1 },
  'local-only': 'none',
};
export const ORACLE = 'fedavg-oracle';

export const SYSTEM_NAMES: readonly string[] = [
  ...PLANNER_NAMES.filter((name) => name !== 'none'),
  ...Object.keys(NAMED),
  ORACLE,
];

const nameSchema = z.string().refine((name) => SYSTEM_NAMES.includes(name), {
  error: ({ input }) => `there is no system "${String(input)}"; there are ${SYSTEM_NAMES.join(', ')}`,
});

/** A name, or a planner with options under a name of its own. */
export const systemSpecSchema = z.union([
  nameSchema,
  z.strictObject({ name: z.string().regex(/^[a-z0-9][a-z0-9-]{0,31}$/), planner: plannerSpecSchema }),
]);
export type SystemSpec = z.infer<typeof systemSpecSchema>;

export function systemOf(spec: SystemSpec): System {
  if (typeof spec !== 'string') return { kind: 'planner', name: spec.name, planner: spec.planner };
  if (spec === ORACLE) return { kind: 'oracle', name: spec };
  return { kind: 'planner', name: spec, planner: NAMED[spec] ?? plannerSpecSchema.parse(spec) };
}

/** It sends nothing, so that it is the same on every network but for who is there. */
export const isAlone = (system: System): boolean => system.kind === 'oracle' || takesNothing(system.planner);
