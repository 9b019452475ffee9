// The figures of a run, step by step, made of its events: for TensorBoard, and as one JSON a line. It looks on; it drives nothing.
import type { MeshEvent } from '../runtime/events.ts';
import { EventFile, openForWriting, type Scalar } from './tensorboard.ts';

/** What is known of a step; `step`: optimizer steps taken with it. Losses are means over targets, in nats. */
export interface MetricsRow {
  step: number;
  /** Milliseconds since the epoch. */
  time: number;
  loss?: number;
  lr?: number;
  /** Of the whole model before clipping. */
  gradientNorm?: number;
  samplesPerSecond?: number;
  tokensPerSecond?: number;
  heldOutLoss?: number;
  perplexity?: number;
  accuracy?: number;
}

type Figures = Omit<MetricsRow, 'step' | 'time'>;

/** By what TensorBoard calls them, so that training and evaluation share a chart each. */
const TAGS: Record<keyof Figures, string> = {
  loss: 'train/loss',
  lr: 'train/learning_rate',
  gradientNorm: 'train/gradient_norm',
  samplesPerSecond: 'train/samples_per_second',
  tokensPerSecond: 'train/tokens_per_second',
  heldOutLoss: 'eval/loss',
  perplexity: 'eval/perplexity',
  accuracy: 'eval/accuracy',
};
const KEYS = Object.keys(TAGS) as (keyof Figures)[];

/** What an event says of which step; null where it says nothing. A run's own mean loss stands in where no step is reported (async). */
export function figuresOf(event: MeshEvent, hasStepLosses: boolean): { step: number; figures: Figures } | null {
  switch (event.kind) {
    case 'step.applied': {
      const { loss, lr, gradientNorm } = event;
      return { step: event.step + 1, figures: only({ loss, lr, gradientNorm }) };
    }
    case 'run.progress': {
      const { loss, samplesPerSecond, tokensPerSecond } = event;
      return {
        step: event.step,
        figures: only({ samplesPerSecond, tokensPerSecond, ...(hasStepLosses ? {} : { loss }) }),
      };
    }
    case 'run.evaluated': {
      const { heldOutLoss, perplexity, accuracy } = event;
      return { step: event.step, figures: only({ heldOutLoss, perplexity, accuracy }) };
    }
    default:
      return null;
  }
}

const only = (figures: { [K in keyof Figures]: Figures[K] | undefined }): Figures =>
  Object.fromEntries(Object.entries(figures).filter(([, value]) => value !== undefined));

/** Gathers what the events say of a step, and gives a row when the next step begins or the run ends. */
export class MetricsRows {
  readonly #give: (row: MetricsRow) => void;
  #row: MetricsRow | null = null;
  #hasStepLosses = false;

  constructor(give: (row: MetricsRow) => void) {
    this.#give = give;
  }

  add(event: MeshEvent, time: number): void {
    if (event.kind === 'step.applied') this.#hasStepLosses = true;
    const found = figuresOf(event, this.#hasStepLosses);
    if (!found) return;
    const { step, figures } = found;
    if (this.#row?.step !== step) this.flush();
    this.#row = { step, time: this.#row?.time ?? time, ...this.#row, ...figures };
  }

  flush(): void {
    if (this.#row) this.#give(this.#row);
    this.#row = null;
  }
}

export const scalarsOf = (row: MetricsRow): Scalar[] =>
  KEYS.flatMap((key) => {
    const value = row[key];
    return value === undefined ? [] : [{ tag: TAGS[key], value }];
  });

export interface RunMetrics {
  add(event: MeshEvent): void;
  /** Writes what is left. */
  close(): Promise<void>;
}

/** Throws `bad-file` at once where nothing can be written; null where nothing is asked for. */
export async function openMetrics(
  { tensorboard, metrics }: { tensorboard?: string | undefined; metrics?: string | undefined },
  warn: (message: string) => void,
): Promise<RunMetrics | null> {
  if (tensorboard === undefined && metrics === undefined) return null;
  const failed =
    (file: string) =>
    (cause: Error): void =>
      warn(`${file}: ${cause.message}`);
  const events =
    tensorboard === undefined ? null : await EventFile.create(tensorboard, Date.now(), failed(tensorboard));
  const lines = metrics === undefined ? null : await openForWriting(metrics, failed(metrics));
  const rows = new MetricsRows((row) => {
    lines?.write(`${JSON.stringify(row)}\n`);
    events?.write({ wallTime: row.time / 1_000, step: row.step, scalars: scalarsOf(row) });
  });
  return {
    add: (event) => rows.add(event, Date.now()),
    close: async () => {
      rows.flush();
      await events?.close();
      if (lines) await new Promise<void>((resolve) => lines.end(() => resolve()));
    },
  };
}
