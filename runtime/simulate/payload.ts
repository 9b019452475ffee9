// How large the layers are that travel: a small learner stands for a large model by sending as many bytes, in as many layers. Its own
// parameters are cut in the same proportions.
import { z } from 'zod';
import { MeshError } from '../errors.ts';

/** Weights and bias of each layer of Network in Network for 32 × 32 images (Lin et al. 2013): 3.87 MB as f32. */
const NIN = [14_592, 30_880, 15_456, 460_992, 37_056, 37_056, 331_968, 37_056, 1_930];
/** ResNet-18 for 32 × 32 images and 100 classes, without what is not averaged as a layer of its own: 44.8 MB as f32. */
const RESNET_18 = [
  ...[1_728, 36_864, 36_864, 36_864, 36_864],
  ...[73_728, 147_456, 8_192, 147_456, 147_456],
  ...[294_912, 589_824, 32_768, 589_824, 589_824],
  ...[1_179_648, 2_359_296, 131_072, 2_359_296, 2_359_296],
  51_300,
];

export const payloadSchema = z.union([
  z.enum(['nin', 'resnet-18', 'learner']),
  z.strictObject({ unitBytes: z.array(z.number().min(1)).min(1).max(4096) }),
]);
export type Payload = z.infer<typeof payloadSchema>;

const F32 = 4;
/** Layers of `learner`, which sends what it is. */
const LEARNER_UNITS = 8;

/** Bytes of each unit. `parameters`: how many the learner has. */
export function unitBytesOf(payload: Payload, parameters: number): number[] {
  if (typeof payload !== 'string') return payload.unitBytes;
  switch (payload) {
    case 'nin':
      return NIN.map((count) => count * F32);
    case 'resnet-18':
      return RESNET_18.map((count) => count * F32);
    case 'learner':
      return unitRanges(new Array<number>(LEARNER_UNITS).fill(1), parameters).map(({ from, to }) => (to - from) * F32);
    default:
      return payload satisfies never;
  }
}

export interface UnitRange {
  readonly from: number;
  /** Exclusive. */
  readonly to: number;
}

/** Consecutive ranges of the learner's parameters in these proportions, none empty. Throws `usage` where it has too few. */
export function unitRanges(unitBytes: readonly number[], parameters: number): UnitRange[] {
  const units = unitBytes.length;
  if (parameters < units)
    throw new MeshError(
      'usage',
      `A learner of ${parameters} parameters cannot stand for ${units} layers.`,
      'Give it more hidden units, or the payload fewer layers.',
    );
  const total = unitBytes.reduce((a, b) => a + b, 0);
  let reached = 0;
  let from = 0;
  return unitBytes.map((bytes, unit) => {
    reached += bytes;
    const share = Math.round((reached / total) * parameters);
    const to = unit === units - 1 ? parameters : Math.min(parameters - (units - 1 - unit), Math.max(from + 1, share));
    const range = { from, to };
    from = to;
    return range;
  });
}
