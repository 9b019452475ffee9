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
  const parts = config.networks.flatMap((network) => {
    const here = comparisons.filter((one) => one.network === network);
    return [
      `## Network \`${network}\`: ${NETWORK_TEXT[network]}`,
      targetTable(here, reference),
      costTable(here),
      lossesText(losses(comparisons, reference, network), reference),
    ];
  });
  return [
    '# Simulation',
    method(config),
    ...parts,
    '## One round, plans alone, links only',
    delayTable(plans, reference),
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

/** Virtual seconds to each accuracy, times what the reference needs, and times its bytes. */
function targetTable(comparisons: readonly Comparison[], reference: string): string {
  const goals = comparisons[0]?.targets.map(({ accuracy }) => percent(accuracy)) ?? [];
  const head = ['system', ...goals.flatMap((goal) => [`s to ${goal}`, `× ${reference}`, '× its bytes'])];
  const rows = comparisons.map(({ system, seeds, targets }) => [
    system,
    ...targets.flatMap((target) => [
      secondsText(target, seeds),
      ratioText(target),
      numberText(target.timesTheBytes, 2),
    ]),
  ]);
  return tableOf(head, rows);
}

/** What there is at the end, and what it took. */
function costTable(comparisons: readonly Comparison[]): string {
  const head = [
    ...['system', 'in the end', 'spread', 'worst', 'iterations', 'MB down', 'most', 'MB up, most', 'idle'],
    ...['s a round', 'models', 'consensus'],
  ];
  const rows = comparisons.map((one) => [
    one.system,
    ...[percent(one.accuracy, 1), percent(one.accuracySpread, 1), percent(one.worstAccuracy, 1)],
    ...[one.iterations.toFixed(0), one.downMegabytes.mean.toFixed(0), one.downMegabytes.max.toFixed(0)],
    ...[
      one.upMegabytes.max.toFixed(0),
      percent(one.idleShare),
      one.roundSeconds.toFixed(2),
      one.roundModels.toFixed(2),
    ],
    one.consensus.toPrecision(2),
  ]);
  return tableOf(head, rows);
}

/** Seconds of the longest pull on each graph, and times what the reference needs. */
function delayTable(plans: Report['plans'], reference: string): string {
  const graphs = Object.entries(plans);
  const systems = graphs[0]?.[1].map(({ system }) => system) ?? [];
  const head = ['system', ...graphs.flatMap(([graph]) => [`${graph}, s`, `× ${reference}`, 'models'])];
  const rows = systems.map((system) => [
    system,
    ...graphs.flatMap(([, figures]) => {
      const own = figures.find((one) => one.system === system);
      const base = figures.find((one) => one.system === reference);
      const ratio = own && base ? own.linkSeconds / base.linkSeconds : null;
      return [numberText(own?.linkSeconds ?? null, 2), numberText(ratio, 2), numberText(own?.models ?? null, 2)];
    }),
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
