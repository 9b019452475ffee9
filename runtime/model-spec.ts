// Which models there are, and what their configuration may say. The keys of `gpt2` and `llama` are those of a Hugging Face
// config.json, with its defaults; what would change the arithmetic and is not built is refused, never ignored.
import { z } from 'zod';

const size = z
  .int()
  .min(1)
  .max(1 << 24);
const share = z.number().min(0).lt(1);
const epsilon = z.number().positive().max(1);

const mlpSchema = z.strictObject({
  family: z.literal('mlp'),
  sizes: z.array(size).min(2).max(65),
  /** `gelu` is the exact one (erf), `gelu_new` GPT-2's tanh form: the names that PyTorch and Hugging Face use. */
  activation: z.enum(['relu', 'gelu', 'gelu_new']).default('relu'),
});

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

const strict = z.discriminatedUnion('family', [mlpSchema, gpt2Schema, llamaSchema]);
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
export type Gpt2Spec = Extract<ModelSpec, { family: 'gpt2' }>;
export type LlamaSpec = Extract<ModelSpec, { family: 'llama' }>;
/** A transformer: tokens in, logits of the next token out. */
export type LanguageSpec = Gpt2Spec | LlamaSpec;

export const isLanguage = (model: ModelSpec): model is LanguageSpec => model.family !== 'mlp';
