// After training: accuracy on data that was not trained on, through the pipelines, and the model's weights from the stages.
import { MeshError } from '../errors.ts';
import { passOn } from '../mesh/ask.ts';
import { f32Of, i32Of, type Tensor } from '../tensor.ts';
import { routeOf } from './paths.ts';
import type { Session } from './session.ts';

export interface Evaluation {
  accuracy: number;
  /** Share of each class's rows that were classified right. */
  perClassAccuracy: number[];
  samples: number;
}

const EVALUATION_BATCH = 500;
const LANES = 4;
const PULL_MS = 120_000;

/** Rows of the test set in batches over all pipelines; a batch whose pipeline fails goes over the replicas behind it. */
export async function evaluate(
  session: Session,
  data: { test: { rows: number; batch(rows: Uint32Array): { x: Tensor; y: Tensor } }; classes: number },
): Promise<Evaluation> {
  const right = new Array<number>(data.classes).fill(0);
  const total = new Array<number>(data.classes).fill(0);
  let next = 0;
  const lane = async (): Promise<void> => {
    for (let start = next; start < data.test.rows; start = next) {
      next += EVALUATION_BATCH;
      const rows = Uint32Array.from(
        { length: Math.min(EVALUATION_BATCH, data.test.rows - start) },
        (_, i) => start + i,
      );
      const { x, y } = data.test.batch(rows);
      const logits = f32Of(await infer(session, x, start / EVALUATION_BATCH));
      for (const [row, target] of i32Of(y).entries()) {
        total[target] = (total[target] ?? 0) + 1;
        if (argmax(logits.subarray(row * data.classes, (row + 1) * data.classes)) === target)
          right[target] = (right[target] ?? 0) + 1;
      }
    }
  };
  await Promise.all(Array.from({ length: LANES }, lane));
  const sum = (values: number[]): number => values.reduce((a, b) => a + b, 0);
  return {
    accuracy: sum(right) / sum(total),
    perClassAccuracy: right.map((r, c) => r / Math.max(1, total[c] ?? 0)),
    samples: sum(total),
  };
}

/** Forward only, x (B, …) to the last stage's output (B, …), by the `turn`-th pipeline. */
async function infer(session: Session, x: Tensor, turn: number): Promise<Tensor> {
  const { roster, run, ask, emit, signal, config } = session.options;
  const stages = roster.active();
  const [hop, ...route] = routeOf(
    stages,
    stages.map((members) => turn % members.length),
  );
  const key = { run, trainer: 'evaluate', step: 0, microbatch: turn };
  const answer = await passOn(hop, 'stage.infer', (replica) => ({ uid: replica.uid, run, route }), {
    ask,
    emit,
    key,
    signal,
    deadlineMs: config.deadlineMs,
    tensors: new Map([['x', x]]),
  });
  const y = answer.tensors.get('y');
  if (!y) throw new MeshError('malformed', 'The last stage gave no output.', 'Check its version.');
  return y;
}

/** Every parameter of the model, stage by stage, from the first replica of each that answers. */
export async function pullModel(session: Session): Promise<Map<string, Tensor>> {
  const { roster, plans, run, ask, signal } = session.options;
  const tensors = new Map<string, Tensor>();
  for (const [stage, plan] of plans.entries()) {
    const errors: string[] = [];
    let isFound = false;
    for (const member of roster.members('active', stage)) {
      try {
        const pulled = await ask(
          member.replica,
          'stage.pull',
          { uid: member.replica.uid, run, state: 'weights' },
          { signal, deadlineMs: PULL_MS },
        );
        for (const [name, tensor] of pulled.tensors) tensors.set(name, tensor);
        isFound = true;
        break;
      } catch (cause) {
        signal.throwIfAborted();
        errors.push(`${member.replica.uid}: ${cause instanceof Error ? cause.message : String(cause)}`);
      }
    }
    if (!isFound)
      throw new MeshError(
        'no-replica',
        `No replica of ${plan.name} gave its weights (${errors.join('; ') || 'none is left'}).`,
        'Start the run again, with more replicas.',
      );
  }
  return tensors;
}

function argmax(values: Float32Array): number {
  let best = 0;
  for (let i = 1; i < values.length; i += 1) if ((values[i] ?? 0) > (values[best] ?? 0)) best = i;
  return best;
}
