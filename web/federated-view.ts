// What the page shows of a federated run, put together from its workers' events. Pure.
import type { WorkerEvent } from './published.ts';

export interface WorkerView {
  uid: string;
  run: string;
  /** The peer that told all this. */
  publisher: string;
  /** As its record said while there was one. */
  host: 'node' | 'browser' | null;
  status: 'ready' | 'waiting' | 'training' | 'done';
  /** When its newest event came, by the monitor's clock. */
  at: number;
  /** Whom it waits for. */
  missing: readonly string[];
  rows: number;
  /** Share of each class among its rows; empty for text, and while unknown. */
  labels: readonly number[];
  step: number;
  /** 0 while unknown. */
  steps: number;
  loss: number | null;
  samplesPerSecond: number;
  /** Merged rounds or exchanges, and what was received for them. */
  rounds: number;
  bytes: number;
  etaSeconds: number;
  accuracy: number | null;
  perClassAccuracy: readonly number[];
  /** Of a language model. */
  heldOutLoss: number | null;
  /** Steps ascending, and how much was right after each. */
  curve: { steps: readonly number[]; accuracies: readonly number[] };
}

export interface FederatedView {
  run: string;
  at: number;
  workers: ReadonlyMap<string, WorkerView>;
}

export type FederatedViews = ReadonlyMap<string, FederatedView>;

/** Of a UID's record: whose it is, and where it is. */
export interface Holder {
  peer: string;
  host: 'node' | 'browser';
}

const MAX_RUNS = 4;
/** Beyond these a table and a chart tell nobody anything. */
const MAX_WORKERS = 64;
const MAX_POINTS = 200;

/** The views after one more event. Whoever holds the UID speaks for it; nobody else does. */
export function withWorkerEvent(views: FederatedViews, event: WorkerEvent, holder: Holder | null): FederatedViews {
  if (holder && holder.peer !== event.publisher) return views;
  const view = views.get(event.run) ?? { run: event.run, at: 0, workers: new Map<string, WorkerView>() };
  const before = view.workers.get(event.uid);
  if (!before && view.workers.size >= MAX_WORKERS) return views;
  const worker = workerAfter(before, event);
  const workers = new Map(view.workers).set(event.uid, { ...worker, host: holder?.host ?? worker.host });
  const next = new Map(views).set(event.run, { ...view, at: event.at, workers });
  while (next.size > MAX_RUNS) {
    const oldest = [...next.values()].reduce((a, b) => (a.at <= b.at ? a : b));
    next.delete(oldest.run);
  }
  return next;
}

/** The run that was heard of last; runs that go on come before those in which all are done. */
export function newestFederation(views: FederatedViews): FederatedView | null {
  const isOver = ({ workers }: FederatedView): number => Number([...workers.values()].every(isDone));
  const [first] = [...views.values()].sort((a, b) => isOver(a) - isOver(b) || b.at - a.at);
  return first ?? null;
}

export const isDone = ({ status }: WorkerView): boolean => status === 'done';

export const workersOf = ({ workers }: FederatedView): WorkerView[] =>
  [...workers.values()].sort((a, b) => a.uid.localeCompare(b.uid, 'en', { numeric: true }));

/** The class of which least is right. */
export function worstClass(shares: readonly number[]): { label: number; share: number } | null {
  const share = shares.reduce((a, b) => Math.min(a, b), Infinity);
  return shares.length === 0 ? null : { label: shares.indexOf(share), share };
}

const fresh = ({ uid, run, publisher, at }: WorkerEvent): WorkerView => ({
  uid,
  run,
  publisher,
  at,
  host: null,
  status: 'ready',
  missing: [],
  rows: 0,
  labels: [],
  step: 0,
  steps: 0,
  loss: null,
  samplesPerSecond: 0,
  rounds: 0,
  bytes: 0,
  etaSeconds: 0,
  accuracy: null,
  perClassAccuracy: [],
  heldOutLoss: null,
  curve: { steps: [], accuracies: [] },
});

/** A worker that begins anew, or another peer in its place, begins with nothing. */
export function workerAfter(before: WorkerView | undefined, event: WorkerEvent): WorkerView {
  const isSame = before !== undefined && before.publisher === event.publisher && before.run === event.run;
  const view = isSame && event.kind !== 'worker.ready' ? { ...before, at: event.at } : fresh(event);
  switch (event.kind) {
    case 'worker.ready':
      return { ...view, rows: event.rows, labels: event.labels };
    case 'worker.waiting':
      return { ...view, status: 'waiting', missing: event.missing };
    case 'worker.adopted':
      return { ...view, status: 'training' };
    case 'worker.progress': {
      const { step, steps, loss, samplesPerSecond, rounds, bytes, etaSeconds } = event;
      const figures = { step, steps, loss, samplesPerSecond, rounds, bytes, etaSeconds };
      return { ...view, ...figures, status: 'training', missing: [] };
    }
    case 'worker.evaluated': {
      const { step, accuracy } = event;
      return { ...view, ...quality(event), curve: longer(view.curve, step, accuracy) };
    }
    case 'worker.done': {
      const { steps, rounds, bytes, samplesPerSecond } = event;
      const figures = { step: steps, steps: view.steps || steps, rounds, bytes, samplesPerSecond, etaSeconds: 0 };
      return { ...view, ...figures, ...quality(event), status: 'done', missing: [] };
    }
    default:
      return event satisfies never;
  }
}

type Evaluated = Extract<WorkerEvent, { kind: 'worker.evaluated' | 'worker.done' }>;

const quality = ({
  accuracy,
  perClassAccuracy,
  heldOutLoss,
}: Evaluated): Pick<WorkerView, 'accuracy' | 'perClassAccuracy' | 'heldOutLoss'> => ({
  accuracy,
  perClassAccuracy,
  heldOutLoss: heldOutLoss ?? null,
});

/** One more point; a curve that grew too long keeps every second one. */
function longer(curve: WorkerView['curve'], step: number, accuracy: number): WorkerView['curve'] {
  const isSame = curve.steps.at(-1) === step;
  if (!isSame && step < (curve.steps.at(-1) ?? 0)) return curve;
  const steps = [...curve.steps.slice(0, isSame ? -1 : undefined), step];
  const accuracies = [...curve.accuracies.slice(0, isSame ? -1 : undefined), accuracy];
  if (steps.length <= MAX_POINTS) return { steps, accuracies };
  const isKept = (_: number, place: number): boolean => place % 2 === 0;
  return { steps: steps.filter(isKept), accuracies: accuracies.filter(isKept) };
}
