// Every message between peers: one schema each for request and reply, parsed once at the edge; both ends infer their types here.
// Tensors travel beside the body, by name; which ones is said at each message.
import { z } from 'zod';
import { stageSpecSchema } from '../compute.ts';
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
  inputShape: z.array(z.int()),
  outputShape: z.array(z.int()),
  isFirst: z.boolean(),
  isLast: z.boolean(),
  parameters: z.array(z.strictObject({ name: z.string().max(200), shape: z.array(z.int()) })).max(100_000),
  parameterBytes: count,
});

/** Which replicas average or reduce together, and which microbatches each of them holds. */
const memberSchema = z.strictObject({ replica: replicaSchema, microbatches: z.array(count).max(100_000) });
export type Member = z.infer<typeof memberSchema>;

const at = { uid: uidSchema, run: runIdSchema };
const attempt = { step: count, attempt: count };

export const messages = {
  /** Tensor `bytes` is thrown away: times a transfer. */
  'link.probe': { request: z.strictObject({}), reply: z.strictObject({}) },

  /**
   * Build the stage for a run: at `step` 0 from the seed; with tensors, from these weights. The same run and spec again answers with
   * what is there. `async`: the stage steps by itself after `accumulate` microbatches.
   */
  'stage.open': {
    request: z.strictObject({
      ...at,
      spec: stageSpecSchema,
      mode: z.enum(['sync', 'async']),
      accumulate: z.int().min(1).max(100_000),
    }),
    /** `isNew`: it was built just now. */
    reply: z.strictObject({ info, step: count, isNew: z.boolean() }),
  },
  /** As stage.open, but with the weights, optimizer state and step of another replica, pulled over a link. */
  'stage.adopt': {
    request: z.strictObject({
      ...at,
      spec: stageSpecSchema,
      mode: z.enum(['sync', 'async']),
      accumulate: z.int().min(1).max(100_000),
      from: replicaSchema,
    }),
    reply: z.strictObject({ info, step: count }),
  },
  /**
   * A microbatch on its way: tensors x (B, …) and, for the last stage, y (B) i32. The handler runs its layers, passes the result to
   * the first replica of `route[0]` that answers, and replies when the gradient has come back: tensor dx (B, …) unless this is the
   * model's first stage. `path` says who did it, this stage first.
   */
  'stage.forward': {
    request: z.strictObject({ ...at, ...attempt, key: keySchema, scale: z.number().positive(), route: routeSchema }),
    reply: z.strictObject({
      loss: z.number(),
      correct: count,
      rows: count,
      staleness: count,
      path: z.array(uidSchema).max(64),
    }),
  },
  /** Forward only: tensor x in, tensor y (the last stage's output) back. */
  'stage.infer': { request: z.strictObject({ ...at, route: routeSchema }), reply: z.strictObject({}) },

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
  /** Sync: take the optimizer step with the reduced gradient. Asking again after it was taken answers the same. */
  'stage.apply': {
    request: z.strictObject({ ...at, ...attempt }),
    reply: z.strictObject({ step: count, gradientNorm: z.number() }),
  },

  /** Async: w ← w_now + (average − snapshot) over all replicas given (this one among them). */
  'stage.average': {
    request: z.strictObject({ ...at, replicas: z.array(replicaSchema).min(1).max(256) }),
    reply: z.strictObject({ merged: count }),
  },

  /** Async: take the step of a batch that is not full, so that nothing done is left out of the weights. */
  'stage.flush': { request: z.strictObject({ ...at }), reply: z.strictObject({ step: count }) },

  /** State by name; `all`: weights and optimizer of one moment, as `weights/<name>` and `optimizer/<name>`. */
  'stage.pull': {
    request: z.strictObject({ ...at, state: z.enum(['weights', 'gradients', 'optimizer', 'all']) }),
    reply: z.strictObject({ step: count }),
  },
  'stage.close': { request: z.strictObject({ ...at }), reply: z.strictObject({}) },
} as const;

export type MessageKind = keyof typeof messages;
export type Request<K extends MessageKind> = z.infer<(typeof messages)[K]['request']>;
export type Reply<K extends MessageKind> = z.infer<(typeof messages)[K]['reply']>;
export const isMessageKind = (kind: string): kind is MessageKind => Object.hasOwn(messages, kind);
