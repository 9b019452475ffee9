// The planners by name, with what can be set of each: a name alone takes the defaults.
import { z } from 'zod';
import type { Planner } from '../planner.ts';
import { adPsgd, allReduce, appg, divshare, dPsgd, epidemic, none } from './baselines.ts';
import { mpls, mplsLayer, mplsPeer, mplsRandom } from './mpls.ts';
import { netmax, netmaxLite } from './netmax.ts';

const share = z.number().min(0).max(1);
const scheduled = {
  /** What is pulled beyond each unit once: as much as the downlink allows, as the paper does, nothing. */
  fill: z.enum(['access', 'paper', 'none']).optional(),
  /** What bandwidth (1) and difference of data (2) count; one given, the other is what is left of 1. */
  tau1: share.optional(),
  tau2: share.optional(),
};
const fromSome = { peers: z.int().min(1).max(64).optional() };

const plain = <N extends string>(name: N) => z.strictObject({ name: z.literal(name) });

const withOptions = z.discriminatedUnion('name', [
  z.strictObject({ name: z.literal('mpls'), ...scheduled }),
  z.strictObject({ name: z.literal('mpls-peer'), ...scheduled }),
  plain('mpls-layer'),
  plain('mpls-random'),
  plain('netmax'),
  plain('netmax-lite'),
  plain('appg'),
  plain('ad-psgd'),
  plain('d-psgd'),
  z.strictObject({ name: z.literal('epidemic'), ...fromSome }),
  z.strictObject({ name: z.literal('divshare'), ...fromSome }),
  plain('all-reduce'),
  plain('none'),
]);

type PlannerOptions = z.infer<typeof withOptions>;

const nameSchema = z.enum(withOptions.options.map((one) => one.shape.name.value));
export const PLANNER_NAMES = nameSchema.options;

/** A name, or `{ name, … }` with its options. */
export const plannerSpecSchema = z.union([nameSchema, withOptions]);
export type PlannerSpec = z.infer<typeof plannerSpecSchema>;

export function plannerOf(spec: PlannerSpec): Planner {
  const options: PlannerOptions = typeof spec === 'string' ? { name: spec } : spec;
  switch (options.name) {
    case 'mpls':
      return mpls(options);
    case 'mpls-peer':
      return mplsPeer(options);
    case 'mpls-layer':
      return mplsLayer();
    case 'mpls-random':
      return mplsRandom();
    case 'netmax':
      return netmax();
    case 'netmax-lite':
      return netmaxLite();
    case 'appg':
      return appg();
    case 'ad-psgd':
      return adPsgd();
    case 'd-psgd':
      return dPsgd();
    case 'epidemic':
      return epidemic(options);
    case 'divshare':
      return divshare(options);
    case 'all-reduce':
      return allReduce();
    case 'none':
      return none();
    default:
      return options satisfies never;
  }
}
