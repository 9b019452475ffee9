// What `skein simulate` tells a person, as Markdown: systems against each other, where the first one does not win, what was expected.
import { losses, percent, type Comparison, type Target } from '../runtime/simulate/compare.ts';
import type { NetworkMode, SimulationConfig } from '../runtime/simulate/config.ts';
import type { PlanFigures } from '../runtime/simulate/plans.ts';
import type { Finding } from '../runtime/simulate/shape.ts';

export interface Report {
  config: SimulationConfig;
  reference: string;
  comparisons: readonly Comparison[];
  plans: Readonly<Record<string, readonly PlanFigures[]>>;
  findings: readonly Finding[];
}

export const NETWORK_TEXT: Readonly<Record<NetworkMode, string>> = {
  paper: 'only links have limits',
  access: "each worker's line is shared, too",
};

export function reportOf({ config, reference, comparisons, plans, findings }: Report): string {
  const parts = config.networks.flatMap((network) => [
    `## Network \`${network}\`: ${NETWORK_TEXT[network]}`,
    comparisonTable(comparisons.filter((one) => one.network === network), reference), // prettier-ignore
    lossesText(losses(comparisons, reference, network), reference),
  ]);
  const planParts = Object.entries(plans).map(
    ([graph, figures]) => `Graph: ${graph}\n\n${planTable(figures, reference)}`,
  );
  return [
    '# Simulation',
    method(config),
    ...parts,
    ...(planParts.length > 0 ? ['## One round, plans alone', ...planParts] : []),
    ...(findings.length > 0 ? ['## What was expected', findingsText(findings)] : []),
  ].join('\n\n');
}

function method(config: SimulationConfig): string {
  const { workers, seeds, seconds, learning, links, payload, computeSeconds, churn, merge } = config;
  return [
    `${workers} workers, ${config.topology.kind} graph, links ${links.mbitPerSecond.join('–')} Mbit/s`,
    `payload ${typeof payload === 'string' ? payload : `${payload.unitBytes.length} layers`}, training from ${computeSeconds} s an iteration`,
    churn === false ? 'nobody leaves' : `on for ${churn.onSeconds} s and off for ${churn.offSeconds} s in the mean`,
    `SGD at ${learning.learningRate}, batch ${learning.batch}, ${learning.rows} rows, ${partitionText(learning.partition)}`,
    `merge: ${merge}; ${seconds} virtual seconds; means over seed${seeds.length === 1 ? '' : 's'} ${seeds.join(', ')}`,
  ].join('; ');
}

const partitionText = (partition: SimulationConfig['learning']['partition']): string =>
  partition.kind === 'label' ? `${percent(partition.share)} of one label` : partition.kind === 'iid' ? 'alike' : `Dirichlet ${partition.alpha}`; // prettier-ignore

function comparisonTable(comparisons: readonly Comparison[], reference: string): string {
  const goals = comparisons[0]?.targets ?? [];
  const last = goals.length - 1;
  const head = [
    'system',
    ...goals.map(({ accuracy }) => `s to ${percent(accuracy)}`),
    ...goals.map(({ accuracy }) => `× ${reference} at ${percent(accuracy)}`),
    `× its bytes at ${percent(goals[last]?.accuracy ?? 0)}`,
    ...['in the end', 'spread', 'worst', 'iterations', 'MB down', 'MB up, most', 'idle', 's a round', 'models a round'],
  ];
  const rows = comparisons.map((one) => [
    one.system,
    ...one.targets.map((target) => secondsText(target, one.seeds)),
    ...one.targets.map(ratioText),
    numberText(one.targets[last]?.timesTheBytes ?? null, 2),
    ...[percent(one.accuracy, 1), percent(one.accuracySpread, 1), percent(one.worstAccuracy, 1)],
    ...[one.iterations.toFixed(0), one.downMegabytes.mean.toFixed(0), one.upMegabytes.max.toFixed(0)],
    ...[percent(one.idleShare), one.roundSeconds.toFixed(2), one.roundModels.toFixed(2)],
  ]);
  return tableOf(head, rows);
}

const secondsText = ({ seconds, reached }: Target, seeds: number): string =>
  seconds === null ? '–' : `${seconds.toFixed(0)}${reached < seeds ? ` (${reached} of ${seeds})` : ''}`;

const ratioText = ({ timesAsLong, atLeastTimesAsLong }: Target): string =>
  timesAsLong !== null
    ? timesAsLong.toFixed(2)
    : atLeastTimesAsLong !== null
      ? `> ${atLeastTimesAsLong.toFixed(1)}`
      : '–';

const numberText = (value: number | null, digits: number): string => (value === null ? '–' : value.toFixed(digits));

const lossesText = (found: readonly string[], reference: string): string =>
  found.length === 0
    ? `${reference} is ahead of all others in every figure here.`
    : `Where ${reference} does not win:\n\n${found.map((text) => `- ${text}`).join('\n')}`;

export function planTable(figures: readonly PlanFigures[], reference: string): string {
  const own = figures.find(({ system }) => system === reference);
  const hasClock = figures.some(({ plansPerSecond }) => plansPerSecond !== null);
  const head = [
    ...['system', 'network', 'workers', 'longest pull, s', `× ${reference}`, 'behind one downlink, s', 'models'],
    ...(hasClock ? ['plans/s'] : []),
  ];
  const rows = figures.map((one) => [
    ...[one.system, one.network, String(one.workers), one.linkSeconds.toFixed(2)],
    own ? (one.linkSeconds / own.linkSeconds).toFixed(2) : '–',
    ...[one.accessSeconds.toFixed(2), one.models.toFixed(2)],
    ...(hasClock ? [numberText(one.plansPerSecond, 0)] : []),
  ]);
  return tableOf(head, rows);
}

const findingsText = (findings: readonly Finding[]): string =>
  findings
    .map(({ claim, holds, evidence }) => `- ${holds ? 'holds' : 'DOES NOT HOLD'}: ${claim}. Measured: ${evidence}.`)
    .join('\n');

/** Readable as it stands, too: columns are padded. */
function tableOf(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = head.map((title, i) => Math.max(title.length, ...rows.map((row) => (row[i] ?? '').length)));
  const line = (cells: readonly string[]): string =>
    `| ${cells.map((cell, i) => (i === 0 ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0))).join(' | ')} |`;
  const rule = `| ${widths.map((width, i) => (i === 0 ? '-'.repeat(width) : `${'-'.repeat(width - 1)}:`)).join(' | ')} |`;
  return [line(head), rule, ...rows.map(line)].join('\n');
}
