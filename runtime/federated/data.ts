// A worker's share of the data: its own rows, and the held-out ones that all have in common. Knows no files.
import { MeshError } from '../errors.ts';
import type { RunData } from '../train/client.ts';
import { batch, type DatasetSplits } from '../train/data.ts';
import { labelShares, orderOfRows, partition } from '../train/partition.ts';
import type { WorkerConfig } from './config.ts';

export interface WorkerData {
  run: RunData;
  /** Share of each class among the own rows; empty where rows have no classes. */
  labels: number[];
  /** Rows of all workers together. */
  rowsOfAll: number;
}

/** Of labelled rows, those that the partition gives to this worker. Throws `usage` where there are fewer rows than workers. */
export function labelledShare(splits: DatasetSplits, config: WorkerConfig): WorkerData {
  const { train, test } = splits;
  const { workers, worker, seed } = config;
  if (train.rows < workers)
    throw new MeshError(
      'usage',
      `${train.name} has ${train.rows} rows for ${workers} workers.`,
      'Use fewer workers, or more data.',
    );
  const own = partition(train.labels, train.classes, workers, config.partition, seed)[worker] ?? new Uint32Array();
  return {
    run: {
      kind: 'classes',
      train: {
        rows: own.length,
        batch: (rows) => batch(train, rows),
        order: (epoch) => orderOfRows(own, seed, epoch),
      },
      test: { rows: test.rows, batch: (rows) => batch(test, rows) },
      classes: train.classes,
      targetsPerRow: 1,
    },
    labels: labelShares(train.labels, own, train.classes),
    rowsOfAll: train.rows,
  };
}

/**
 * Of windows of text, each `workers`-th of an epoch: no two workers learn from the same window in it. Throws `usage` where there are fewer
 * windows than workers.
 */
export function textShare(whole: RunData, { workers, worker }: WorkerConfig): WorkerData {
  if (whole.train.rows < workers)
    throw new MeshError(
      'usage',
      `The text has ${whole.train.rows} windows for ${workers} workers.`,
      'Use fewer workers, more text, or a shorter data.contextLength.',
    );
  const isOwn = (_: number, i: number): boolean => i % workers === worker;
  return {
    run: {
      ...whole,
      train: {
        rows: Math.floor(whole.train.rows / workers),
        batch: (rows) => whole.train.batch(rows),
        order: (epoch) =>
          whole.train
            .order(epoch)
            .filter(isOwn)
            .slice(0, Math.floor(whole.train.rows / workers)),
      },
    },
    labels: [],
    rowsOfAll: whole.train.rows,
  };
}
