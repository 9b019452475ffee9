// Which models there are, and what their configuration may say. The keys of `gpt2` and `llama` are those of a Hugging Face
// config.json, with its defaults; what would change the arithmetic and is not built is refused, never ignored.
import { z } from 'zod';

const MAX_SIZE = 1 << 24;
const size = z.int().min(1).max(MAX_SIZE);
const share = z.number().min(0).lt(1);
const epsilon = z.number().positive().max(1);

/** `gelu` is the exact one (erf), `gelu_new` GPT-2's tanh form: the names that PyTorch and Hugging Face use. */
const activation = z.enum(['relu', 'gelu', 'gelu_new']).default('relu');

const mlpSchema = z.strictObject({
  family: z.literal('mlp'),
  sizes: z.array(size).min(2).max(65),
  activation,
});

/** A convolution with as many filters as `channels`, kernel × kernel; zeros round the image where it has padding. */
const convSchema = z.strictObject({
  kind: z.literal('conv'),
  channels: size,
  kernel: size,
  stride: size.default(1),
  padding: z.int().min(0).max(MAX_SIZE).default(0),
});
/** Of what a convolution gave: the largest or the mean of windows, size × size; what no whole window reaches is left out. */
const poolSchema = z.strictObject({
  kind: z.literal('pool'),
  pool: z.enum(['max', 'average']).default('max'),
  size,
  /** null: the size, so that windows touch. */
  stride: size.nullable().default(null),
});
/** The image, or what a linear layer gave, as one row: channels, rows, columns, as PyTorch flattens it. */
const linearSchema = z.strictObject({ kind: z.literal('linear'), features: size });

/** LeNet-5 (LeCun et al. 1998) as it is built today: ReLU, the largest of each window, 28 × 28 pixels with padding. */
const LENET: z.input<typeof cnnLayerSchema>[] = [
  { kind: 'conv', channels: 6, kernel: 5, padding: 2 },
  { kind: 'pool', size: 2 },
  { kind: 'conv', channels: 16, kernel: 5 },
  { kind: 'pool', size: 2 },
  { kind: 'linear', features: 120 },
  { kind: 'linear', features: 84 },
  { kind: 'linear', features: 10 },
];
const cnnLayerSchema = z.discriminatedUnion('kind', [convSchema, poolSchema, linearSchema]);

const cnnSchema = z
  .strictObject({
    family: z.literal('cnn'),
    /** Of an image: channels, height, width. */
    input: z.tuple([size, size, size]).default([1, 28, 28]),
    /** Convolutions and the pooling after them, then linear layers, the last of which gives the classes. */
    layers: z.array(cnnLayerSchema).min(1).max(256).prefault(LENET),
    /** After each convolution, before its pooling, and after each linear layer but the last. */
    activation,
  })
  .superRefine(({ input, layers }, context) => checkImages(input, layers, context));

/** Windows that fit in `length` pixels: the height or the width of what a convolution or pooling gives. */
export const windowsIn = (length: number, window: number, stride: number, padding = 0): number =>
  Math.floor((length + 2 * padding - window) / stride) + 1;

/** Follows an image through the layers. Pooling of an image as it comes in belongs to no layer with weights, and so to no stage. */
function checkImages(
  [channels, ...pixels]: readonly [number, number, number],
  layers: readonly CnnLayer[],
  context: z.RefinementCtx,
): void {
  let [C, height, width] = [channels, ...pixels];
  let before: CnnLayer['kind'] | null = null;
  for (const [i, layer] of layers.entries()) {
    const refuse = (key: string, message: string): void =>
      context.addIssue({ code: 'custom', path: ['layers', i, key], message });
    if (before === 'linear' && layer.kind !== 'linear')
      return refuse('kind', 'only linear layers come after a linear one');
    if (before === null && layer.kind === 'pool') return refuse('kind', 'pooling comes after a convolution');
    before = layer.kind;
    if (layer.kind === 'linear') continue;
    const isConv = layer.kind === 'conv';
    const [key, window] = isConv ? (['kernel', layer.kernel] as const) : (['size', layer.size] as const);
    const padding = isConv ? layer.padding : 0;
    const stride = layer.stride ?? window;
    if (padding >= window) return refuse('padding', `must be below the kernel, ${window}`);
    if (window > Math.min(height, width) + 2 * padding)
      return refuse(key, `${window} × ${window} does not fit ${height} × ${width} pixels with padding ${padding}`);
    if (isConv && C * window ** 2 > MAX_SIZE)
      return refuse(key, `${C} channels of ${window} × ${window} are more than ${MAX_SIZE} weights to a value`);
    height = windowsIn(height, window, stride, padding);
    width = windowsIn(width, window, stride, padding);
    if (isConv) C = layer.channels;
    if (C * height * width > MAX_SIZE)
      return refuse(isConv ? 'channels' : 'size', `gives ${C} × ${height} × ${width} values, more than ${MAX_SIZE}`);
  }
  if (before !== 'linear')
    context.addIssue({
      code: 'custom',
      path: ['layers', layers.length - 1, 'kind'],
      message: 'the last layer must be linear: its features are the classes',
    });
}

const gpt2Fields = {
  vocab_size: size.default(50_257),
  n_positions: size.default(1024),
  n_embd: size.default(768),
  n_layer: size.max(1000).default(12),
  n_head: size.default(12),
  /** Width of the MLP; null: 4 · n_embd. */
  n_inner: size.nullable().default(null),
  activation_function: z.enum(['relu', 'gelu', 'gelu_new', 'gelu_pytorch_tanh']).default('gelu_new'),
  resid_pdrop: share.default(0.1),
  embd_pdrop: share.default(0.1),
  attn_pdrop: share.default(0.1),
  layer_norm_epsilon: epsilon.default(1e-5),
  initializer_range: z.number().positive().default(0.02),
  tie_word_embeddings: z.boolean().default(true),
  scale_attn_weights: z.literal(true).default(true),
  scale_attn_by_inverse_layer_idx: z.literal(false).default(false),
  /** false: no biases at all, neither in linear layers nor in layer norms, as in nanoGPT. Not a key of Hugging Face's. */
  bias: z.boolean().default(true),
};

/** Of rotary positions: how frequencies are stretched for contexts longer than those trained on. */
const ropeScalingSchema = z.union([
  z.object({ rope_type: z.literal('default') }).transform(() => null),
  z.object({ rope_type: z.literal('linear'), factor: z.number().positive() }),
  z.object({
    rope_type: z.literal('llama3'),
    factor: z.number().positive(),
    low_freq_factor: z.number().positive(),
    high_freq_factor: z.number().positive(),
    original_max_position_embeddings: size,
  }),
]);
export type RopeScaling = Exclude<z.infer<typeof ropeScalingSchema>, null>;

const llamaFields = {
  vocab_size: size.default(32_000),
  hidden_size: size.default(4096),
  intermediate_size: size.default(11_008),
  num_hidden_layers: size.max(1000).default(32),
  num_attention_heads: size.default(32),
  /** null: as many as query heads. */
  num_key_value_heads: size.nullable().default(null),
  /** null: hidden_size / num_attention_heads. */
  head_dim: size.nullable().default(null),
  hidden_act: z.literal('silu').default('silu'),
  max_position_embeddings: size.default(2048),
  initializer_range: z.number().positive().default(0.02),
  rms_norm_eps: epsilon.default(1e-6),
  rope_theta: z.number().positive().default(10_000),
  rope_scaling: z
    .preprocess((value) => {
      if (typeof value !== 'object' || value === null || 'rope_type' in value || !('type' in value)) return value;
      const { type, ...rest } = value;
      return { ...rest, rope_type: type };
    }, ropeScalingSchema.nullable())
    .default(null),
  attention_bias: z.boolean().default(false),
  mlp_bias: z.boolean().default(false),
  attention_dropout: share.default(0),
  tie_word_embeddings: z.boolean().default(false),
};

/**
 * Hugging Face writes many keys that do not concern the arithmetic (token ids, generation, versions), and adds some with every
 * version: they are dropped. A key that is nearly one of ours is a slip, and is refused.
 */
function fromHuggingFace(
  fields: Readonly<Record<string, unknown>>,
  aliases: Readonly<Record<string, string>> = {},
): (value: unknown, context: z.RefinementCtx) => unknown {
  const known = ['family', ...Object.keys(fields)];
  return (value, context) => {
    if (typeof value !== 'object' || value === null) return value;
    const kept: Record<string, unknown> = {};
    for (const [key, entry] of Object.entries(value)) {
      // Beside rope_parameters newer versions may leave an empty rope_scaling, which says nothing.
      if (key === 'rope_scaling' && entry === null) continue;
      const alias = aliases[key];
      if (known.includes(key)) kept[key] = entry;
      else if (alias !== undefined) {
        if (!(alias in value)) kept[alias] = entry;
        else if ((value as Record<string, unknown>)[alias] !== entry)
          context.addIssue({
            code: 'custom',
            path: [key],
            message: `another name of ${alias}, which has another value`,
          });
      } else if (key === 'rope_parameters' && typeof entry === 'object' && entry !== null) {
        const { rope_theta, partial_rotary_factor: part, ...scaling } = entry as Record<string, unknown>;
        if (!isOff(part)) context.addIssue({ code: 'custom', path: [key], message: UNBUILT.partial_rotary_factor });
        if ('rope_type' in scaling || 'type' in scaling) kept['rope_scaling'] = scaling;
        if (rope_theta !== undefined) kept['rope_theta'] = rope_theta;
      } else if (key in UNBUILT && !isOff(entry)) {
        context.addIssue({ code: 'custom', path: [key], message: UNBUILT[key as keyof typeof UNBUILT] });
      } else {
        const near = HARMLESS.test(key) ? undefined : known.find((name) => isSlip(key, name));
        if (near !== undefined)
          context.addIssue({ code: 'custom', path: [key], message: `unknown key; did you mean ${near}?` });
      }
    }
    return kept;
  };
}

/** Keys of Hugging Face's that change what a model computes, where they are more than off. */
const UNBUILT = {
  add_cross_attention: 'attention to an encoder is not built',
  is_encoder_decoder: 'encoders are not built',
  partial_rotary_factor: 'rotary positions of a part of each head are not built',
  pruned_heads: 'heads taken out of single layers are not built',
  quantization_config: 'quantized weights are not built',
};
const isOff = (entry: unknown): boolean =>
  entry === undefined ||
  entry === null ||
  entry === false ||
  entry === 1 ||
  (typeof entry === 'object' && Object.keys(entry).length === 0);

/** Keys of Hugging Face's that lie near one of ours and are no slip. */
const HARMLESS = /^(n_ctx|pad_token_id|.*_token_id)$/;

/** Other names of GPT-2's keys, which Hugging Face takes too. */
const GPT2_ALIASES = {
  hidden_size: 'n_embd',
  max_position_embeddings: 'n_positions',
  num_attention_heads: 'n_head',
  num_hidden_layers: 'n_layer',
};

/** At most two edits apart, or one is the other cut short. */
function isSlip(a: string, b: string): boolean {
  const shorter = Math.min(a.length, b.length);
  if (shorter >= 8 && Math.abs(a.length - b.length) <= 4 && a.slice(0, shorter) === b.slice(0, shorter)) return true;
  if (Math.abs(a.length - b.length) > 2) return false;
  let row = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i += 1) {
    const next = [i];
    for (let j = 1; j <= b.length; j += 1)
      next.push(
        Math.min((row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1, (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1)),
      );
    row = next;
  }
  return (row[b.length] ?? 0) <= 2;
}

const gpt2Schema = z
  .strictObject({ family: z.literal('gpt2'), ...gpt2Fields })
  .refine((model) => model.n_embd % model.n_head === 0, { path: ['n_head'], message: 'must divide n_embd' });

const llamaSchema = z
  .strictObject({ family: z.literal('llama'), ...llamaFields })
  .refine((model) => model.head_dim !== null || model.hidden_size % model.num_attention_heads === 0, {
    path: ['num_attention_heads'],
    message: 'must divide hidden_size, or head_dim be given',
  })
  .refine((model) => model.num_attention_heads % (model.num_key_value_heads ?? model.num_attention_heads) === 0, {
    path: ['num_key_value_heads'],
    message: 'must divide num_attention_heads',
  })
  .refine((model) => (model.head_dim ?? model.hidden_size / model.num_attention_heads) % 2 === 0, {
    path: ['head_dim'],
    message: 'must be even for rotary positions',
  });

const strict = z.discriminatedUnion('family', [mlpSchema, cnnSchema, gpt2Schema, llamaSchema]);
const familyOf = (value: unknown): unknown =>
  typeof value === 'object' && value !== null && 'family' in value ? value.family : undefined;

export const modelSpecSchema = z.preprocess((value, context) => {
  const family = familyOf(value);
  if (family === 'gpt2') return fromHuggingFace(gpt2Fields, GPT2_ALIASES)(value, context);
  if (family === 'llama') return fromHuggingFace(llamaFields)(value, context);
  return value;
}, strict);

export type ModelSpec = z.infer<typeof strict>;
export type MlpSpec = Extract<ModelSpec, { family: 'mlp' }>;
export type CnnSpec = Extract<ModelSpec, { family: 'cnn' }>;
export type CnnLayer = z.infer<typeof cnnLayerSchema>;
/** Samples in, one class each out. */
export type ClassifierSpec = MlpSpec | CnnSpec;
export type Gpt2Spec = Extract<ModelSpec, { family: 'gpt2' }>;
export type LlamaSpec = Extract<ModelSpec, { family: 'llama' }>;
/** A transformer: tokens in, logits of the next token out. */
export type LanguageSpec = Gpt2Spec | LlamaSpec;

export const isLanguage = (model: ModelSpec): model is LanguageSpec =>
  model.family === 'gpt2' || model.family === 'llama';
