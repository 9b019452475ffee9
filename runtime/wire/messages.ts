// Every message between peers: one schema each for request and reply, parsed once at the edge; both ends infer their types here.
// Tensors travel beside the body, by name; which ones is said at each message.
import { z } from 'zod';
import { averageSpecSchema } from '../average-spec.ts';
import { stageSpecSchema } from '../compute.ts';
import { layerFormatSchema } from '../layer-store.ts';
import { wireFormatSchema } from './activation-codec.ts';
import { peerIdSchema, runIdSchema, uidSchema } from './ids.ts';
import { addressSchema } from './records.ts';

/** Where to find a replica of a stage. */
export const replicaSchema = z.strictObject({
  uid: uidSchema,
  peer: peerIdSchema,
  addresses: z.array(addressSchema).max(8),
});
export type Replica = z.infer<typeof replicaSchema>;

/** One hop of a route: the replica to ask, then those to ask when it fails. */
export const hopSchema = z.array(replicaSchema).min(1).max(64);
export type Hop = z.infer<typeof hopSchema>;
export const routeSchema = z.array(hopSchema).max(64);
export type Route = z.infer<typeof routeSchema>;

const count = z
  .int()
  .min(0)
  .max(2 ** 40);
export const keySchema = z.strictObject({
  run: runIdSchema,
  trainer: z.string().max(64),
  step: count,
  microbatch: count,
});

const info = z.strictObject({
  inputShape: z.array(z.int().min(-1)).max(8),
  inputDtype: z.enum(['f32', 'i32']),
  outputShape: z.array(z.int().min(-1)).max(8),
  maxTokens: count,
  isFirst: z.boolean(),
  isLast: z.boolean(),
  parameters: z.array(z.strictObject({ name: z.string().max(200), shape: z.array(z.int()) })).max(100_000),
  tied: z.string().max(200).nullable(),
  parameterBytes: count,
});

/** The learning rate of every step: up to `lr` over `warmup` steps, then as `kind` says down to `final` · lr at step `steps`. */
export const rateSchema = z.strictObject({
  lr: z.number().positive(),
  kind: z.enum(['constant', 'linear', 'cosine']),
  warmup: count,
  final: z.number().min(0).max(1),
  steps: count,
});
export type Rate = z.infer<typeof rateSchema>;

/** Which replicas average or reduce together, and which microbatches each of them holds. */
const memberSchema = z.strictObject({ replica: replicaSchema, microbatches: z.array(count).max(100_000) });
export type Member = z.infer<typeof memberSchema>;

const at = { uid: uidSchema, run: runIdSchema };
const attempt = { step: count, attempt: count };

const opening = {
  ...at,
  spec: stageSpecSchema,
  mode: z.enum(['sync', 'async']),
  accumulate: z.int().min(1).max(100_000),
  /** Async, where a stage steps by itself: the learning rate by the plan's step, and the largest norm of this stage's gradient. */
  rate: rateSchema.optional(),
  clip: z.number().positive().optional(),
  /** Async: how replicas of the stage are averaged. */
  average: averageSpecSchema.optional(),
};

/** How replicas cut the stage into units: equal digests, equal units (runtime/model/units.ts). */
const digest = z.string().max(16);
const figure = z.number().min(0);
/** Seconds that iterations of a worker take, by the neighbour that it pulls from, and alone; as old as `ageMs`. */
const timesSchema = z.strictObject({
  uid: uidSchema,
  ageMs: figure,
  alone: figure,
  peers: z.array(z.strictObject({ uid: uidSchema, seconds: figure })).max(256),
});
export type Times = z.infer<typeof timesSchema>;

export const messages = {
  /** Tensor `bytes` is thrown away: times a transfer. */
  'link.probe': { request: z.strictObject({}), reply: z.strictObject({}) },

  /**
   * Build the stage for a run, from the seed at step 0; with tensors `weights/<name>` and `optimizer/<name>` (either may be absent),
   * from these, at step `start`. The same run and spec again answers with what is there. `async`: the stage steps by itself after
   * `accumulate` microbatches.
   */
  'stage.open': {
    request: z.strictObject({ ...opening, start: count.optional() }),
    /** `isNew`: it was built just now. */
    reply: z.strictObject({ info, step: count, isNew: z.boolean() }),
  },
  /** As stage.open, but with the weights, optimizer state and step of another replica, pulled over a link. */
  'stage.adopt': {
    request: z.strictObject({ ...opening, from: replicaSchema }),
    reply: z.strictObject({ info, step: count }),
  },
  /**
   * A microbatch on its way: tensors x (B, …) and, for the last stage, y (B) or (B, T) i32. The handler runs its layers, passes the result to
   * the first replica of `route[0]` that answers, and replies when the gradient has come back: tensor dx (B, …) unless this is the
   * model's first stage. `path` says who did it, this stage first. `dropout`: the seed of its masks; absent: no dropout.
   * `loss` is the sum over the `counted` targets times `scale`. `wire`: the format of x and dx between stages (f32 if absent), with
   * their scales beside them: see activation-codec.ts. `prefer`: what a stage computes first where both wait for its GPU.
   */
  'stage.forward': {
    request: z.strictObject({
      ...at,
      ...attempt,
      key: keySchema,
      scale: z.number().positive(),
      dropout: count.optional(),
      wire: wireFormatSchema.optional(),
      prefer: z.enum(['forward', 'backward']).optional(),
      route: routeSchema,
    }),
    reply: z.strictObject({
      loss: z.number(),
      correct: count,
      rows: count,
      counted: count,
      staleness: count,
      path: z.array(uidSchema).max(64),
    }),
  },
  /**
   * Forward only: tensor x in, tensor y (the last stage's output) back; `lastOnly`: that of each sequence's last token, (B, 1, V). With
   * targets as tensor y in, the reply is their `score` instead: the mean loss of those that count, how many are right, how many count.
   */
  'stage.infer': {
    request: z.strictObject({ ...at, lastOnly: z.boolean().optional(), route: routeSchema }),
    reply: z.strictObject({
      score: z.strictObject({ loss: z.number(), correct: count, counted: count }).optional(),
    }),
  },

  /** Sync: make the gradient the sum over all members, in the order given. The members' own microbatches must be as listed. */
  'stage.reduce': {
    request: z.strictObject({ ...at, ...attempt, members: z.array(memberSchema).min(1).max(256) }),
    reply: z.strictObject({ microbatches: z.array(count).max(100_000) }),
  },
  /** Sync: this replica's own gradient sum of the attempt, by parameter name, if it holds exactly these microbatches. */
  'stage.gradients': {
    request: z.strictObject({ ...at, ...attempt, microbatches: z.array(count).max(100_000) }),
    reply: z.strictObject({}),
  },
  /**
   * Sync, on the first and the last stage of a model whose ends share a parameter: add to this stage's reduced gradient of it that of
   * the other end, pulled from the first of `others` that answers. First stage's plus last stage's, in that order, at both ends.
   */
  'stage.tie': {
    request: z.strictObject({ ...at, ...attempt, others: z.array(replicaSchema).min(1).max(256) }),
    reply: z.strictObject({}),
  },
  /** Sync: the reduced gradient of the shared parameter as it was before the other end's was added. */
  'stage.tied': { request: z.strictObject({ ...at, ...attempt }), reply: z.strictObject({}) },
  /** Sync: sum of the squares of the reduced gradient, null where it is not finite. The last stage leaves out a shared parameter. */
  'stage.norm': {
    request: z.strictObject({ ...at, ...attempt }),
    reply: z.strictObject({ squaredNorm: z.number().min(0).nullable() }),
  },
  /**
   * Sync: take the optimizer step with the reduced gradient times `gradientScale`, at learning rate `lr` (the optimizer's if absent).
   * Asking again after it was taken answers the same.
   */
  'stage.apply': {
    request: z.strictObject({
      ...at,
      ...attempt,
      lr: z.number().min(0).optional(),
      gradientScale: z.number().positive().optional(),
    }),
    reply: z.strictObject({ step: count, gradientNorm: z.number() }),
  },

  /**
   * Async: one round of averaging with the replicas given (this one among them), by the run's `average`: w ← w_now + (average − snapshot).
   * `round` counts the rounds of the run: low-communication training exchanges what is due in that one.
   */
  'stage.average': {
    request: z.strictObject({ ...at, replicas: z.array(replicaSchema).min(1).max(256), round: count.optional() }),
    reply: z.strictObject({ merged: count }),
  },

  /** Async: take the step of a batch that is not full, so that nothing done is left out of the weights. */
  'stage.flush': { request: z.strictObject({ ...at }), reply: z.strictObject({ step: count }) },

  /** State by name; `all`: weights and optimizer of one moment, as `weights/<name>` and `optimizer/<name>`. */
  'stage.pull': {
    request: z.strictObject({ ...at, state: z.enum(['weights', 'gradients', 'optimizer', 'all']) }),
    reply: z.strictObject({ step: count }),
  },
  /**
   * What a replica shows for averaging: the version of its weights, how far each unit has moved in training (running sums of squared norms),
   * its shares of the classes, how many neighbours it has, and how long iterations take in the network as far as it knows.
   */
  'layers.offer': {
    request: z.strictObject({ ...at, digest }),
    reply: z.strictObject({
      version: count,
      steps: count,
      round: count,
      progress: z.array(figure).max(65_536),
      labels: z.array(z.number().min(0).max(1)).max(1_000),
      degree: z.int().min(0).max(100_000),
      /** It trains no more; it still serves. */
      isDone: z.boolean(),
      times: z.array(timesSchema).max(256),
    }),
  },
  /**
   * Units of what a replica shows (`outer`: of the outer gradient of an exchange), packed one after the other as tensor `data` and, of int8
   * and int4, `scale`: see layer-store.ts. With `round`, those of that round or exchange, `momentum` of that one or a later; the reply waits
   * until there are any. Tensors in the request are the asker's own units, which the replica merges half and half with those that it gives.
   */
  'layers.pull': {
    request: z.strictObject({
      ...at,
      digest,
      kind: z.enum(['weights', 'slow', 'momentum', 'outer']),
      units: z.array(count).min(1).max(65_536),
      format: layerFormatSchema,
      round: count.optional(),
    }),
    /**
     * `progress`: of these units, as it was when their weights were those that come. Of slow weights and momentum, `round` is how many exchanges
     * are in them. `before`: of an exchange, what the last one of these units had made of the replica's slow weights; of those, the same of
     * them as they come (average/standing.ts).
     */
    reply: z.strictObject({
      version: count,
      steps: count,
      round: count,
      progress: z.array(figure).max(65_536),
      before: z.strictObject({ merged: z.array(uidSchema).max(256), lineage: z.string().max(16) }).optional(),
    }),
  },
  'stage.close': { request: z.strictObject({ ...at }), reply: z.strictObject({}) },
} as const;

export type MessageKind = keyof typeof messages;
export type Request<K extends MessageKind> = z.infer<(typeof messages)[K]['request']>;
export type Reply<K extends MessageKind> = z.infer<(typeof messages)[K]['reply']>;
export const isMessageKind = (kind: string): kind is MessageKind => Object.hasOwn(messages, kind);
