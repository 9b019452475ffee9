// The planners by name, with what can be set of each: a name alone takes the defaults.
import type { PlannerOptions, PlannerSpec } from '../../average-spec.ts';
import type { Planner } from '../planner.ts';
import { adPsgd, allReduce, appg, divshare, dPsgd, epidemic, none } from './baselines.ts';
import { mpls, mplsLayer, mplsPeer, mplsRandom } from './mpls.ts';
import { netmax, netmaxLite } from './netmax.ts';

export { PLANNER_NAMES, plannerSpecSchema, type PlannerSpec } from '../../average-spec.ts';

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
