// What the transformer benchmark measures: models, sizes, and what is run, by the names that transformer_torch.py uses too.
import type { StageSpec } from '../../../runtime/compute.ts';
import { modelSpecSchema, type ModelSpec } from '../../../runtime/model-spec.ts';

/** last: logits of the last position; all: of every position; train: loss over every position, backward, AdamW. */
export type Kind = 'last' | 'all' | 'train';

export interface Measurement {
  name: string;
  kind: Kind;
  batch: number;
  tokens: number;
  precision: NonNullable<StageSpec['precision']>;
  /** The measurement of transformer_torch.py that does the same work; its own name where that is not said. */
  torchName?: string;
  /** PyTorch's time over ours: what must be reached, and what should be. */
  floor?: number;
  stretch?: number;
}

export interface ModelGroup {
  /** What the names of its measurements begin with. */
  name: string;
  model: ModelSpec;
  vocabulary: number;
  measurements: readonly Measurement[];
}

const STILL = { resid_pdrop: 0, embd_pdrop: 0, attn_pdrop: 0 };
const gpt2 = (fields: object): ModelSpec => modelSpecSchema.parse({ family: 'gpt2', ...STILL, ...fields });
const f32 = 'f32';

export const MODEL_GROUPS: readonly ModelGroup[] = [
  {
    name: 'gpt2-124m',
    model: gpt2({}),
    vocabulary: 50_257,
    measurements: [
      {
        name: 'gpt2-124m-forward-1',
        ...{ kind: 'last', batch: 1, tokens: 1, precision: f32, floor: 1 },
      },
      {
        name: 'gpt2-124m-forward-1-bf16',
        torchName: 'gpt2-124m-forward-1',
        ...{ kind: 'last', batch: 1, tokens: 1, precision: 'bf16', floor: 1, stretch: 2 },
      },
      {
        name: 'gpt2-124m-forward-128-last',
        ...{ kind: 'last', batch: 1, tokens: 128, precision: f32, floor: 0.5 },
      },
      {
        name: 'gpt2-124m-forward-128-all',
        ...{ kind: 'all', batch: 1, tokens: 128, precision: f32, floor: 0.5 },
      },
      {
        name: 'gpt2-124m-train-128',
        ...{ kind: 'train', batch: 1, tokens: 128, precision: f32, floor: 0.5, stretch: 1 },
      },
    ],
  },
  {
    name: 'nanogpt-char',
    model: gpt2({ vocab_size: 65, n_positions: 256, n_embd: 384, n_layer: 6, n_head: 6, bias: false }),
    vocabulary: 65,
    measurements: [
      { name: 'nanogpt-char-forward-4x256', kind: 'all', batch: 4, tokens: 256, precision: f32 },
      { name: 'nanogpt-char-train-4x256', kind: 'train', batch: 4, tokens: 256, precision: f32, stretch: 0.5 },
    ],
  },
  {
    name: 'char-gpt',
    model: gpt2({ vocab_size: 96, n_positions: 64, n_embd: 128, n_layer: 4, n_head: 4 }),
    vocabulary: 96,
    measurements: [
      { name: 'char-gpt-forward-12x64', kind: 'all', batch: 12, tokens: 64, precision: f32 },
      { name: 'char-gpt-train-12x64', kind: 'train', batch: 12, tokens: 64, precision: f32, stretch: 0.5 },
    ],
  },
];

/** Those that `only` selects, without the groups that are left empty. A part selects what begins with it. */
export function selectedGroups(only: readonly string[]): ModelGroup[] {
  if (only.length === 0) return [...MODEL_GROUPS];
  return MODEL_GROUPS.flatMap((group) => {
    const measurements = group.measurements.filter(({ name }) => only.some((part) => name.startsWith(part)));
    return measurements.length === 0 ? [] : [{ ...group, measurements }];
  });
}
