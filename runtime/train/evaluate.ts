// Beside training: how good the model is on data that it was not trained on, what it expects next, and its state from the stages.
import { MeshError } from '../errors.ts';
import { passOn, type Answered } from '../mesh/ask.ts';
import { f32Of, i32Of, i32Tensor, type Tensor, type Tensors } from '../tensor.ts';
import { routeOf } from './paths.ts';
import type { Session } from './session.ts';

export interface Evaluation {
  /** Share of the targets that were the likeliest: of the labels, or of the next tokens. */
  accuracy: number;
  /** Share of each class's rows that were classified right; empty for tokens. */
  perClassAccuracy: number[];
  samples: number;
  /** Of a language model: mean loss of a token in nats, and its exponential. */
  heldOutLoss?: number;
  perplexity?: number;
}

type Rows = { rows: number; batch(rows: Uint32Array): { x: Tensor; y: Tensor } };

const EVALUATION_BATCH = 500;
/** Windows of text that are evaluated where the configuration does not say. */
const WINDOWS = 400;
const LANES = 4;
const PULL_MS = 120_000;

/** Held-out rows in batches over all pipelines; a batch whose pipeline fails goes over the replicas behind it. */
export async function evaluate(
  session: Session,
  data: { kind: 'classes' | 'tokens'; test: Rows; classes: number },
): Promise<Evaluation> {
  const { evalRows, microbatch } = session.options.config;
  if (data.kind === 'tokens') {
    const rows = Math.min(data.test.rows, evalRows ?? WINDOWS);
    return evaluateTokens(session, { ...data.test, rows }, microbatch);
  }
  return evaluateClasses(session, { ...data.test, rows: Math.min(data.test.rows, evalRows ?? Infinity) }, data.classes);
}

async function evaluateClasses(session: Session, test: Rows, classes: number): Promise<Evaluation> {
  const right = new Array<number>(classes).fill(0);
  const total = new Array<number>(classes).fill(0);
  await inBatches(test, EVALUATION_BATCH, async ({ x, y }, turn) => {
    const logits = f32Of(await infer(session, x, turn));
    for (const [row, target] of i32Of(y).entries()) {
      total[target] = (total[target] ?? 0) + 1;
      if (argmax(logits.subarray(row * classes, (row + 1) * classes)) === target)
        right[target] = (right[target] ?? 0) + 1;
    }
  });
  const sum = (values: number[]): number => values.reduce((a, b) => a + b, 0);
  return {
    accuracy: sum(right) / sum(total),
    perClassAccuracy: right.map((r, c) => r / Math.max(1, total[c] ?? 0)),
    samples: sum(total),
  };
}

/** Losses are summed where the logits are: a batch of them would be large. */
async function evaluateTokens(session: Session, test: Rows, batch: number): Promise<Evaluation> {
  let loss = 0;
  let correct = 0;
  let counted = 0;
  await inBatches(test, batch, async ({ x, y }, turn) => {
    const { body } = await ask(session, 'evaluate', turn, new Map([['x', x], ['y', y]])); // prettier-ignore
    if (!body.score) throw noOutput();
    loss += body.score.loss * body.score.counted;
    correct += body.score.correct;
    counted += body.score.counted;
  });
  const heldOutLoss = loss / Math.max(1, counted);
  return {
    accuracy: correct / Math.max(1, counted),
    perClassAccuracy: [],
    samples: test.rows,
    heldOutLoss,
    perplexity: Math.exp(heldOutLoss),
  };
}

async function inBatches(
  test: Rows,
  size: number,
  work: (batch: { x: Tensor; y: Tensor }, turn: number) => Promise<void>,
): Promise<void> {
  let next = 0;
  const lane = async (): Promise<void> => {
    for (let start = next; start < test.rows; start = next) {
      next += size;
      const rows = Uint32Array.from({ length: Math.min(size, test.rows - start) }, (_, i) => start + i);
      await work(test.batch(rows), start / size);
    }
  };
  await Promise.all(Array.from({ length: LANES }, lane));
}

/** Logits of the token that follows these, (V), by the `turn`-th pipeline. */
export async function nextLogits(session: Session, ids: Int32Array<ArrayBuffer>, turn: number): Promise<Float32Array> {
  const x = i32Tensor([1, ids.length], ids);
  const answer = await ask(session, 'sample', turn, new Map([['x', x]]), { lastOnly: true });
  const y = answer.tensors.get('y');
  if (!y) throw noOutput();
  return f32Of(y);
}

/** Forward only, x (B, …) to the last stage's output (B, …), by the `turn`-th pipeline. */
async function infer(session: Session, x: Tensor, turn: number): Promise<Tensor> {
  const answer = await ask(session, 'evaluate', turn, new Map([['x', x]]));
  const y = answer.tensors.get('y');
  if (!y) throw noOutput();
  return y;
}

async function ask(
  session: Session,
  what: string,
  turn: number,
  tensors: Tensors,
  more: { lastOnly?: boolean } = {},
): Promise<Answered<'stage.infer'>> {
  const { roster, run, emit, signal, config } = session.options;
  const stages = roster.active();
  const [hop, ...route] = routeOf(
    stages,
    stages.map((members) => turn % members.length),
  );
  return passOn(hop, 'stage.infer', (replica) => ({ uid: replica.uid, run, route, ...more }), {
    ask: session.options.ask,
    emit,
    key: { run, trainer: what, step: 0, microbatch: turn },
    signal,
    deadlineMs: config.deadlineMs,
    tensors,
  });
}

const noOutput = (): MeshError => new MeshError('malformed', 'The last stage gave no output.', 'Check its version.');

/** Every parameter of the model. */
export async function pullModel(session: Session): Promise<Map<string, Tensor>> {
  const states = await Promise.all(session.options.plans.map((_, stage) => pullStage(session, stage, 'weights', null)));
  return new Map(states.flatMap((state) => [...state]));
}

/** Of each stage, weights and optimizer state, as `weights/<name>` and `optimizer/<name>`. `step`: what they must be of; null: any. */
export const pullStates = (session: Session, step: number | null): Promise<Tensors[]> =>
  Promise.all(session.options.plans.map((_, stage) => pullStage(session, stage, 'all', step)));

/** From the first replica that answers. */
async function pullStage(
  session: Session,
  stage: number,
  state: 'weights' | 'all',
  step: number | null,
): Promise<Tensors> {
  const { roster, plans, run, signal } = session.options;
  const errors: string[] = [];
  for (const { replica } of roster.members('active', stage)) {
    try {
      const request = { uid: replica.uid, run, state };
      const pulled = await session.options.ask(replica, 'stage.pull', request, { signal, deadlineMs: PULL_MS });
      if (step === null || pulled.body.step === step) return pulled.tensors;
      errors.push(`${replica.uid}: it is at step ${pulled.body.step}, not ${step}`);
    } catch (cause) {
      signal.throwIfAborted();
      errors.push(`${replica.uid}: ${cause instanceof Error ? cause.message : String(cause)}`);
    }
  }
  throw new MeshError(
    'no-replica',
    `No replica of ${plans[stage]?.name ?? ''} gave its weights (${errors.join('; ') || 'none is left'}).`,
    'Start the run again, with more replicas.',
  );
}

function argmax(values: Float32Array): number {
  let best = 0;
  for (let i = 1; i < values.length; i += 1) if ((values[i] ?? 0) > (values[best] ?? 0)) best = i;
  return best;
}
