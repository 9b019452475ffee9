// A simulation's configuration: one document, every key checked, every default stated here.
import { z } from 'zod';
import { MeshError } from '../errors.ts';
import { partitionSpecSchema } from '../train/partition.ts';
import { payloadSchema } from './payload.ts';
import { systemSpecSchema } from './systems.ts';
import { topologySchema } from './topology.ts';

const positive = z.number().positive().max(1e9);
const range = z
  .tuple([positive, positive])
  .refine(([low, high]) => low <= high, { error: 'is a lower and an upper bound' });

const linkSchema = z.strictObject({
  /** Of each pair, uniform. */
  mbitPerSecond: range.default([5, 25]),
  rttMs: range.default([10, 60]),
  /** Every so often each link's rate is multiplied by another factor exp(N(0, spread²)), half of whose logarithm is the last one's. */
  redrawSeconds: positive.default(60),
  spread: z.number().min(0).max(3).default(0.5),
  /** What an association keeps under way: a link carries no more than this in a round trip. */
  windowBytes: positive.default(256 * 1024),
});

const accessSchema = z.strictObject({
  /** Of each worker, uniform; what all its transfers share where the network is `access`. */
  downMbitPerSecond: range.default([50, 50]),
  upMbitPerSecond: range.default([50, 50]),
});

const churnSchema = z.union([
  z.literal(false),
  z.strictObject({
    /** Means of exponential distributions. */
    onSeconds: positive.default(1200),
    offSeconds: positive.default(180),
  }),
]);

const learningSchema = z.strictObject({
  /** Rows of the training set that are shared out, and of the test set that everyone is judged by. */
  rows: z.int().min(1).default(6000),
  testRows: z.int().min(1).default(1000),
  partition: partitionSpecSchema.default({ kind: 'label', share: 0.7 }),
  hidden: z.int().min(1).max(1024).default(32),
  /** Images are made smaller by this factor in both directions. */
  pool: z.int().min(1).max(14).default(2),
  learningRate: positive.default(0.01),
  batch: z.int().min(1).default(64),
  /** Minibatches to an iteration. */
  steps: z.int().min(1).max(1000).default(1),
});

export const networkSchema = z.enum(['paper', 'access']);
export type NetworkMode = z.infer<typeof networkSchema>;

const fields = z.strictObject({
  /** Each system runs once with each; figures are means over them. */
  seeds: z.array(z.int().min(0)).min(1).max(100).default([1, 2, 3]),
  workers: z.int().min(2).max(10_000).default(30),
  topology: topologySchema.default({ kind: 'random', chance: 0.5 }),
  /** `paper`: only links have limits, as in the paper of MPLS. `access`: what a worker sends and receives shares its line, too. */
  networks: z.array(networkSchema).min(1).max(2).default(['paper', 'access']),
  links: linkSchema.prefault({}),
  access: accessSchema.prefault({}),
  churn: churnSchema.prefault({}),
  /** What travels: layers of this model. */
  payload: payloadSchema.default('nin'),
  /** Of local training in an iteration by the fastest class of workers; others take up to 2.4 times as long. */
  computeSeconds: positive.default(0.5),
  /** Whether training and collecting go on at the same time. */
  overlap: z.boolean().default(true),
  /**
   * What contributions move. `correction`, as the product: training goes on from where the merge of what was shown and what came leads, so
   * that no local step is lost. `average`: Eq. 1 of MPLS as printed, where a local step counts as one contribution among the others.
   */
  merge: z.enum(['correction', 'average']).default('correction'),
  /** How progress is told: running sums of squared movements, or the movement itself, which needs a copy of the model for each requester. */
  progress: z.enum(['counters', 'exact']).default('counters'),
  /** Contributions further away than so many times what is usual are drawn in; null: they are not. */
  clip: z.number().min(1).nullable().default(null),
  learning: learningSchema.prefault({}),
  /** Virtual time, and how often everyone is judged in it. */
  seconds: positive.default(240),
  sampleSeconds: positive.default(12),
  /** Mean accuracies whose time is told; the last of them is what systems are compared by. */
  targets: z.array(z.number().min(0).max(1)).min(1).max(8).default([0.4, 0.5, 0.6]),
  systems: z
    .array(systemSpecSchema)
    .min(1)
    .max(64)
    .default([
      ...['mpls', 'mpls-paper-fill', 'mpls-bandwidth', 'mpls-divergence', 'mpls-peer', 'mpls-layer', 'mpls-random'],
      ...['netmax', 'netmax-lite', 'appg', 'ad-psgd', 'd-psgd', 'epidemic', 'divshare', 'local-only', 'fedavg-oracle'],
    ]),
});

export const simulationConfigSchema = fields;
export type SimulationConfig = z.infer<typeof fields>;

/** Throws `usage` with the first thing that is wrong. */
export function parseSimulationConfig(value: unknown): SimulationConfig {
  const parsed = simulationConfigSchema.safeParse(value);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  throw new MeshError(
    'usage',
    `The simulation's configuration is wrong: ${issue?.path.join('.') || 'the document'}: ${issue?.message ?? ''}.`,
    'Correct it; `skein simulate --help` shows an example.',
  );
}

export const bytesPerSecond = (mbit: number): number => (mbit * 1e6) / 8;

/** From 0 to the end, which is always one of them. */
export function sampleTimes({ seconds, sampleSeconds }: SimulationConfig): number[] {
  const count = Math.ceil(seconds / sampleSeconds);
  return Array.from({ length: count + 1 }, (_, i) => Math.min(seconds, i * sampleSeconds));
}
