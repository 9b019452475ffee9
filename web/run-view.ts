// What the page shows of a run, put together from its events. Pure.
import type { RunEvent } from './published.ts';

export type RunStatus =
  | { kind: 'waiting'; missing: readonly string[] }
  | { kind: 'training' }
  | { kind: 'done'; seconds: number; planned: number; applied: number }
  | { kind: 'failed'; message: string; fix: string };

export interface RunView {
  run: string;
  status: RunStatus;
  /** When its newest event came, by the monitor's clock. */
  at: number;
  mode: string;
  policy: string;
  epoch: number;
  epochs: number;
  step: number;
  steps: number;
  loss: number | null;
  samplesPerSecond: number;
  /** Of a language model. */
  tokensPerSecond: number | null;
  peers: number;
  trainers: number;
  etaSeconds: number;
  /** The loss curve: steps ascending, and the loss at each. */
  curve: { steps: readonly number[]; losses: readonly number[] };
  accuracies: readonly { epoch: number; accuracy: number }[];
  perClassAccuracy: readonly number[];
  /** Of a language model: mean loss on text that it was not trained on, in nats a token. */
  heldOutLoss: number | null;
}

const MAX_POINTS = 1_000;
const MAX_RUNS = 12;

const empty = (run: string): RunView => ({
  run,
  status: { kind: 'training' },
  at: 0,
  mode: '',
  policy: '',
  epoch: 0,
  epochs: 0,
  step: 0,
  steps: 0,
  loss: null,
  samplesPerSecond: 0,
  tokensPerSecond: null,
  peers: 0,
  trainers: 0,
  etaSeconds: 0,
  curve: { steps: [], losses: [] },
  accuracies: [],
  perClassAccuracy: [],
  heldOutLoss: null,
});

/** The views after one more event; the oldest run is dropped when there are too many. */
export function withEvent(runs: ReadonlyMap<string, RunView>, event: RunEvent): ReadonlyMap<string, RunView> {
  const next = new Map(runs);
  next.set(event.run, updated(runs.get(event.run) ?? empty(event.run), event));
  while (next.size > MAX_RUNS) {
    const oldest = [...next.values()].reduce((a, b) => (a.at <= b.at ? a : b));
    next.delete(oldest.run);
  }
  return next;
}

/** Runs that still go on come before those that ended; the newest comes first. */
export function newestRun(runs: ReadonlyMap<string, RunView>): RunView | null {
  const ended = (view: RunView): number => Number(view.status.kind === 'done' || view.status.kind === 'failed');
  const [first] = [...runs.values()].sort((a, b) => ended(a) - ended(b) || b.at - a.at);
  return first ?? null;
}

function updated(view: RunView, event: RunEvent): RunView {
  const { at } = event;
  switch (event.kind) {
    case 'run.waiting':
      return { ...view, at, status: { kind: 'waiting', missing: event.missing } };
    case 'run.started': // the same name again is a new run
      return {
        ...empty(view.run),
        at,
        mode: event.mode,
        policy: event.policy,
        steps: event.plannedSteps,
      };
    case 'run.progress': {
      const { epoch, epochs, step, steps, loss, samplesPerSecond, peers, trainers, etaSeconds } = event;
      const figures = { epoch, epochs, step, steps, loss, samplesPerSecond, peers, trainers, etaSeconds };
      const tokensPerSecond = event.tokensPerSecond ?? null;
      return {
        ...view,
        ...figures,
        tokensPerSecond,
        at,
        status: { kind: 'training' },
        curve: longer(view.curve, step, loss),
      };
    }
    case 'run.evaluated': {
      const { epoch, accuracy, perClassAccuracy } = event;
      const accuracies = [...view.accuracies, { epoch, accuracy }].slice(-MAX_POINTS);
      return { ...view, at, accuracies, perClassAccuracy, heldOutLoss: event.heldOutLoss ?? null };
    }
    case 'run.done': {
      const { seconds, plannedMicrobatches: planned, appliedMicrobatches: applied } = event;
      const { samplesPerSecond, peers, trainers, perClassAccuracy } = event;
      const status = { kind: 'done' as const, seconds, planned, applied };
      const accuracies = view.accuracies.length > 0 ? view.accuracies : [{ epoch: 0, accuracy: event.accuracy }];
      return {
        ...view,
        ...{ at, status, samplesPerSecond, peers, trainers, perClassAccuracy, accuracies },
        heldOutLoss: event.heldOutLoss ?? null,
        tokensPerSecond: event.tokensPerSecond ?? null,
        etaSeconds: 0,
        step: view.steps,
      };
    }
    case 'run.failed':
      return { ...view, at, status: { kind: 'failed', message: event.message, fix: event.fix } };
    default:
      return event satisfies never;
  }
}

/** One more point; a curve that grew too long keeps every second one. */
function longer(curve: RunView['curve'], step: number, loss: number): RunView['curve'] {
  const last = curve.steps.at(-1);
  if (last !== undefined && step <= last) return curve;
  const steps = [...curve.steps, step];
  const losses = [...curve.losses, loss];
  if (steps.length <= MAX_POINTS) return { steps, losses };
  const isKept = (_: number, index: number): boolean => index % 2 === 0;
  return { steps: steps.filter(isKept), losses: losses.filter(isKept) };
}
