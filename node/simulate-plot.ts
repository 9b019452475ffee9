// The curves of a simulation as one SVG for each network: accuracy against virtual time, and against what a worker has received.
import { percent } from '../runtime/simulate/compare.ts';
import type { NetworkMode } from '../runtime/simulate/config.ts';
import { mean, type Sample, type SystemRun } from '../runtime/simulate/measure.ts';
import { NETWORK_TEXT } from './simulate-report.ts';

const WIDTH = 1080;
const HEIGHT = 440;
const PANEL = { width: 390, height: 320, top: 56 };
const LEFTS = [64, 520];
const LEGEND_LEFT = 930;
/** Told apart on white and on black; the second half of the systems is dashed. */
const COLOURS = ['#d9480f', '#1c7ed6', '#2b8a3e', '#9c36b5', '#e03177', '#0c8599', '#b08900', '#6b7280'];

interface Curve {
  system: string;
  colour: string;
  dash: string;
  samples: readonly Sample[];
}

type Axis = 'seconds' | 'megabytes';

export function plotOf(runs: readonly SystemRun[], network: NetworkMode): string {
  const curves = curvesOf(runs, network);
  const title = `Mean accuracy of the workers; network: ${network}, ${NETWORK_TEXT[network]}`;
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" font-family="system-ui, sans-serif" font-size="12" role="img">`,
    `<title>${title}</title>`,
    '<style>',
    ':root { --ink: #1f2328; --grid: #d8dee4; --paper: #ffffff }',
    '@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --grid: #3d444d; --paper: #0d1117 } }',
    '.ink { fill: var(--ink) } .grid { stroke: var(--grid) } .curve { fill: none; stroke-width: 1.8; stroke-linejoin: round }',
    '</style>',
    `<rect width="${WIDTH}" height="${HEIGHT}" fill="var(--paper)"/>`,
    `<text class="ink" x="${LEFTS[0]}" y="28" font-size="15">${title}</text>`,
    panel(curves, 'seconds', 'virtual seconds', LEFTS[0] ?? 0),
    panel(curves, 'megabytes', 'MB received by a worker (logarithmic)', LEFTS[1] ?? 0),
    legend(curves),
    '</svg>',
    '',
  ].join('\n');
}

/** Means over the seeds, sample by sample. */
function curvesOf(runs: readonly SystemRun[], network: NetworkMode): Curve[] {
  const systems = [...new Set(runs.map(({ system }) => system))];
  return systems.map((system, i) => {
    const all = runs.filter((run) => run.system === system);
    const here = all.filter((run) => run.network === network);
    const own = here.length > 0 ? here : all;
    const samples = (own[0]?.samples ?? []).map((first, s) => {
      const meanOf = (of: (sample: Sample) => number): number =>
        mean(own.map(({ samples: some }) => of(some[s] ?? first)));
      return { ...first, meanAccuracy: meanOf((one) => one.meanAccuracy), megabytes: meanOf((one) => one.megabytes) };
    });
    const colour = COLOURS[i % COLOURS.length] ?? '';
    return { system, colour, dash: i >= COLOURS.length ? ' stroke-dasharray="6 3"' : '', samples };
  });
}

function panel(curves: readonly Curve[], axis: Axis, label: string, left: number): string {
  const { width, height, top } = PANEL;
  const values = curves.flatMap(({ samples }) => samples.map((sample) => sample[axis])).filter((value) => value > 0);
  const scale = axis === 'seconds' ? linear(values) : logarithmic(values);
  const most = Math.max(0.1, ...curves.flatMap(({ samples }) => samples.map(({ meanAccuracy }) => meanAccuracy)));
  const highest = Math.ceil(most * 10) / 10;
  const x = (value: number): string => (left + width * scale.at(value)).toFixed(1);
  const y = (value: number): string => (top + height * (1 - value / highest)).toFixed(1);
  const rows = Array.from({ length: Math.round(highest * 10) + 1 }, (_, i) => i / 10);
  const grid = [
    ...rows.map((value) => `<line class="grid" x1="${left}" x2="${left + width}" y1="${y(value)}" y2="${y(value)}"/>`),
    ...scale.ticks.map(
      (value) => `<line class="grid" x1="${x(value)}" x2="${x(value)}" y1="${top}" y2="${top + height}"/>`,
    ),
  ];
  const texts = [
    ...rows.map(
      (value) => `<text class="ink" x="${left - 6}" y="${y(value)}" dy="4" text-anchor="end">${percent(value)}</text>`,
    ),
    ...scale.ticks.map(
      (value) => `<text class="ink" x="${x(value)}" y="${top + height + 18}" text-anchor="middle">${value}</text>`,
    ),
    `<text class="ink" x="${left + width / 2}" y="${top + height + 40}" text-anchor="middle">${label}</text>`,
  ];
  const lines = curves.flatMap(({ colour, dash, samples }) => {
    const points = samples.filter((sample) => scale.holds(sample[axis]));
    if (points.length < 2) return [];
    const path = points.map((sample) => `${x(sample[axis])},${y(sample.meanAccuracy)}`).join(' ');
    return [`<polyline class="curve" stroke="${colour}"${dash} points="${path}"/>`];
  });
  return [...grid, ...lines, ...texts].join('\n');
}

interface Scale {
  /** 0 to 1. */
  at: (value: number) => number;
  holds: (value: number) => boolean;
  ticks: number[];
}

function linear(values: readonly number[]): Scale {
  const most = Math.max(1, ...values);
  const power = 10 ** Math.floor(Math.log10(most));
  const step = most / power >= 5 ? power : most / power >= 2 ? power / 2 : power / 5;
  const ticks = Array.from({ length: Math.floor(most / step) + 1 }, (_, i) => Number((i * step).toPrecision(6)));
  return { at: (value) => value / most, holds: () => true, ticks };
}

/** From 1 MB on, or the smallest power of ten below what there is. */
function logarithmic(values: readonly number[]): Scale {
  const shown = values.filter((value) => value >= 1);
  const low = Math.floor(Math.log10(Math.min(...shown, Infinity) === Infinity ? 1 : Math.min(...shown)));
  const high = Math.log10(Math.max(10, ...shown));
  const decades = Array.from({ length: Math.floor(high) - low + 1 }, (_, i) => 10 ** (low + i));
  const ticks = decades.flatMap((value) => [value, 3 * value]).filter((value) => value <= 10 ** high);
  return { at: (value) => (Math.log10(value) - low) / (high - low), holds: (value) => value >= 10 ** low, ticks };
}

function legend(curves: readonly Curve[]): string {
  return curves
    .map(({ system, colour, dash }, i) => {
      const y = PANEL.top + 10 + i * 20;
      return (
        `<line class="curve" stroke="${colour}"${dash} x1="${LEGEND_LEFT}" x2="${LEGEND_LEFT + 26}" y1="${y}" y2="${y}"/>` +
        `<text class="ink" x="${LEGEND_LEFT + 32}" y="${y}" dy="4">${system}</text>`
      );
    })
    .join('\n');
}
