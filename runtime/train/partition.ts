// How a labelled data set is shared out among workers that each train on their own part: alike, by one dominant label, or by
// Dirichlet's distribution. Pure: labels, numbers and a seed give the same rows on every host.
import { z } from 'zod';
import { MeshError } from '../errors.ts';
import { epochOrder } from './data.ts';
import { dirichlet } from './dirichlet.ts';
import { ONCE_STREAMS, randomBelow, randomWords } from './random.ts';

const seed = z.int().min(0).optional();

export const partitionSpecSchema = z.discriminatedUnion('kind', [
  /** Every worker an equal part of the shuffled rows. */
  z.strictObject({ kind: z.literal('iid'), seed }),
  /** `share` of each worker's rows has the label (worker mod classes), the rest has the other labels; 1 / classes is about `iid`. */
  z.strictObject({ kind: z.literal('label'), share: z.number().min(0).max(1), seed }),
  /** The rows of each class in proportions of a Dirichlet distribution: 100 is about `iid`, 0.1 a class or two to a worker. */
  z.strictObject({ kind: z.literal('dirichlet'), alpha: z.number().min(1e-6).max(1e6), seed }),
]);
export type PartitionSpec = z.infer<typeof partitionSpecSchema>;

type Rows = Uint32Array<ArrayBuffer>;

interface Entry {
  row: number;
  label: number;
}

/** Streams of random numbers, by what they are for. */
const ROWS = ONCE_STREAMS;
const REST = ONCE_STREAMS + 1;
const EXCHANGES = ONCE_STREAMS + 2;
const ROWS_OF_CLASS = ONCE_STREAMS + 2 ** 16;
const PROPORTIONS = ONCE_STREAMS + 2 ** 17;

/** No worker has fewer rows than a batch of 32 or, where data are scarce, a tenth of an equal part; never none. */
export const minimumRows = (rows: number, workers: number): number =>
  Math.max(1, Math.min(32, Math.floor(rows / (10 * workers))));

/**
 * The rows of each worker, ascending. A row is nobody's twice. With `iid` and `dirichlet` each row is somebody's; with `label` all workers
 * have equally many, as many as the scarcest label allows, and what is left over is nobody's. A seed in the spec goes before `seed`.
 * Throws `usage` where there is too little data for `minimum` rows each, and on a label beyond `classes`.
 */
export function partition(
  labels: Uint8Array,
  classes: number,
  workers: number,
  spec: PartitionSpec,
  seed: number,
  minimum = minimumRows(labels.length, workers),
): Rows[] {
  if (!Number.isInteger(workers) || workers < 1)
    throw new MeshError('usage', `Data cannot be shared out among ${workers} workers.`, 'Give a whole number from 1.');
  if (minimum * workers > labels.length) throw tooLittle(labels.length, workers, minimum);
  const key = spec.seed ?? seed;
  const parts = ((): Iterable<number>[] => {
    switch (spec.kind) {
      case 'iid':
        return equalParts(epochOrder(labels.length, key, ROWS), workers);
      case 'label':
        return partsByLabel(shuffledClasses(labels, classes, key), workers, spec.share, minimum, key);
      case 'dirichlet':
        return partsByDirichlet(shuffledClasses(labels, classes, key), workers, spec.alpha, minimum, key);
      default:
        return spec satisfies never;
    }
  })();
  return parts.map((rows) => Uint32Array.from(rows).sort());
}

/** How much of these rows each class makes up; the shares sum to 1. Throws `usage` where there are no rows. */
export function labelShares(labels: Uint8Array, rows: ArrayLike<number>, classes: number): number[] {
  if (rows.length === 0)
    throw new MeshError('usage', 'No rows have no shares of labels.', 'Give the rows of a worker that has some.');
  const counts = new Array<number>(classes).fill(0);
  for (let i = 0; i < rows.length; i += 1) {
    const label = labelOf(labels, rows[i] ?? 0, classes);
    counts[label] = (counts[label] ?? 0) + 1;
  }
  return counts.map((count) => count / rows.length);
}

/** The order in which an epoch visits these rows: another one each epoch, the same on every host. */
export function orderOfRows(rows: ArrayLike<number>, seed: number, epoch: number): Rows {
  return epochOrder(rows.length, seed, epoch).map((i) => rows[i] ?? 0);
}

/** The rows of each class, shuffled. */
function shuffledClasses(labels: Uint8Array, classes: number, seed: number): Rows[] {
  const rows = Array.from({ length: classes }, (): number[] => []);
  for (let row = 0; row < labels.length; row += 1) rows[labelOf(labels, row, classes)]?.push(row);
  return rows.map((some, label) => orderOfRows(some, seed, ROWS_OF_CLASS + label));
}

const equalParts = (rows: Rows, workers: number): Rows[] =>
  Array.from({ length: workers }, (_, i) =>
    rows.subarray(Math.floor((i * rows.length) / workers), Math.floor(((i + 1) * rows.length) / workers)),
  );

function partsByDirichlet(byClass: Rows[], workers: number, alpha: number, minimum: number, seed: number): number[][] {
  // (workers, classes) lists of rows
  const held = Array.from({ length: workers }, (): number[][] => []);
  byClass.forEach((rows, label) => {
    let reached = 0;
    let from = 0;
    const shares = dirichlet(alpha, workers, randomWords(seed, PROPORTIONS + label));
    held.forEach((lists, worker) => {
      reached += shares[worker] ?? 0;
      const to = worker === workers - 1 ? rows.length : Math.min(rows.length, Math.round(reached * rows.length));
      lists.push([...rows.subarray(from, to)]);
      from = to;
    });
  });
  fillUp(held, minimum);
  return held.map((lists) => lists.flat());
}

/**
 * Until each has the minimum, whoever has the fewest rows gets one more of the class it has most of, from whoever has most of that class
 * and can spare it. Where there is no such class or nobody, from whoever has the most rows, of the class that one has most of.
 */
function fillUp(held: number[][][], minimum: number): void {
  const sizes = held.map((lists) => lists.reduce((sum, rows) => sum + rows.length, 0));
  const counts = (worker: number): number[] => (held[worker] ?? []).map((rows) => rows.length);
  const missing = sizes.reduce((sum, size) => sum + Math.max(0, minimum - size), 0);
  for (let moved = 0; moved < missing; moved += 1) {
    const poorest = sizes.indexOf(sizes.reduce((a, b) => Math.min(a, b), Infinity));
    let label = largestOf(counts(poorest));
    const spare = held.map((lists, worker) => ((sizes[worker] ?? 0) > minimum ? (lists[label]?.length ?? 0) : 0));
    let giver = largestOf(spare);
    if (held[poorest]?.[label]?.length === 0 || spare[giver] === 0) {
      giver = largestOf(sizes);
      label = largestOf(counts(giver));
    }
    held[poorest]?.[label]?.push(...(held[giver]?.[label]?.splice(-1) ?? []));
    sizes[poorest] = (sizes[poorest] ?? 0) + 1;
    sizes[giver] = (sizes[giver] ?? 0) - 1;
  }
}

/** The index of the largest, the first of several. */
const largestOf = (values: readonly number[]): number => values.indexOf(values.reduce((a, b) => Math.max(a, b), 0));

function partsByLabel(byClass: Rows[], workers: number, share: number, minimum: number, seed: number): number[][] {
  const classes = byClass.length;
  const counts = byClass.map((rows) => rows.length);
  const size = largestSize(counts, workers, share);
  if (size < minimum)
    throw new MeshError(
      'usage',
      `With a share of ${share} for one label, ${workers} workers can have ${size} rows each, and ${minimum} is the least; the labels have ${counts.join(', ')} rows.`,
      'Lower the share, or have fewer workers.',
    );
  const ofLabel = dominantRows(size, share);
  const parts = Array.from({ length: workers }, (_, worker) => {
    const from = Math.floor(worker / classes) * ofLabel;
    return [...(byClass[worker % classes]?.subarray(from, from + ofLabel) ?? [])];
  });
  const left = byClass.map((rows, label) => rows.subarray(workersOf(label, workers, classes) * ofLabel));
  const others = dealOthers(left, workers, size - ofLabel, seed);
  return parts.map((rows, worker) => [...rows, ...(others[worker] ?? [])]);
}

const dominantRows = (size: number, share: number): number => Math.round(share * size);

/** How many workers a label dominates. */
const workersOf = (label: number, workers: number, classes: number): number =>
  Math.floor(workers / classes) + (label < workers % classes ? 1 : 0);

/** The most rows that all workers can have: enough of each label, and enough of the others for those that it dominates. */
function largestSize(counts: readonly number[], workers: number, share: number): number {
  const total = counts.reduce((a, b) => a + b, 0);
  const fits = (size: number): boolean => {
    const ofLabel = dominantRows(size, share);
    const left = total - workers * ofLabel;
    return counts.every((count, label) => {
      const dominated = workersOf(label, workers, counts.length);
      const own = count - dominated * ofLabel;
      return own >= 0 && dominated * (size - ofLabel) <= left - own;
    });
  };
  let size = Math.floor(total / workers);
  while (size > 0 && !fits(size)) size -= 1;
  return size;
}

/** Draws before whoever has a row in exchange is looked for one by one. */
const DRAWS = 64;

/**
 * `each` rows for every worker, none of its dominant label, otherwise at random from `left`, the rows of each class that may be dealt.
 * They are dealt by turns, whatever their label; then a row that its worker may not have is exchanged for another, of a worker that may
 * have it, or for one that was not dealt. There is always one: `largestSize` leaves a group of workers enough of the other labels.
 */
function dealOthers(left: Rows[], workers: number, each: number, seed: number): number[][] {
  const pool = left.flatMap((rows, label) => Array.from(rows, (row): Entry => ({ row, label })));
  const deck = Array.from(epochOrder(pool.length, seed, REST), (i) => pool[i] ?? { row: 0, label: 0 });
  const dealt = workers * each; // places from there on are nobody's
  const mayHave = (place: number, { label }: Entry): boolean =>
    place >= dealt || (place % workers) % left.length !== label;
  const words = randomWords(seed, EXCHANGES);
  const others = Array.from({ length: workers }, (): number[] => []);
  for (const [place, entry] of deck.entries()) {
    if (mayHave(place, entry)) continue;
    const isFair = (other: number): boolean => {
      const given = deck[other];
      return given !== undefined && mayHave(place, given) && mayHave(other, entry);
    };
    let other = randomBelow(deck.length, words);
    for (let draws = 1; !isFair(other); draws += 1)
      other = draws < DRAWS ? randomBelow(deck.length, words) : (other + 1) % deck.length;
    deck[place] = deck[other] ?? entry;
    deck[other] = entry;
  }
  for (const [place, { row }] of deck.slice(0, dealt).entries()) others[place % workers]?.push(row);
  return others;
}

function labelOf(labels: Uint8Array, row: number, classes: number): number {
  const label = labels[row];
  if (label !== undefined && label < classes) return label;
  throw new MeshError(
    'usage',
    label === undefined
      ? `There are ${labels.length} rows; row ${row} was asked for.`
      : `Row ${row} has label ${label}, and there are only ${classes} classes.`,
    'Give the labels and the number of classes of one data set.',
  );
}

const tooLittle = (rows: number, workers: number, minimum: number): MeshError =>
  new MeshError(
    'usage',
    `${rows} rows are too few for ${workers} workers with at least ${minimum} each.`,
    'Have fewer workers, or more data.',
  );
