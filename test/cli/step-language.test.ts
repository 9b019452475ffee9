// `skein step` on transformers, as a user runs it: one training step agrees with PyTorch (test/golden/lm) under many splits, in every
// precision, with files as Hugging Face writes them; what does not fit is refused with what to do.
import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { after, before, describe } from 'node:test';
import { decode, encode } from '../../runtime/safetensors.ts';
import { f32Of, f32Tensor, i32Of, i32Tensor, type Tensor } from '../../runtime/tensor.ts';
import { assertRefused, runNode, type Ended } from '../support/cli.ts';
import {
  ADAMW_FLAGS,
  assertGradients,
  assertStepped,
  goldenModel,
  type GoldenModel,
} from '../support/golden-language.ts';

let scratch = '';
let runs = 0;
before(async () => {
  scratch = await mkdtemp(join(tmpdir(), 'skein-step-language-'));
});
after(() => rm(scratch, { recursive: true, force: true }));

type Files = Pick<GoldenModel, 'model' | 'weights' | 'batch'>;

async function step(files: Files, flags: readonly string[]): Promise<Ended & { out: string }> {
  const folder = join(scratch, String((runs += 1)));
  await mkdir(folder);
  const args: string[] = [];
  for (const name of ['model', 'weights', 'batch'] as const) {
    const contents = files[name];
    await writeFile(join(folder, name), typeof contents === 'string' ? contents : encode(contents));
    args.push(`--${name}`, join(folder, name));
  }
  const out = join(folder, 'out.safetensors');
  return { ...(await runNode(['node/cli.ts', 'step', ...args, '--out', out, ...flags, '--json'])), out };
}

interface Outcome {
  loss: number;
  gradients: Map<string, Tensor>;
  weights: Map<string, Tensor>;
}

/** What it wrote; the event must say the same. */
async function outcome(files: Files, flags: readonly string[]): Promise<Outcome> {
  const ended = await step(files, flags);
  assert.equal(ended.code, 0, ended.stderr);
  const { tensors } = decode(new Uint8Array(readFileSync(ended.out)));
  const written = tensors.get('loss');
  const done = ended.events.find((event) => event.kind === 'step.done');
  assert.ok(written && done);
  assert.deepEqual(written.shape, []);
  const loss = f32Of(written)[0] ?? NaN;
  assert.ok(Math.abs(done.loss - loss) <= 1e-6 * loss, `${done.loss} and ${loss}`);
  const gradients = new Map<string, Tensor>();
  const weights = new Map<string, Tensor>();
  for (const [name, tensor] of tensors)
    if (name.startsWith('grad.')) gradients.set(name.slice('grad.'.length), tensor);
    else if (name !== 'loss') weights.set(name, tensor);
  assert.deepEqual([...weights.keys()], [...gradients.keys()]);
  const squares = [...gradients.values()].flatMap((tensor) => [...f32Of(tensor)]).reduce((sum, g) => sum + g * g, 0);
  assert.ok(Math.abs(done.gradientNorm ** 2 - squares) <= 1e-5 * squares, `gradient norm ${done.gradientNorm}`);
  return { loss, gradients, weights };
}

/** Every model under every split is in test/model/language.test.ts; here is what goes through files, flags and links. */
const CASES: [name: string, split: string][] = [
  ['gpt2-one-token', '1,1'],
  ['gpt2-four-layers', '1,2,1'],
  ['gpt2-four-layers-untied-no-bias', '1,1,1,1'],
  ['llama-one-group', '2'],
  ['llama-four-layers-tied-rope-llama3', '1,1,2'],
];
// Two at a time: a process that starts keeps one core busy at most.
describe('parity', { concurrency: 2 }, () => {
  for (const [name, split] of CASES)
    test(`agrees with PyTorch: ${name}, layers split ${split}`, async (t) => {
      const golden = goldenModel(name);
      const { loss, gradients, weights } = await outcome(golden, ['--split', split, ...ADAMW_FLAGS]);
      const errors = assertGradients(golden, loss, gradients);
      assertStepped(golden, weights);
      t.diagnostic(`loss off by ${errors.loss.toExponential(1)}, gradients by ${errors.gradient.toExponential(1)}`);
    });

  for (const [name, precision] of [
    ['gpt2-four-layers', 'bf16'],
    ['llama-four-layers', 'f16'],
  ] as const)
    test(`${precision} is near f32: ${name}`, async (t) => {
      const golden = goldenModel(name);
      const { loss, gradients } = await outcome(golden, ['--split', '2,2', '--precision', precision]);
      const errors = assertGradients(golden, loss, gradients, { loss: 2e-2, gradient: 5e-2 });
      assert.ok(errors.gradient > 1e-5, 'the flag has an effect');
      t.diagnostic(`loss off by ${errors.loss.toExponential(1)}, gradients by ${errors.gradient.toExponential(1)}`);
    });

  test('--recompute changes nothing', async () => {
    const golden = goldenModel('llama-four-layers-tied-rope-llama3');
    const plain = await outcome(golden, ['--split', '2,2']);
    const again = await outcome(golden, ['--split', '2,2', '--recompute']);
    assertGradients(plain, again.loss, again.gradients, { loss: 1e-6, gradient: 1e-6 });
  });
});

const i64 = (tensor: Tensor): Tensor => ({
  dtype: 'i64',
  shape: tensor.shape,
  data: new Uint8Array(BigInt64Array.from(i32Of(tensor), BigInt).buffer),
});
const renamed = (tensors: ReadonlyMap<string, Tensor>, to: (name: string) => string): Map<string, Tensor> =>
  new Map([...tensors].map(([name, tensor]) => [to(name), tensor]));

/** What else a config.json of these families says, as transformers writes it whole. */
const GENERATION = {
  ...{
    return_dict: true,
    output_hidden_states: false,
    output_attentions: false,
    torchscript: false,
    torch_dtype: null,
  },
  ...{ dtype: 'float32', use_bfloat16: false, tf_legacy_loss: false, pruned_heads: {}, chunk_size_feed_forward: 0 },
  ...{ is_encoder_decoder: false, is_decoder: false, cross_attention_hidden_size: null, add_cross_attention: false },
  ...{
    tie_encoder_decoder: false,
    max_length: 20,
    min_length: 0,
    do_sample: false,
    early_stopping: false,
    num_beams: 1,
  },
  ...{ num_beam_groups: 1, diversity_penalty: 0, temperature: 1, top_k: 50, top_p: 1, typical_p: 1 },
  ...{ repetition_penalty: 1, length_penalty: 1, no_repeat_ngram_size: 0, encoder_no_repeat_ngram_size: 0 },
  ...{ bad_words_ids: null, num_return_sequences: 1, output_scores: false, return_dict_in_generate: false },
  ...{ forced_bos_token_id: null, forced_eos_token_id: null, remove_invalid_values: false, suppress_tokens: null },
  ...{ exponential_decay_length_penalty: null, begin_suppress_tokens: null, finetuning_task: null },
  ...{ id2label: { 0: 'LABEL_0', 1: 'LABEL_1' }, label2id: { LABEL_0: 0, LABEL_1: 1 }, tokenizer_class: null },
  ...{ prefix: null, bos_token_id: 50_256, pad_token_id: null, eos_token_id: 50_256, sep_token_id: null },
  ...{ decoder_start_token_id: null, task_specific_params: null, problem_type: null, _name_or_path: '' },
  ...{ transformers_version: '4.57.1', use_cache: true, _attn_implementation: 'eager', initializer_range: 0.02 },
};
const GPT2_CONFIG = {
  ...{
    ...GENERATION,
    architectures: ['GPT2LMHeadModel'],
    model_type: 'gpt2',
    n_ctx: 16,
    gradient_checkpointing: false,
  },
  ...{ summary_type: 'cls_index', summary_use_proj: true, summary_activation: null, summary_first_dropout: 0.1 },
  ...{ summary_proj_to_labels: true, scale_attn_weights: true, scale_attn_by_inverse_layer_idx: false },
  ...{ reorder_and_upcast_attn: false, resid_pdrop: 0.1, embd_pdrop: 0.1, attn_pdrop: 0.1 },
};
const LLAMA_CONFIG = {
  ...{ ...GENERATION, architectures: ['LlamaForCausalLM'], model_type: 'llama', pretraining_tp: 1 },
  ...{ attention_dropout: 0, rope_scaling: null },
};
const configured = (golden: GoldenModel, config: object): string =>
  JSON.stringify({ ...config, ...(JSON.parse(golden.model) as object) });

test("takes Hugging Face's whole config, a tied head that is written twice, 64-bit tokens", async () => {
  const golden = goldenModel('gpt2-four-layers');
  const wte = golden.weights.get('transformer.wte.weight');
  assert.ok(wte);
  const { loss, gradients, weights } = await outcome(
    {
      model: configured(golden, GPT2_CONFIG),
      weights: new Map([...golden.weights, ['lm_head.weight', wte]]),
      batch: new Map([...golden.batch].map(([name, tensor]) => [name, i64(tensor)])),
    },
    ['--split', '2,2', ...ADAMW_FLAGS],
  );
  assertGradients(golden, loss, gradients);
  assertStepped(golden, weights);
});

for (const [name, prefix, config] of [
  ['gpt2-no-bias', 'transformer.', GPT2_CONFIG],
  ['llama-biases', 'model.', LLAMA_CONFIG],
] as const)
  test(`takes names without "${prefix}", and answers with the same`, async () => {
    const bare = (key: string): string => key.replace(prefix, '');
    const golden = goldenModel(name);
    // Buffers that old versions saved beside the parameters.
    const buffer = name.startsWith('gpt2') ? 'h.0.attn.bias' : 'layers.0.self_attn.rotary_emb.inv_freq';
    const weights = renamed(golden.weights, bare).set(buffer, f32Tensor([1, 1], new Float32Array(1)));
    const given = { model: configured(golden, config), weights, batch: golden.batch };
    const { loss, gradients } = await outcome(given, ['--split', '1,1']);
    assertGradients({ loss: golden.loss, gradients: renamed(golden.gradients, bare) }, loss, gradients);
  });

const golden = goldenModel('gpt2-four-layers');
const llama = goldenModel('llama-four-layers');
const tokens = (B: number, T: number, value = 0): Tensor => i32Tensor([B, T], new Int32Array(B * T).fill(value));
const spec = (over: object, from = golden): string =>
  JSON.stringify({ ...(JSON.parse(from.model) as object), ...over });
const without = (name: string): Map<string, Tensor> => new Map([...golden.weights].filter(([key]) => key !== name));

const REFUSALS: [what: string, files: Partial<Files>, error: RegExp, fix: RegExp, flags?: string[]][] = [
  ['a parameter that is missing', { weights: without('transformer.h.2.ln_1.bias') }, /missing transformer\.h\.2\.ln_1\.bias; unknown nothing/, /every parameter/], // prettier-ignore
  ['a parameter of no layer', { weights: new Map([...golden.weights, ['transformer.h.4.ln_1.bias', f32Tensor([30], new Float32Array(30))]]) }, /unknown transformer\.h\.4\.ln_1\.bias/, /nothing else/], // prettier-ignore
  ['weights of another model', { weights: llama.weights }, /missing transformer\.\S+, .* and \d+ more; unknown /, /every parameter/], // prettier-ignore
  ['a matrix that is (out, in)', { weights: new Map([...golden.weights, ['transformer.h.0.mlp.c_fc.weight', f32Tensor([120, 30], new Float32Array(3600))]]) }, /c_fc\.weight is f32 \(120, 30\), .*\(30, 120\)/, /Hugging Face/], // prettier-ignore
  ['a key that is nearly one of ours', { model: spec({ n_layers: 4 }) }, /n_layers: unknown key; did you mean n_layer/, /gpt2/], // prettier-ignore
  ['a key that is nearly one of ours, of Llama', { ...llama, model: spec({ num_hidden_layer: 4 }, llama) }, /did you mean num_hidden_layers/, /llama/], // prettier-ignore
  ['an activation that is not built', { model: spec({ activation_function: 'tanh' }) }, /activation_function/, /gpt2/],
  ['a layer that is not built', { model: spec({ add_cross_attention: true }) }, /add_cross_attention/, /gpt2/],
  ['heads that do not divide the width', { model: spec({ n_head: 4 }) }, /n_head: must divide n_embd/, /gpt2/],
  ['a label beyond the vocabulary', { batch: new Map([['input_ids', tokens(2, 3)], ['labels', tokens(2, 3, 53)]]) }, /target 53 is not in 0 … 52, nor -100/, /labels/], // prettier-ignore
  ['a token beyond the vocabulary', { batch: new Map([['input_ids', tokens(2, 3, 53)], ['labels', tokens(2, 3)]]) }, /token 53 is not in 0 … 52/, /input_ids/], // prettier-ignore
  ['a token beyond 32 bits', { batch: new Map([['input_ids', { dtype: 'i64', shape: [1, 1], data: new Uint8Array(BigInt64Array.of(2n ** 32n).buffer) }], ['labels', tokens(1, 1)]]) }, /input_ids holds 4294967296/, /from 0/], // prettier-ignore
  ['sequences beyond the positions', { batch: new Map([['input_ids', tokens(1, 17)], ['labels', tokens(1, 17)]]) }, /17 tokens .* at most 16/, /\w/], // prettier-ignore
  ['labels of another shape', { batch: new Map([['input_ids', tokens(2, 3)], ['labels', tokens(3, 2)]]) }, /\(3, 2\).*\(2, 3\)/, /labels/], // prettier-ignore
  ['no label that counts', { batch: new Map([['input_ids', tokens(2, 3)], ['labels', tokens(2, 3, -100)]]) }, /no target that counts/, /-100/], // prettier-ignore
  ['the names of another batch', { batch: new Map([['x', tokens(2, 3)], ['y', tokens(2, 3)]]) }, /input_ids and labels are needed/, /\(B, T\)/], // prettier-ignore
  ['a split of another number of layers', {}, /split into 2 \+ 3 .*4 layers/, /\w/, ['--split', '2,3']],
];
describe('refusals', { concurrency: 2 }, () => {
  for (const [what, files, error, fix, flags] of REFUSALS)
    test(`refuses ${what}`, async () => {
      const ended = await step({ ...golden, ...files }, flags ?? []);
      assertRefused(ended, 2, error, fix);
      assert.equal(existsSync(ended.out), false, 'no output is left behind');
    });
});
