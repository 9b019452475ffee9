// The learning rate of every step of a run: a warm-up, then constant, linear or along a cosine. Pure; also the schema of a
// configuration's `schedule`.
import { z } from 'zod';
import type { Rate } from '../wire/messages.ts';

export const scheduleSpecSchema = z
  .strictObject({
    /** Steps over which the rate rises in equal parts; the last of them has the whole of it. */
    warmup: z.int().min(0).max(1_000_000_000).default(0),
    kind: z.enum(['constant', 'linear', 'cosine']).default('constant'),
    /** Where `linear` and `cosine` end, as a share of optimizer.lr. */
    final: z.number().min(0).max(1).optional(),
  })
  .refine((spec) => spec.kind !== 'constant' || spec.final === undefined, {
    path: ['final'],
    message: 'a constant rate ends where it is; choose linear or cosine, or leave it out',
  });
export type ScheduleSpec = z.infer<typeof scheduleSpecSchema>;

/** `steps`: those of the whole run. */
export const rateOf = (spec: ScheduleSpec, lr: number, steps: number): Rate => ({
  lr,
  kind: spec.kind,
  warmup: spec.warmup,
  final: spec.kind === 'constant' ? 1 : (spec.final ?? 0),
  steps,
});

/** The rate of step `step`, counted from 0. Beyond the last step it stays where it ended. */
export function lrAt({ lr, kind, warmup, final, steps }: Rate, step: number): number {
  if (step < warmup) return (lr * (step + 1)) / warmup;
  const progress = Math.min(1, (step - warmup) / Math.max(1, steps - warmup));
  const end = lr * final;
  switch (kind) {
    case 'constant':
      return lr;
    case 'linear':
      return lr + (end - lr) * progress;
    case 'cosine':
      return end + 0.5 * (lr - end) * (1 + Math.cos(Math.PI * progress));
    default:
      return kind satisfies never;
  }
}
