// What a configuration may say about averaging: who pulls what (planners), or low-communication training (outer), in which format, and what
// protects against bad peers. The planners themselves are runtime/average/planners.
import { z } from 'zod';
import { layerFormatSchema } from './layer-store.ts';

const share = z.number().min(0).max(1);
/** What is left of momentum from one exchange to the next. */
const decay = z.number().min(0).lt(1);
const scheduled = {
  /** What is pulled beyond each unit once: as much as the downlink allows, as the paper does, nothing. */
  fill: z.enum(['access', 'paper', 'none']).optional(),
  /** What bandwidth (1) and difference of data (2) count; one given, the other is what is left of 1. */
  tau1: share.optional(),
  tau2: share.optional(),
};
const fromSome = { peers: z.int().min(1).max(64).optional() };

const plain = <N extends string>(name: N) => z.strictObject({ name: z.literal(name) });

const withOptions = z.discriminatedUnion('name', [
  z.strictObject({ name: z.literal('mpls'), ...scheduled }),
  z.strictObject({ name: z.literal('mpls-peer'), ...scheduled }),
  plain('mpls-layer'),
  plain('mpls-random'),
  plain('netmax'),
  plain('netmax-lite'),
  plain('appg'),
  plain('ad-psgd'),
  plain('d-psgd'),
  z.strictObject({ name: z.literal('epidemic'), ...fromSome }),
  z.strictObject({ name: z.literal('divshare'), ...fromSome }),
  plain('all-reduce'),
  plain('none'),
]);
export type PlannerOptions = z.infer<typeof withOptions>;

const nameSchema = z.enum(withOptions.options.map((one) => one.shape.name.value));
export const PLANNER_NAMES = nameSchema.options;

/** A name, or `{ name, … }` with its options. */
export const plannerSpecSchema = z.union([nameSchema, withOptions]);
export type PlannerSpec = z.infer<typeof plannerSpecSchema>;

/** Whether a worker with this planner never takes anything from others. */
export const takesNothing = (planner: PlannerSpec | undefined): boolean =>
  planner === 'none' || (typeof planner === 'object' && planner.name === 'none');

/** A kind alone stands for the kind with its defaults. */
const named = (value: unknown): unknown => (typeof value === 'string' ? { kind: value } : value);

/**
 * `clip`: what lies further away than `factor` times what is usual is drawn in, and who does what no honest peer does is banned;
 * `trimmed`, `median`: of each value the extremes are left out where 5 to 16 contributions meet, else as with `clip`; bans as with `clip`;
 * `finite`: only what is malformed or not finite is refused; `none`: nothing is.
 */
export const defenceSchema = z.preprocess(
  named,
  z.discriminatedUnion('kind', [
    z.strictObject({ kind: z.literal('clip'), factor: z.number().min(1).default(2) }),
    z.strictObject({ kind: z.literal('trimmed'), trim: z.int().min(1).max(7).default(1) }),
    z.strictObject({ kind: z.literal('median') }),
    z.strictObject({ kind: z.literal('finite') }),
    z.strictObject({ kind: z.literal('none') }),
  ]),
);
export type Defence = z.infer<typeof defenceSchema>;

const outerFields = {
  /** Local steps from one exchange of a fragment to the next. */
  steps: z.int().min(1).max(1_000_000).default(50),
  rate: z.number().positive().default(0.7),
  /** The papers' 0.9 needs runs of many hundreds of exchanges: over a few dozen it overshoots. */
  momentum: decay.default(0.5),
};

/**
 * Low-communication training: replicas train by themselves and exchange what came of it. DiLoCo (Douillard et al. 2023) waits for all;
 * Streaming DiLoCo (Douillard et al. 2025) exchanges one of `fragments` at a time while training goes on; NoLoCo (Kolehmainen et al. 2025)
 * exchanges within random pairs, and draws the pair together by `pull`.
 */
export const outerSpecSchema = z.preprocess(
  named,
  z.discriminatedUnion('kind', [
    z.strictObject({ kind: z.literal('diloco'), ...outerFields }),
    z.strictObject({
      kind: z.literal('streaming-diloco'),
      ...outerFields,
      fragments: z.int().min(1).max(1000).default(4),
    }),
    z.strictObject({
      kind: z.literal('noloco'),
      ...outerFields,
      pull: z.number().min(0).max(2).default(1),
    }),
  ]),
);
export type OuterSpec = z.infer<typeof outerSpecSchema>;

export const averageSpecSchema = z
  .strictObject({
    planner: plannerSpecSchema.optional(),
    outer: outerSpecSchema.optional(),
    /** From one round to the next, where rounds go on beside training. */
    intervalMs: z.int().min(1).max(3_600_000).default(500),
    /** Synchronous planners: local steps to a round. */
    steps: z.int().min(1).max(1_000_000).default(1),
    /** How layers travel. */
    format: layerFormatSchema.default('f32'),
    /** Layers are cut into units of this size at most; a 16th of the model and 1 MiB if absent. Equal for all replicas. */
    unitBytes: z
      .int()
      .min(64)
      .max(2 ** 25)
      .optional(),
    defence: defenceSchema.default({ kind: 'clip', factor: 2 }),
    /** Averaging may take this share of training's time; rounds are further apart where they would take more. */
    share: z.number().positive().max(1).default(0.04),
    /** How long a synchronous round or an outer exchange waits for peers. */
    patienceMs: z.int().min(100).max(600_000).default(15_000),
  })
  .refine(({ planner, outer }) => planner === undefined || outer === undefined, {
    path: ['outer'],
    message: 'low-communication training has its own exchanges: leave out planner, or outer',
  });
export type AverageSpec = z.infer<typeof averageSpecSchema>;

/** MPLS, f32, every half second. */
export const DEFAULT_AVERAGE: AverageSpec = averageSpecSchema.parse({});
