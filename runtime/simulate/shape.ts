// What the published comparison and the analysis of plans lead one to expect of the systems, claim by claim, against what was measured. A
// claim that does not hold is told like one that does.
import { percent, type Comparison } from './compare.ts';
import type { NetworkMode } from './config.ts';
import { mean, type SystemRun } from './measure.ts';
import type { PlanFigures } from './plans.ts';

export interface Finding {
  claim: string;
  holds: boolean;
  /** The numbers. */
  evidence: string;
}

export interface Measured {
  runs: readonly SystemRun[];
  comparisons: readonly Comparison[];
  /** Plans on a ring, a random graph and a full one, links only. */
  plans: Readonly<Record<'ring' | 'random' | 'full', readonly PlanFigures[]>>;
}

/** Claims whose systems took part. */
export function findings(measured: Measured): Finding[] {
  return [perIteration, perSecond, delays, topologies, weights, sharedLines].flatMap((check) => check(measured));
}

/** Mean accuracy of the runs at one iteration count that all of them reach. */
function perIteration({ runs }: Measured): Finding[] {
  const names = ['appg', 'mpls', 'mpls-random', 'netmax-lite'];
  const own = names.map((name) => runs.filter(({ system, network }) => system === name && network === 'paper'));
  if (own.some((some) => some.length === 0)) return [];
  const iterations = Math.min(...own.flat().map(({ samples }) => samples.at(-1)?.iterations ?? 0));
  const scores = own.map((some) => mean(some.map((run) => accuracyAt(run, 'iterations', iterations))));
  const [appg = 0, mpls = 0, random = 0, lite = 0] = scores;
  const evidence = `after ${iterations.toFixed(0)} iterations: ${named(names, scores)}`;
  return [
    { claim: 'By iteration: APPG is as good as MPLS or better', holds: appg >= mpls, evidence },
    {
      claim: 'By iteration: MPLS is better than random peers, and these are as good as NetMax-lite or better',
      holds: mpls > random && random >= lite,
      evidence,
    },
  ];
}

/** How far the runs have come while the first of them are on their way: at half the time that the quickest takes to the last target. */
function perSecond({ runs, comparisons }: Measured): Finding[] {
  const here = comparisons.filter(({ network, system }) => network === 'paper' && !BOUNDS.includes(system));
  const appg = here.find(({ system }) => system === 'appg');
  const quickest = Math.min(...here.map(({ targets }) => targets.at(-1)?.seconds ?? Infinity));
  if (!appg || !here.some(({ system }) => system === 'mpls') || quickest === Infinity) return [];
  const at = quickest / 2;
  const scores = here
    .filter(({ system }) => system === 'mpls' || !system.startsWith('mpls-') || system === 'mpls-random')
    .map(({ system }) => {
      const own = runs.filter((run) => run.system === system && run.network === 'paper');
      return { system, accuracy: mean(own.map((run) => accuracyAt(run, 'seconds', at))) };
    })
    .sort((a, b) => b.accuracy - a.accuracy);
  return [
    {
      claim: 'By the clock: MPLS is ahead of every rival, and APPG is the last of those that run freely',
      holds:
        scores[0]?.system === 'mpls' &&
        scores.filter(({ system }) => !IN_STEP.includes(system)).at(-1)?.system === 'appg',
      evidence: `after ${at.toFixed(0)} s: ${scores.map(({ system, accuracy }) => `${system} ${percent(accuracy, 1)}`).join(', ')}`,
    },
  ];
}

const BOUNDS = ['fedavg-oracle', 'local-only'];
const IN_STEP = ['d-psgd', 'all-reduce'];

/** Round delays against MPLS, for a model of the size of NIN: what plans alone give. */
const EXPECTED_DELAYS: Readonly<Record<string, readonly [number, number]>> = {
  'mpls-random': [1.5, 3],
  'netmax-lite': [1.5, 3],
  'ad-psgd': [2.5, 6],
  appg: [5, 11],
};

function delays({ plans }: Measured): Finding[] {
  const ratios = ratiosOf(plans.random);
  const known = Object.entries(EXPECTED_DELAYS).flatMap(([system, [low, high]]) => {
    const ratio = ratios.get(system);
    return ratio === undefined ? [] : [{ system, ratio, isNear: ratio >= low && ratio <= high }];
  });
  if (known.length === 0) return [];
  return [
    {
      claim:
        'Longest pull of a round against MPLS, each link by itself: random peers and NetMax-lite 1.5 to 3 times, AD-PSGD 2.5 to 6, APPG 5 to 11',
      holds: known.every(({ isNear }) => isNear),
      evidence: known.map(({ system, ratio }) => `${system} ${ratio.toFixed(2)}`).join(', '),
    },
  ];
}

function topologies({ plans }: Measured): Finding[] {
  const kinds = ['ring', 'random', 'full'] as const;
  const systems = ['mpls-random', 'netmax-lite', 'ad-psgd', 'appg'];
  const spreads = kinds.map((kind) => {
    const ratios = ratiosOf(plans[kind]);
    return mean(systems.flatMap((system) => ratios.get(system) ?? []));
  });
  const [ring = 0, random = 0, full = 0] = spreads;
  if (spreads.some((spread) => spread === 0)) return [];
  return [
    {
      claim: 'On a ring the differences shrink, on a full graph they widen',
      holds: ring < random && random < full,
      evidence: `longest pull against MPLS, mean of ${systems.join(', ')}: ${kinds.map((kind, i) => `${kind} ${(spreads[i] ?? 0).toFixed(2)}`).join(', ')}`,
    },
  ];
}

function weights({ comparisons }: Measured): Finding[] {
  const of = (name: string): Comparison | undefined =>
    comparisons.find(({ system, network }) => system === name && network === 'paper');
  const [bandwidth, divergence] = [of('mpls-bandwidth'), of('mpls-divergence')];
  if (!bandwidth || !divergence) return [];
  const [early, late] = [bandwidth.targets[0]?.seconds ?? Infinity, divergence.targets[0]?.seconds ?? Infinity];
  return [
    {
      claim:
        'Choosing peers by bandwidth alone (τ1 = 1) is faster early, by difference of data alone (τ2 = 1) more accurate in the end',
      holds: early < late && divergence.accuracy > bandwidth.accuracy,
      evidence:
        `τ1 = 1: ${percent(bandwidth.targets[0]?.accuracy ?? 0)} after ${early.toFixed(0)} s, ${percent(bandwidth.accuracy, 1)} in the end; ` +
        `τ2 = 1: after ${late.toFixed(0)} s, ${percent(divergence.accuracy, 1)}`,
    },
  ];
}

function sharedLines({ comparisons }: Measured): Finding[] {
  const lead = (system: string, network: NetworkMode): number | null => {
    const here = comparisons.filter((one) => one.network === network);
    const own = here.find((one) => one.system === system)?.targets.at(-1)?.seconds ?? null;
    const rivals = here.filter((one) => !one.system.startsWith('mpls') || one.system === 'mpls-random');
    const times = rivals
      .filter(({ system: name }) => !BOUNDS.includes(name))
      .map(({ targets }) => targets.at(-1)?.seconds ?? Infinity);
    const best = Math.min(...times);
    return own === null || best === Infinity ? null : best / own;
  };
  const [paper, shared] = (['paper', 'access'] as const).map((network) => ({
    full: lead('mpls-paper-fill', network),
    aware: lead('mpls', network),
  }));
  const all = [paper?.full, paper?.aware, shared?.full, shared?.aware];
  if (!all.every((value) => typeof value === 'number')) return [];
  const [paperFull = 0, paperAware = 0, sharedFull = 0, sharedAware = 0] = all;
  const kept = (before: number, after: number): number => (before > 1 ? (after - 1) / (before - 1) : 0);
  const [full, aware] = [kept(paperFull, sharedFull), kept(paperAware, sharedAware)];
  return [
    {
      claim:
        "Where access lines bind, the paper's fill loses most of its lead over the best rival, and MPLS that fills what the line allows keeps half or more",
      holds: full < 0.5 && aware >= 0.5,
      evidence:
        `times as long as it the best rival needs: paper's fill ${paperFull.toFixed(2)}, then ${sharedFull.toFixed(2)}; ` +
        `access-aware ${paperAware.toFixed(2)}, then ${sharedAware.toFixed(2)}`,
    },
  ];
}

function ratiosOf(figures: readonly PlanFigures[]): Map<string, number> {
  const own = figures.find(({ system }) => system === 'mpls');
  return new Map(figures.map(({ system, linkSeconds }) => [system, linkSeconds / (own?.linkSeconds ?? NaN)]));
}

function accuracyAt({ samples }: SystemRun, axis: 'seconds' | 'iterations', value: number): number {
  const at = samples.findIndex((sample) => sample[axis] >= value);
  const [before, after] = [samples[at - 1], samples[at]];
  if (!after) return samples.at(-1)?.meanAccuracy ?? 0;
  if (!before || after[axis] === before[axis]) return after.meanAccuracy;
  const share = (value - before[axis]) / (after[axis] - before[axis]);
  return before.meanAccuracy + share * (after.meanAccuracy - before.meanAccuracy);
}

const named = (names: readonly string[], values: readonly number[]): string =>
  names.map((name, i) => `${name} ${percent(values[i] ?? 0, 1)}`).join(', ');
