// Events of the mesh as this page takes them from the monitor. Their publishers are strangers and the monitor checks nothing but
// the kind, so every field that is used is parsed here; what breaks its schema is not shown.
import { z } from 'zod';

const text = z.string().transform((value) => value.slice(0, 300));
const name = z.string().min(1).max(100);
const count = z.number().min(0);
const share = z.number().min(0).max(1);
const common = { publisher: z.string().max(64), at: count };

const event = <K extends string, S extends z.ZodRawShape>(kind: K, shape: S) =>
  z.object({ kind: z.literal(kind), ...common, ...shape });

/** The kinds of which the page shows figures. */
const runEventSchema = z.discriminatedUnion('kind', [
  event('run.waiting', { run: name, missing: z.array(text).max(64) }),
  event('run.started', {
    run: name,
    mode: text,
    policy: text,
    stages: z.array(text).max(64),
    plannedMicrobatches: count,
    plannedSteps: count,
  }),
  event('run.progress', {
    run: name,
    epoch: count,
    epochs: count,
    step: count,
    steps: count,
    loss: z.number(),
    samplesPerSecond: count,
    tokensPerSecond: count.optional(),
    peers: count,
    trainers: count,
    etaSeconds: z.number(),
  }),
  event('run.evaluated', {
    run: name,
    epoch: count,
    accuracy: share,
    perClassAccuracy: z.array(share).max(1_000),
    samples: count,
    heldOutLoss: z.number().optional(),
  }),
  event('run.done', {
    run: name,
    accuracy: share,
    perClassAccuracy: z.array(share).max(1_000),
    heldOutLoss: z.number().optional(),
    samplesPerSecond: count,
    tokensPerSecond: count.optional(),
    peers: count,
    trainers: count,
    plannedMicrobatches: count,
    appliedMicrobatches: count,
    seconds: count,
  }),
  event('run.failed', { run: name, message: text, fix: text }),
]);
export type RunEvent = z.infer<typeof runEventSchema>;

const quality = {
  accuracy: share,
  perClassAccuracy: z.array(share).max(1_000),
  heldOutLoss: z.number().optional(),
};

/** What federated workers tell of themselves. */
const workerEventSchema = z.discriminatedUnion('kind', [
  event('worker.ready', { uid: name, run: name, rows: count, labels: z.array(share).max(1_000) }),
  event('worker.waiting', { uid: name, run: name, missing: z.array(text).max(1_000) }),
  event('worker.adopted', { uid: name, run: name, from: text, steps: count }),
  event('worker.progress', {
    uid: name,
    run: name,
    step: count,
    steps: count,
    loss: z.number(),
    samplesPerSecond: count,
    rounds: count,
    bytes: count,
    etaSeconds: z.number(),
  }),
  event('worker.evaluated', { uid: name, run: name, step: count, ...quality }),
  event('worker.done', {
    uid: name,
    run: name,
    ...quality,
    steps: count,
    rounds: count,
    bytes: count,
    samplesPerSecond: count,
    seconds: count,
  }),
]);
export type WorkerEvent = z.infer<typeof workerEventSchema>;

const statsSchema = event('stage.stats', { uid: name, samplesPerSecond: count });
export type StatsEvent = z.infer<typeof statsSchema>;

const kindsOf = (options: readonly { shape: { kind: { value: string } } }[]): ReadonlySet<unknown> =>
  new Set(options.map((option) => option.shape.kind.value));
const RUN_KINDS = kindsOf(runEventSchema.options);
const WORKER_KINDS = kindsOf(workerEventSchema.options);

export function parseRunEvent(value: { kind: unknown }): RunEvent | null {
  if (!RUN_KINDS.has(value.kind)) return null;
  const parsed = runEventSchema.safeParse(value);
  return parsed.success ? parsed.data : null;
}

export function parseWorkerEvent(value: { kind: unknown }): WorkerEvent | null {
  if (!WORKER_KINDS.has(value.kind)) return null;
  const parsed = workerEventSchema.safeParse(value);
  return parsed.success ? parsed.data : null;
}

export function parseStats(value: { kind: unknown }): StatsEvent | null {
  if (value.kind !== 'stage.stats') return null;
  const parsed = statsSchema.safeParse(value);
  return parsed.success ? parsed.data : null;
}
