// The transformer families without weights: sizes, parameters by Hugging Face's names, spans of blocks. Pure.
// Every matrix is (out, in) here; GPT-2's files hold theirs (in, out), which huggingface.ts sees to.
import type { ParameterInfo, StageInfo } from '../compute.ts';
import { isLanguage, type Gpt2Spec, type LanguageSpec, type LlamaSpec, type ModelSpec } from '../model-spec.ts';

export interface Dimensions {
  /** Vocabulary, width, blocks. */
  V: number;
  C: number;
  L: number;
  /** Query heads, key and value heads, width of a head. */
  H: number;
  G: number;
  D: number;
  /** Width of the MLP. */
  I: number;
  maxTokens: number;
  epsilon: number;
  isTied: boolean;
}

export function dimensionsOf(model: LanguageSpec): Dimensions {
  if (model.family === 'gpt2') {
    const { vocab_size: V, n_embd: C, n_layer: L, n_head: H, n_inner, n_positions: maxTokens } = model;
    const { layer_norm_epsilon: epsilon, tie_word_embeddings: isTied } = model;
    return { V, C, L, H, G: H, D: C / H, I: n_inner ?? 4 * C, maxTokens, epsilon, isTied };
  }
  const { vocab_size: V, hidden_size: C, num_hidden_layers: L, num_attention_heads: H, intermediate_size: I } = model;
  const { num_key_value_heads, head_dim, max_position_embeddings: maxTokens, rms_norm_eps: epsilon } = model;
  return {
    ...{ V, C, L, H, I, maxTokens, epsilon },
    G: num_key_value_heads ?? H,
    D: head_dim ?? C / H,
    isTied: model.tie_word_embeddings,
  };
}

export const embeddingName = (model: LanguageSpec): string =>
  model.family === 'gpt2' ? 'transformer.wte.weight' : 'model.embed_tokens.weight';
export const POSITIONS = 'transformer.wpe.weight';
export const headName = (model: LanguageSpec): string =>
  model.tie_word_embeddings ? embeddingName(model) : 'lm_head.weight';
/** The tables of all tokens, which kernels see in windows. */
export const isVocabulary = (model: ModelSpec, name: string): boolean =>
  isLanguage(model) && (name === embeddingName(model) || name === headName(model));
export const finalNorm = (model: LanguageSpec): string => (model.family === 'gpt2' ? 'transformer.ln_f' : 'model.norm');
export const blockName = (model: LanguageSpec, index: number): string =>
  model.family === 'gpt2' ? `transformer.h.${index}` : `model.layers.${index}`;

const withBias = (name: string, shape: number[], hasBias: boolean): ParameterInfo[] => [
  { name: `${name}.weight`, shape },
  ...(hasBias ? [{ name: `${name}.bias`, shape: shape.slice(0, 1) }] : []),
];

function gpt2Block(model: Gpt2Spec, index: number): ParameterInfo[] {
  const { C, I } = dimensionsOf(model);
  const at = blockName(model, index);
  return [
    ...withBias(`${at}.ln_1`, [C], model.bias),
    ...withBias(`${at}.attn.c_attn`, [3 * C, C], model.bias),
    ...withBias(`${at}.attn.c_proj`, [C, C], model.bias),
    ...withBias(`${at}.ln_2`, [C], model.bias),
    ...withBias(`${at}.mlp.c_fc`, [I, C], model.bias),
    ...withBias(`${at}.mlp.c_proj`, [C, I], model.bias),
  ];
}

function llamaBlock(model: LlamaSpec, index: number): ParameterInfo[] {
  const { C, H, G, D, I } = dimensionsOf(model);
  const at = blockName(model, index);
  const { attention_bias, mlp_bias } = model;
  return [
    ...withBias(`${at}.input_layernorm`, [C], false),
    ...withBias(`${at}.self_attn.q_proj`, [H * D, C], attention_bias),
    ...withBias(`${at}.self_attn.k_proj`, [G * D, C], attention_bias),
    ...withBias(`${at}.self_attn.v_proj`, [G * D, C], attention_bias),
    ...withBias(`${at}.self_attn.o_proj`, [C, H * D], attention_bias),
    ...withBias(`${at}.post_attention_layernorm`, [C], false),
    ...withBias(`${at}.mlp.gate_proj`, [I, C], mlp_bias),
    ...withBias(`${at}.mlp.up_proj`, [I, C], mlp_bias),
    ...withBias(`${at}.mlp.down_proj`, [C, I], mlp_bias),
  ];
}

export const blockParameters = (model: LanguageSpec, index: number): ParameterInfo[] =>
  model.family === 'gpt2' ? gpt2Block(model, index) : llamaBlock(model, index);

type Shape = Pick<StageInfo, 'inputShape' | 'inputDtype' | 'outputShape' | 'maxTokens' | 'parameters' | 'tied'>;

/** Blocks `from` to `to`: the embedding goes with the first, the last norm and the head with the last. */
export function languageShape(model: LanguageSpec, from: number, to: number): Shape {
  const { V, C, L, maxTokens, isTied } = dimensionsOf(model);
  const isFirst = from === 0;
  const isLast = to === L;
  const embedding = { name: embeddingName(model), shape: [V, C] };
  const positions = model.family === 'gpt2' ? [{ name: POSITIONS, shape: [maxTokens, C] }] : [];
  const blocks = Array.from({ length: to - from }, (_, i) => blockParameters(model, from + i)).flat();
  const norm = withBias(finalNorm(model), [C], model.family === 'gpt2' && model.bias);
  const head = isTied && isFirst ? [] : [{ name: headName(model), shape: [V, C] }];
  return {
    inputShape: isFirst ? [-1] : [-1, C],
    inputDtype: isFirst ? 'i32' : 'f32',
    outputShape: isLast ? [-1, V] : [-1, C],
    maxTokens,
    parameters: [...(isFirst ? [embedding, ...positions] : []), ...blocks, ...(isLast ? [...norm, ...head] : [])],
    tied: isTied && isFirst !== isLast ? embeddingName(model) : null,
  };
}

/** How a parameter begins: normal with this deviation, or one value throughout. As in the originals' code. */
export function initialisation(model: LanguageSpec, name: string): { deviation: number } | { value: number } {
  if (name.endsWith('.bias')) return { value: 0 };
  if (/(ln_[12f]|norm)\.weight$/.test(name)) return { value: 1 };
  // GPT-2 scales what is added to the residual path by 1/√(number of such additions).
  const isResidual = model.family === 'gpt2' && name.endsWith('c_proj.weight');
  return { deviation: model.initializer_range / (isResidual ? Math.sqrt(2 * model.n_layer) : 1) };
}
