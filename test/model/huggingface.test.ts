// Models in and out of Hugging Face's layout: names, GPT-2's transposed matrices, tied heads, old buffers, config.json.
import assert from 'node:assert/strict';
import test from 'node:test';
import { isLanguage, modelSpecSchema, type LanguageSpec } from '../../runtime/model-spec.ts';
import {
  fromHuggingFace,
  huggingFaceConfig,
  huggingFaceShapes,
  specFromConfig,
  toHuggingFace,
  transposed,
} from '../../runtime/model/huggingface.ts';
import { layerCount, stageInfo } from '../../runtime/model/spec.ts';
import { f32Of, f32Tensor, type Tensor } from '../../runtime/tensor.ts';
import { meshError, random } from './harness.ts';

const languageSpec = (value: object): LanguageSpec => {
  const model = modelSpecSchema.parse(value);
  if (!isLanguage(model)) throw new Error('not a language model');
  return model;
};
const gpt2 = languageSpec({
  family: 'gpt2',
  vocab_size: 11,
  n_positions: 5,
  n_embd: 6,
  n_layer: 2,
  n_head: 2,
  n_inner: 7,
});
const llama = languageSpec({
  family: 'llama',
  ...{ vocab_size: 11, hidden_size: 8, intermediate_size: 12, num_hidden_layers: 1, num_attention_heads: 2 },
});

const weightsOf = (model: LanguageSpec): Map<string, Tensor> =>
  new Map(
    stageInfo(model, 0, layerCount(model)).parameters.map(({ name, shape }, i) => [name, random([...shape], i + 1)]),
  );

test('a matrix turns round, at any size', () => {
  const [M, N] = [70, 33];
  const x = random([M, N], 1);
  const y = transposed(x);
  assert.deepEqual(y.shape, [N, M]);
  const [from, to] = [f32Of(x), f32Of(y)];
  for (let i = 0; i < M; i++) for (let j = 0; j < N; j++) assert.equal(to[j * M + i], from[i * N + j]);
  assert.deepEqual(transposed(y).data, x.data);
});

test('out and in again is the same, and the layout is theirs', () => {
  for (const model of [gpt2, llama]) {
    const weights = weightsOf(model);
    const theirs = toHuggingFace(model, weights);
    for (const [name, shape] of huggingFaceShapes(model)) assert.deepEqual(theirs.get(name)?.shape, shape, name);
    const back = fromHuggingFace(model, theirs);
    assert.equal(back.size, weights.size);
    for (const [name, tensor] of weights) assert.deepEqual(back.get(name)?.data, tensor.data, name);
  }
  const shapes = huggingFaceShapes(gpt2);
  assert.deepEqual(shapes.get('transformer.h.0.attn.c_attn.weight'), [6, 18]); // Conv1D: (in, out)
  assert.deepEqual(shapes.get('transformer.h.0.mlp.c_proj.weight'), [7, 6]);
  assert.equal(shapes.has('lm_head.weight'), false);
  assert.deepEqual(huggingFaceShapes(llama).get('model.layers.0.mlp.down_proj.weight'), [8, 12]);
});

test('files of the bare model, with old buffers and the tied head once more, are read', () => {
  const theirs = toHuggingFace(gpt2, weightsOf(gpt2));
  const bare = new Map([...theirs].map(([name, tensor]) => [name.replace(/^transformer\./, ''), tensor]));
  bare.set('h.0.attn.bias', f32Tensor([1], new Float32Array(1)));
  bare.set('h.0.attn.masked_bias', f32Tensor([1], new Float32Array(1)));
  bare.set('lm_head.weight', random([11, 6], 1));
  assert.deepEqual([...fromHuggingFace(gpt2, bare).keys()].sort(), [...theirs.keys()].sort());
  const half: Tensor = { dtype: 'f16', shape: [3, 9], data: new Uint8Array(54) };
  const attention = 'transformer.h.0.attn.c_attn.weight';
  assert.equal(fromHuggingFace(gpt2, new Map([[attention, half]])).get(attention), half); // for a check of dtypes to refuse
  const twice = new Map([...theirs, ['wte.weight', random([11, 6], 1)]] as [string, Tensor][]);
  assert.throws(() => fromHuggingFace(gpt2, twice), meshError('bad-file'));
});

test('config.json goes out and comes back', () => {
  for (const model of [gpt2, llama]) {
    const config = huggingFaceConfig(model);
    const spec = specFromConfig(JSON.parse(JSON.stringify(config)));
    // What was left open is written out.
    const { num_key_value_heads: _, head_dim: __, ...rest } = { num_key_value_heads: 0, head_dim: 0, ...model };
    assert.deepEqual({ ...spec, ...rest }, spec);
    assert.equal(config['model_type'], model.family);
  }
  assert.throws(() => specFromConfig({ model_type: 'bert' }), meshError('bad-file'));
  assert.throws(
    () => specFromConfig({ model_type: 'gpt2', scale_attn_by_inverse_layer_idx: true }),
    meshError('bad-file'),
  );
  assert.throws(() => specFromConfig({ model_type: 'gpt2', n_layers: 3 }), /did you mean n_layer/);
  assert.throws(
    () => specFromConfig({ model_type: 'llama', rope_scaling: { type: 'yarn', factor: 2 } }),
    meshError('bad-file'),
  );
  assert.throws(() => specFromConfig(null), meshError('bad-file'));
});

test('rope_parameters of newer configurations are the older keys', () => {
  const llama = { model_type: 'llama', hidden_size: 8, num_attention_heads: 2, rope_scaling: null };
  const of = (rope_parameters: object): object => {
    const spec = specFromConfig({ rope_parameters, ...llama });
    return spec.family === 'llama' ? { theta: spec.rope_theta, scaling: spec.rope_scaling } : {};
  };
  assert.deepEqual(of({ rope_type: 'default', rope_theta: 5e5 }), { theta: 5e5, scaling: null });
  assert.deepEqual(of({ rope_theta: 5e5 }), { theta: 5e5, scaling: null });
  const linear = { rope_type: 'linear', factor: 2 };
  assert.deepEqual(of({ ...linear, rope_theta: 5e5 }), { theta: 5e5, scaling: linear });
  assert.throws(() => of({ rope_type: 'yarn', factor: 2 }), /rope_scaling/);
});

test('a key that changes what a model computes is refused where it is more than off', () => {
  const off = { add_cross_attention: false, pruned_heads: {}, partial_rotary_factor: 1, quantization_config: null };
  assert.equal(specFromConfig({ model_type: 'gpt2', ...off }).family, 'gpt2');
  const on = { add_cross_attention: true, pruned_heads: { 0: [1] }, partial_rotary_factor: 0.5 };
  for (const [key, value] of Object.entries(on))
    assert.throws(() => specFromConfig({ model_type: 'gpt2', [key]: value }), new RegExp(key));
});

test("what published models' config.json hold is read, and what would compute something else is refused", () => {
  const distil = {
    ...{ _num_labels: 1, activation_function: 'gelu_new', architectures: ['GPT2LMHeadModel'], attn_pdrop: 0.1 },
    ...{ bos_token_id: 50_256, embd_pdrop: 0.1, eos_token_id: 50_256, id2label: { 0: 'LABEL_0' } },
    ...{ initializer_range: 0.02, layer_norm_epsilon: 1e-5, model_type: 'gpt2', n_ctx: 1024, n_embd: 768, n_head: 12 },
    ...{ n_layer: 6, n_positions: 1024, resid_pdrop: 0.1, summary_activation: null, summary_first_dropout: 0.1 },
    ...{ summary_type: 'cls_index', task_specific_params: {}, vocab_size: 50_257, reorder_and_upcast_attn: false },
  };
  assert.partialDeepStrictEqual(specFromConfig(distil), {
    family: 'gpt2',
    n_layer: 6,
    n_embd: 768,
    vocab_size: 50_257,
  });
  const smol = {
    ...{ architectures: ['LlamaForCausalLM'], attention_bias: false, attention_dropout: 0, bos_token_id: 0 },
    ...{ eos_token_id: 0, hidden_act: 'silu', hidden_size: 576, initializer_range: 0.041666666666666664 },
    ...{ intermediate_size: 1536, is_llama_config: true, max_position_embeddings: 8192, mlp_bias: false },
    ...{
      model_type: 'llama',
      num_attention_heads: 9,
      num_hidden_layers: 30,
      num_key_value_heads: 3,
      pretraining_tp: 1,
    },
    ...{ rms_norm_eps: 1e-5, rope_interleaved: false, rope_scaling: null, rope_theta: 100_000 },
    ...{ tie_word_embeddings: true, torch_dtype: 'bfloat16', use_cache: true, vocab_size: 49_152 },
  };
  assert.partialDeepStrictEqual(specFromConfig(smol), { num_key_value_heads: 3, rope_theta: 100_000 });
  const three = {
    ...{ rope_type: 'llama3', factor: 32, high_freq_factor: 4, low_freq_factor: 1 },
    original_max_position_embeddings: 8192,
  };
  assert.partialDeepStrictEqual(specFromConfig({ ...smol, head_dim: 64, rope_scaling: three }), {
    rope_scaling: three,
  });

  const aliases = { hidden_size: 64, num_hidden_layers: 2, num_attention_heads: 4, max_position_embeddings: 32 };
  const spec = { n_embd: 64, n_layer: 2, n_head: 4, n_positions: 32 };
  assert.partialDeepStrictEqual(specFromConfig({ model_type: 'gpt2', ...aliases }), spec);
  assert.partialDeepStrictEqual(specFromConfig({ model_type: 'gpt2', ...aliases, ...spec }), spec);
  assert.throws(() => specFromConfig({ ...distil, hidden_size: 64 }), /another name of n_embd/);
  assert.throws(() => specFromConfig({ ...distil, layer_norm_eps: 1e-6 }), /did you mean layer_norm_epsilon/);
  const part = { rope_theta: 10_000, rope_type: 'default', partial_rotary_factor: 0.5 };
  assert.throws(() => specFromConfig({ ...smol, rope_parameters: part }), /part of each head/);
  for (const model_type of ['qwen2', 'mistral', 'phi'])
    assert.throws(() => specFromConfig({ ...smol, model_type }), meshError('bad-file'));
});
