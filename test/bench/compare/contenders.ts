// Who is compared with whom, and by how much ours is to be ahead. Data, and the arithmetic on it; nothing runs here.
import { MATMUL_SIZES, MLP_CASES, type Timing } from './measure.ts';

export interface ContenderInfo {
  name: string;
  title: string;
  host: 'page' | 'node';
  /** What it is asked to do; a contender that cannot train is not asked to. */
  kinds: readonly CaseKind[];
  /** What has to be installed for it. */
  packages: readonly string[];
}
export type CaseKind = 'matmul' | 'mlp';

const BOTH = ['matmul', 'mlp'] as const;

export const CONTENDERS: readonly ContenderInfo[] = [
  { name: 'ours', title: 'ours, Chromium', host: 'page', kinds: BOTH, packages: [] },
  { name: 'ours-loop', title: 'ours, Chromium, loss read once a batch', host: 'page', kinds: ['mlp'], packages: [] },
  {
    name: 'tfjs-webgpu',
    title: 'TensorFlow.js WebGPU',
    host: 'page',
    kinds: BOTH,
    packages: ['@tensorflow/tfjs', '@tensorflow/tfjs-backend-webgpu'],
  },
  {
    name: 'ort-webgpu',
    title: 'onnxruntime-web WebGPU',
    host: 'page',
    kinds: ['matmul'],
    packages: ['onnxruntime-web'],
  },
  { name: 'jax-webgpu', title: 'jax-js WebGPU', host: 'page', kinds: BOTH, packages: ['@jax-js/jax'] },
  {
    name: 'tfjs-wasm',
    title: 'TensorFlow.js WASM',
    host: 'page',
    kinds: BOTH,
    packages: ['@tensorflow/tfjs', '@tensorflow/tfjs-backend-wasm'],
  },
  { name: 'jax-wasm', title: 'jax-js WASM', host: 'page', kinds: BOTH, packages: ['@jax-js/jax'] },
  { name: 'ours-node', title: 'ours, Node', host: 'node', kinds: BOTH, packages: [] },
  { name: 'ours-node-loop', title: 'ours, Node, loss read once a batch', host: 'node', kinds: ['mlp'], packages: [] },
];

export interface Case {
  kind: CaseKind;
  /** As in the results: the size of a product, the model and batch of a step. */
  name: string;
}

export const CASES: readonly Case[] = [
  ...MATMUL_SIZES.map((size) => ({ kind: 'matmul' as const, name: String(size) })),
  ...MLP_CASES.map(({ name }) => ({ kind: 'mlp' as const, name })),
];

interface Target {
  ours: 'ours' | 'ours-node';
  peer: string;
  case: string;
  floor: number;
  stretch: number;
}

const [small = '', large = ''] = MLP_CASES.map(({ name }) => name);

const target = (
  ours: Target['ours'],
  peer: string,
  floors: Record<string, readonly [number, number]>,
): readonly Target[] =>
  Object.entries(floors).map(([name, [floor, stretch]]) => ({ ours, peer, case: name, floor, stretch }));

export const TARGETS: readonly Target[] = [
  ...target('ours', 'tfjs-webgpu', { 512: [8, 12], 1024: [8, 12], [small]: [20, 35], [large]: [12, 20] }),
  ...target('ours', 'ort-webgpu', { 512: [8, 12], 1024: [8, 12] }),
  ...target('ours', 'jax-webgpu', { 512: [2.5, 3.5], 1024: [2.5, 3.5], [small]: [6, 10], [large]: [2.5, 4] }),
  ...target('ours-node', 'tfjs-wasm', { 512: [1.4, 2], 1024: [1.4, 2], [small]: [3, 5], [large]: [6, 9] }),
  ...target('ours-node', 'jax-wasm', { 512: [0.8, 1], 1024: [0.8, 1], [small]: [8, 12], [large]: [2, 3] }),
];

/** GF/s of products, milliseconds of steps. */
export interface Figure {
  best: number;
  median: number;
  batches: number;
  /** Median of each round; null where it failed. */
  rounds: (number | null)[];
}

export interface Ratio {
  name: string;
  size: string;
  /** Above 1 ours is faster: the ratio of each round's medians, and of these the median. Null where either side is missing. */
  ratio: number | null;
  ratioOfBests: number | null;
  /** The same for ours with the loss read once a batch, which is how the peers' steps are measured; null for products. */
  loopRatio: number | null;
  floor: number;
  stretch: number;
  isMet: boolean;
  isStretchMet: boolean;
}

export type Figures = Record<CaseKind, Record<string, Record<string, Figure>>>;

/** `timings`: one for each round. */
export function figure({ kind, name }: Case, timings: readonly (Timing | null)[]): Figure {
  const value = (ms: number): number => round(kind === 'matmul' ? (2 * Number(name) ** 3) / ms / 1e6 : ms);
  const all = timings.flatMap((timing) => timing?.msPerStep ?? []);
  return {
    best: value(Math.min(...all)),
    median: value(median(all)),
    batches: all.length,
    rounds: timings.map((timing) => (timing === null ? null : value(median(timing.msPerStep)))),
  };
}

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  const upper = sorted[middle] ?? NaN;
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? NaN) + upper) / 2;
}

/** Of the targets, those between contenders that were asked to run. */
export function ratios(figures: Figures, asked: readonly ContenderInfo[]): Ratio[] {
  const names = new Set(asked.map(({ name }) => name));
  return TARGETS.filter(({ ours, peer }) => names.has(ours) && names.has(peer)).map(
    ({ ours, peer, case: name, floor, stretch }) => {
      const kind: CaseKind = MATMUL_SIZES.some((size) => String(size) === name) ? 'matmul' : 'mlp';
      const theirs = figures[kind][name]?.[peer];
      const faster = (mine: number, other: number): number => (kind === 'matmul' ? mine / other : other / mine);
      const ofRounds = (contender: string): number | null => {
        const each = (figures[kind][name]?.[contender]?.rounds ?? []).flatMap((mine, i) => {
          const other = theirs?.rounds[i] ?? null;
          return mine === null || other === null ? [] : [faster(mine, other)];
        });
        // Of logarithms, so that of two rounds 2× and ½× make 1×.
        return each.length === 0 ? null : round(Math.exp(median(each.map(Math.log))));
      };
      const mine = figures[kind][name]?.[ours];
      const ratio = ofRounds(ours);
      return {
        name: `${ours} ÷ ${peer}`,
        size: name,
        ratio,
        ratioOfBests: mine === undefined || theirs === undefined ? null : round(faster(mine.best, theirs.best)),
        loopRatio: kind === 'mlp' ? ofRounds(`${ours}-loop`) : null,
        floor,
        stretch,
        isMet: ratio !== null && ratio >= floor,
        isStretchMet: ratio !== null && ratio >= stretch,
      };
    },
  );
}

const round = (value: number): number => Number(value.toPrecision(4));
