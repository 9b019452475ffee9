// Runs of several systems against each other: means over seeds, and how many times as long as the first system each needs. Says where the
// first one does not win. Pure.
import type { NetworkMode } from './config.ts';
import { mean, round, type SystemRun } from './measure.ts';
import { ORACLE } from './systems.ts';

export interface Target {
  accuracy: number;
  /** Means over the seeds that reached it; null: none did. */
  seconds: number | null;
  megabytes: number | null;
  /** Of how many seeds. */
  reached: number;
  /** Times what the first system needs, in the mean of the seeds in which both reached it. */
  timesAsLong: number | null;
  timesTheBytes: number | null;
  /** Where it was not reached in any seed: it needs at least so many times as long. */
  atLeastTimesAsLong: number | null;
}

export interface Comparison {
  system: string;
  network: NetworkMode;
  seeds: number;
  targets: Target[];
  /** At the end of the run. */
  accuracy: number;
  /** Over seeds. */
  accuracySpread: number;
  worstAccuracy: number;
  consensus: number;
  iterations: number;
  upMegabytes: { mean: number; max: number };
  downMegabytes: { mean: number; max: number };
  idleShare: number;
  roundSeconds: number;
  roundModels: number;
  plansPerSecond: number;
}

/** What is compared with: `mpls` where it took part, else the first system. */
export const referenceOf = (runs: readonly SystemRun[]): string =>
  runs.some(({ system }) => system === 'mpls') ? 'mpls' : (runs[0]?.system ?? '');

/** By network, in the order of the runs. Systems that ran on one network only, because they meet none, stand in each. */
export function compare(runs: readonly SystemRun[], networks: readonly NetworkMode[]): Comparison[] {
  const reference = referenceOf(runs);
  const systems = [...new Set(runs.map(({ system }) => system))];
  return networks.flatMap((network) =>
    systems.map((system) => {
      const own = ofNetwork(runs, system, network);
      return comparisonOf(system, network, own, ofNetwork(runs, reference, network));
    }),
  );
}

function ofNetwork(runs: readonly SystemRun[], system: string, network: NetworkMode): SystemRun[] {
  const own = runs.filter((run) => run.system === system);
  const here = own.filter((run) => run.network === network);
  return here.length > 0 ? here : own;
}

function comparisonOf(
  system: string,
  network: NetworkMode,
  runs: readonly SystemRun[],
  references: readonly SystemRun[],
): Comparison {
  const meanOf = (of: (run: SystemRun) => number): number => round(mean(runs.map(of)), 5);
  const last = (run: SystemRun): SystemRun['samples'][number] | undefined => run.samples.at(-1);
  const accuracies = runs.map((run) => last(run)?.meanAccuracy ?? 0);
  return {
    ...{ system, network, seeds: runs.length },
    targets: (runs[0]?.targets ?? []).map((_, i) => targetOf(i, runs, references)),
    accuracy: round(mean(accuracies), 5),
    accuracySpread: round(Math.max(...accuracies) - Math.min(...accuracies), 5),
    worstAccuracy: meanOf((run) => last(run)?.worstAccuracy ?? 0),
    consensus: meanOf((run) => last(run)?.consensus ?? 0),
    iterations: meanOf((run) => last(run)?.iterations ?? 0),
    upMegabytes: { mean: meanOf((run) => run.upMegabytes.mean), max: meanOf((run) => run.upMegabytes.max) },
    downMegabytes: { mean: meanOf((run) => run.downMegabytes.mean), max: meanOf((run) => run.downMegabytes.max) },
    idleShare: meanOf((run) => run.idleShare),
    roundSeconds: meanOf((run) => run.roundSeconds),
    roundModels: meanOf((run) => run.roundModels),
    plansPerSecond: meanOf((run) => run.plansPerSecond),
  };
}

function targetOf(i: number, runs: readonly SystemRun[], references: readonly SystemRun[]): Target {
  const reached = runs.flatMap((run) => {
    const target = run.targets[i];
    if (!target || target.seconds === null || target.megabytes === null) return [];
    const reference = references.find(({ seed }) => seed === run.seed)?.targets[i];
    return [{ seconds: target.seconds, megabytes: target.megabytes, reference }];
  });
  const ratios = (of: (one: { seconds: number | null; megabytes: number | null }) => number | null): number | null => {
    const pairs = reached.flatMap(({ reference, ...own }) => {
      const [numerator, denominator] = [of(own), reference ? of(reference) : null];
      return numerator !== null && denominator !== null && denominator > 0 ? [numerator / denominator] : [];
    });
    return pairs.length > 0 ? round(mean(pairs), 4) : null;
  };
  const horizon = runs[0]?.samples.at(-1)?.seconds ?? 0;
  const slowest = Math.max(0, ...references.map((run) => run.targets[i]?.seconds ?? Infinity));
  return {
    accuracy: runs[0]?.targets[i]?.accuracy ?? 0,
    seconds: reached.length > 0 ? round(mean(reached.map(({ seconds }) => seconds)), 4) : null,
    megabytes: reached.length > 0 ? round(mean(reached.map(({ megabytes }) => megabytes)), 4) : null,
    reached: reached.length,
    timesAsLong: ratios(({ seconds }) => seconds),
    timesTheBytes: ratios(({ megabytes }) => megabytes),
    atLeastTimesAsLong: reached.length === 0 && slowest > 0 && slowest < Infinity ? round(horizon / slowest, 4) : null,
  };
}

/** One sentence for each thing in which the first system is not ahead; empty: there is none. */
export function losses(comparisons: readonly Comparison[], reference: string, network: NetworkMode): string[] {
  const here = comparisons.filter((one) => one.network === network && one.system !== ORACLE);
  const own = here.find(({ system }) => system === reference);
  if (!own) return [];
  const others = here.filter(({ system }) => system !== reference);
  const found: string[] = [];
  for (const [i, target] of own.targets.entries()) {
    const goal = percent(target.accuracy);
    const quicker = others.flatMap(({ system, targets }) => {
      const other = targets[i];
      if (!other || other.reached === 0) return [];
      if (target.reached === 0) return [`${system} reaches it`];
      const ratio = other.timesAsLong ?? Infinity;
      return ratio < 1 ? [`${system} needs ${ratio.toFixed(2)} of its time`] : [];
    });
    if (quicker.length > 0) found.push(`${reference} is not the first at ${goal}: ${quicker.join(', ')}.`);
    const lighter = others.flatMap(({ system, targets }) => {
      const ratio = targets[i]?.timesTheBytes ?? null;
      // Whoever trains alone sends next to nothing.
      return ratio !== null && ratio < 1 && ratio > 0.01 ? [`${system} (${ratio.toFixed(2)})`] : [];
    });
    if (lighter.length > 0)
      found.push(`${reference} does not send the least until ${goal}; less: ${lighter.join(', ')}.`);
  }
  const better = others.filter(({ accuracy }) => accuracy > own.accuracy);
  if (better.length > 0)
    found.push(
      `${reference} is not the most accurate at the end (${percent(own.accuracy, 1)}); better: ` +
        `${better.map(({ system, accuracy }) => `${system} (${percent(accuracy, 1)})`).join(', ')}.`,
    );
  const steadier = others.filter(({ worstAccuracy }) => worstAccuracy > own.worstAccuracy);
  if (steadier.length > 0)
    found.push(
      `Its worst worker at the end (${percent(own.worstAccuracy, 1)}) is behind the worst of ` +
        `${steadier.map(({ system, worstAccuracy }) => `${system} (${percent(worstAccuracy, 1)})`).join(', ')}.`,
    );
  return found;
}

export const percent = (share: number, digits = 0): string => `${(100 * share).toFixed(digits)} %`;
