// One training step of one microbatch, asked of a replica of each stage over links as a training run asks for it. No files, no mesh
// of its own.
import type { OptimizerSpec, StageSpec } from '../runtime/compute.ts';
import { MeshError } from '../runtime/errors.ts';
import type { Ask } from '../runtime/mesh/ask.ts';
import type { ModelSpec } from '../runtime/model-spec.ts';
import { stageInfo } from '../runtime/model/spec.ts';
import { f32Of, type Tensor, type Tensors } from '../runtime/tensor.ts';
import { runIdSchema } from '../runtime/wire/ids.ts';
import type { Replica } from '../runtime/wire/messages.ts';

const DEADLINE_MS = 600_000;

export interface StepInput {
  ask: Ask;
  /** One of each stage, in order. */
  replicas: readonly Replica[];
  model: ModelSpec;
  /** The layers of each. */
  spans: { from: number; to: number }[];
  optimizer: OptimizerSpec;
  precision: StageSpec['precision'];
  recompute: boolean;
  /** By our names. */
  weights: Tensors;
  x: Tensor;
  y: Tensor;
  /** 1 / (targets that count). */
  scale: number;
  signal: AbortSignal;
}

export interface Stepped {
  value: Tensor;
  gradient: Tensor;
}

/** Opens every stage, one microbatch there and back, the ends' shared gradient added up, one optimizer step. Leaves the run open. */
export async function oneStep(
  input: StepInput,
): Promise<{ result: Map<string, Stepped>; loss: number; gradientNorm: number }> {
  const { ask, replicas, model, spans, weights, x, y, scale, signal } = input;
  const run = runIdSchema.parse('step');
  const options = { deadlineMs: DEADLINE_MS, signal };
  const each = <T>(work: (replica: Replica, span: { from: number; to: number }) => Promise<T>): Promise<T[]> =>
    Promise.all(replicas.map((replica, i) => work(replica, spans[i] ?? { from: 0, to: 0 })));
  await each((replica, span) => {
    const own = new Map<string, Tensor>();
    for (const { name } of stageInfo(model, span.from, span.to).parameters) {
      const tensor = weights.get(name);
      // With memory of its own: a parameter that two stages share is sent to both.
      if (tensor) own.set(`weights/${name}`, { ...tensor, data: tensor.data.slice() });
    }
    const { optimizer, precision, recompute } = input;
    const spec = { model, ...span, seed: 0, optimizer, ...(precision === undefined ? {} : { precision }), recompute };
    return ask(
      replica,
      'stage.open',
      { uid: replica.uid, run, spec, mode: 'sync', accumulate: 1 },
      { ...options, tensors: own },
    );
  });
  const [first, ...rest] = replicas;
  if (!first) throw new MeshError('internal', 'A step without stages.', 'This is a defect: please report it.');
  const at = { run, step: 0, attempt: 0 };
  const key = { run, trainer: 'step', step: 0, microbatch: 0 };
  const forward = await ask(
    first,
    'stage.forward',
    { ...at, uid: first.uid, key, scale, route: rest.map((replica) => [replica]) },
    {
      ...options,
      tensors: new Map([
        ['x', x],
        ['y', y],
      ]),
    },
  );
  await each((replica) =>
    ask(replica, 'stage.reduce', { ...at, uid: replica.uid, members: [{ replica, microbatches: [0] }] }, options),
  );
  const last = replicas.at(-1) ?? first;
  const tied = stageInfo(model, 0, input.spans[0]?.to ?? 0).tied;
  if (tied !== null)
    await Promise.all([
      ask(first, 'stage.tie', { ...at, uid: first.uid, others: [last] }, options),
      ask(last, 'stage.tie', { ...at, uid: last.uid, others: [first] }, options),
    ]);
  const result = new Map<string, Stepped>();
  const norms = await each(async (replica, span) => {
    const { uid } = replica;
    const { tensors: gradients } = await ask(replica, 'stage.pull', { uid, run, state: 'gradients' }, options);
    await ask(replica, 'stage.apply', { ...at, uid }, options);
    const updated = await ask(replica, 'stage.pull', { uid, run, state: 'weights' }, options);
    let squares = 0;
    for (const [name, value] of updated.tensors) {
      const gradient = gradients.get(name);
      if (!gradient)
        throw new MeshError('internal', `${uid} has no gradient of ${name}.`, 'Please report this defect.');
      result.set(name, { value, gradient });
      // What both ends share counts once.
      if (name !== tied || span.from === 0) squares += f32Of(gradient).reduce((sum, g) => sum + g * g, 0);
    }
    return Math.sqrt(squares);
  });
  return { result, loss: forward.body.loss, gradientNorm: Math.hypot(...norms) };
}
