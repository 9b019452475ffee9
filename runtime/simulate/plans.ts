// Plans alone, without training: what one round would take on random networks, for as many workers as wanted. Links and data are drawn anew
// for each draw; progress is random. The clock, where one is given, tells how many plans a second this machine makes.
import { takesNothing } from '../average-spec.ts';
import { plannerOf } from '../average/planners/index.ts';
import type { PeerView, Plan } from '../average/planner.ts';
import { bytesPerSecond, type NetworkMode, type SimulationConfig } from './config.ts';
import { Draws } from './draws.ts';
import { round } from './measure.ts';
import { unitBytesOf } from './payload.ts';
import { idsOf } from './setup.ts';
import type { RunSpec } from './simulate.ts';
import { neighboursOf } from './topology.ts';

export interface PlanFigures {
  system: string;
  /** Planners know their downlink in `access` only. */
  network: NetworkMode;
  workers: number;
  plans: number;
  /** Mean over the workers: of the longest pull where each link is by itself; and where all that a worker receives shares its downlink. */
  linkSeconds: number;
  accessSeconds: number;
  /** Models' worth of bytes that a round moves. */
  models: number;
  /** null: without a clock. */
  plansPerSecond: number | null;
}

const CLASSES = 10;

/** `draws`: of the whole network. `nowMs`: a clock. null: the system makes no plans. */
export function simulatePlans(
  config: SimulationConfig,
  { system, seed, network }: RunSpec,
  draws: number,
  nowMs?: () => number,
): PlanFigures | null {
  if (system.kind === 'oracle' || takesNothing(system.planner)) return null;
  const planner = plannerOf(system.planner);
  const { workers } = config;
  const unitBytes = unitBytesOf(config.payload, CLASSES * workers);
  const modelBytes = unitBytes.reduce((a, b) => a + b, 0);
  const neighbours = neighboursOf(config.topology, workers, seed);
  const ids = idsOf(workers);
  const totals = { plans: 0, link: 0, access: 0, models: 0, ms: 0 };
  for (let draw = 0; draw < draws; draw += 1)
    for (let worker = 0; worker < workers; worker += 1) {
      const random = new Draws(seed, 'plans', draw * workers + worker);
      const peers = (neighbours[worker] ?? []).map((peer): PeerView => ({
        ...{ id: ids[peer] ?? '', degree: neighbours[peer]?.length ?? 0 },
        bytesPerSecond: bytesPerSecond(random.between(...config.links.mbitPerSecond)),
        divergence: 2 * random.uniform(),
        progress: unitBytes.map(() => random.exponential(1)),
      }));
      const downlink = bytesPerSecond(random.between(...config.access.downMbitPerSecond));
      const started = nowMs?.() ?? 0;
      const plan = planner.plan({
        ...{ self: ids[worker] ?? '', peers, unitBytes, downlink: network === 'access' ? downlink : Infinity },
        ...{ random: random.uniform, round: draw + 1 },
      });
      totals.ms += (nowMs?.() ?? 0) - started;
      totals.plans += 1;
      const flows = flowsOf(plan, peers, unitBytes);
      totals.link += flows.reduce((longest, { bytes, rate }) => Math.max(longest, bytes / rate), 0);
      totals.access += sharedSeconds(flows, downlink);
      totals.models += flows.reduce((sum, { bytes }) => sum + bytes, 0) / modelBytes;
    }
  const { plans, link, access, models, ms } = totals;
  return {
    ...{ system: system.name, network, workers, plans },
    linkSeconds: round(link / plans, 4),
    accessSeconds: round(access / plans, 4),
    models: round(models / plans, 4),
    plansPerSecond: nowMs === undefined ? null : round((1000 * plans) / ms, 4),
  };
}

interface Pulling {
  bytes: number;
  rate: number;
}

function flowsOf(plan: Plan, peers: readonly PeerView[], unitBytes: readonly number[]): Pulling[] {
  const rates = new Map(peers.map(({ id, bytesPerSecond: rate }) => [id, rate ?? 1]));
  return plan.pulls.map(({ peer, units }) => ({
    bytes: units.reduce((sum, unit) => sum + (unitBytes[unit] ?? 0), 0),
    rate: rates.get(peer) ?? 1,
  }));
}

/** Until the last of these has come, each no faster than its link, all together no faster than the line, max–min fair. */
export function sharedSeconds(flows: readonly Pulling[], line: number): number {
  let left = flows.map(({ bytes, rate }) => ({ bytes, rate })).sort((a, b) => a.rate - b.rate);
  let seconds = 0;
  while (left.length > 0) {
    let free = line;
    const shares = left.map(({ rate }, i) => {
      const share = Math.min(rate, free / (left.length - i));
      free -= share;
      return share;
    });
    const step = left.reduce((least, { bytes }, i) => Math.min(least, bytes / (shares[i] ?? 1)), Infinity);
    seconds += step;
    left = left.flatMap(({ bytes, rate }, i) => {
      const rest = bytes - (shares[i] ?? 0) * step;
      return rest > 1e-6 * bytes ? [{ bytes: rest, rate }] : [];
    });
  }
  return seconds;
}
