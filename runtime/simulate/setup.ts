// What all systems of a seed have in common: data and who holds which, the graph, the initial weights, the units that travel.
import { orderOfRows, labelShares, partition } from '../train/partition.ts';
import { bytesPerSecond, type NetworkMode, type SimulationConfig } from './config.ts';
import { Draws } from './draws.ts';
import { Learner, rowsOf, type Rows, type SimulationData } from './learner.ts';
import { unitBytesOf, unitRanges, type UnitRange } from './payload.ts';
import { neighboursOf } from './topology.ts';

export interface Setup {
  readonly config: SimulationConfig;
  readonly seed: number;
  readonly network: NetworkMode;
  readonly learner: Learner;
  readonly test: Rows;
  /** Rows of each worker. */
  readonly parts: readonly Uint32Array[];
  /** (workers, workers): Σ over classes of |own share − its share|. */
  readonly divergence: readonly (readonly number[])[];
  readonly neighbours: readonly (readonly number[])[];
  readonly initial: Float32Array;
  readonly unitBytes: readonly number[];
  readonly modelBytes: number;
  readonly ranges: readonly UnitRange[];
  /** By worker: seconds of an iteration's training, before it varies. */
  readonly computeSeconds: readonly number[];
  readonly ids: readonly string[];
  readonly indexOf: ReadonlyMap<string, number>;
}

/** Three power modes of two kinds of machine. */
const MODES = [1, 1.2, 1.6];
const KINDS = [1, 1.5];

/** Throws `usage` where there is too little data. */
export function setUp(config: SimulationConfig, data: SimulationData, seed: number, network: NetworkMode): Setup {
  const { workers, learning, payload, topology } = config;
  const rows = rowsOf(data.train, learning.rows, learning.pool);
  const test = rowsOf(data.test, learning.testRows, learning.pool);
  const learner = new Learner(rows, data.classes, learning);
  const parts = partition(rows.labels, data.classes, workers, learning.partition, seed);
  const shares = parts.map((part) => labelShares(rows.labels, part, data.classes));
  const unitBytes = unitBytesOf(payload, learner.parameters);
  const draws = new Draws(seed, 'compute', workers);
  const ids = idsOf(workers);
  return {
    ...{ config, seed, network, learner, test, parts, unitBytes },
    divergence: shares.map((own) => shares.map((other) => divergenceOf(own, other))),
    neighbours: neighboursOf(topology, workers, seed),
    initial: learner.initial(seed),
    modelBytes: unitBytes.reduce((a, b) => a + b, 0),
    ranges: unitRanges(unitBytes, learner.parameters),
    computeSeconds: parts.map(
      () => config.computeSeconds * (MODES[draws.below(3)] ?? 1) * (KINDS[draws.below(2)] ?? 1),
    ),
    ids,
    indexOf: new Map(ids.map((id, i) => [id, i])),
  };
}

/** Eq. 2 of MPLS. */
const divergenceOf = (own: readonly number[], other: readonly number[]): number =>
  own.reduce((sum, share, c) => sum + Math.abs(share - (other[c] ?? 0)), 0);

/** Their order as text is that of their numbers. */
export function idsOf(workers: number): string[] {
  const digits = String(workers - 1).length;
  return Array.from({ length: workers }, (_, i) => `w${String(i).padStart(digits, '0')}`);
}

/** The minibatches of a worker, one after the other: its rows in another order each epoch. */
export function minibatches(setup: Setup, worker: number): () => Uint32Array {
  const { parts, seed, config } = setup;
  const part = parts[worker] ?? new Uint32Array();
  const { batch } = config.learning;
  let epoch = 0;
  let order = new Uint32Array();
  let at = 0;
  return () => {
    const rows = new Uint32Array(Math.min(batch, part.length));
    for (let i = 0; i < rows.length; i += 1) {
      if (at === order.length) {
        order = orderOfRows(part, seed, epoch * config.workers + worker);
        epoch += 1;
        at = 0;
      }
      rows[i] = order[at++] ?? 0;
    }
    return rows;
  };
}

/** How long a pull may take of which nothing is known: three times what the slowest link needs for a model, and 30 s at least. */
export const patienceMs = ({ config, modelBytes }: Setup): number =>
  1000 * Math.max(30, (3 * modelBytes) / bytesPerSecond(config.links.mbitPerSecond[0]));
