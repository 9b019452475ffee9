// `skein step` agrees with one step of PyTorch (test/golden/make_golden.py) under every split, and says what is wrong with bad files.
import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { after, before, type TestContext } from 'node:test';
import { z } from 'zod';
import { modelSpecSchema } from '../../runtime/model-spec.ts';
import { decode, encode } from '../../runtime/safetensors.ts';
import { f32Of, f32Tensor, i32Tensor, type Tensor } from '../../runtime/tensor.ts';
import { relativeError } from '../reference/kernels.ts';
import { assertRefused, runNode, type Ended } from '../support/cli.ts';
import { splits } from '../support/splits.ts';

const TOLERANCE = 1e-5;
const golden = new URL('../golden/step/', import.meta.url);

interface Case {
  tensors: Map<string, Tensor>;
  model: object;
  flags: string[];
}

function readCase(name: string): Case {
  const { tensors, metadata } = decode(new Uint8Array(readFileSync(new URL(`${name}.safetensors`, golden))));
  const model = modelSpecSchema.parse(JSON.parse(metadata.model ?? ''));
  return { tensors, model, flags: z.array(z.string()).parse(JSON.parse(metadata.flags ?? '')) };
}

/** Those whose names start with the prefix, without it. */
const under = (tensors: ReadonlyMap<string, Tensor>, prefix: string): Map<string, Tensor> =>
  new Map([...tensors].flatMap(([name, t]) => (name.startsWith(prefix) ? [[name.slice(prefix.length), t]] : [])));

let scratch = '';
let runs = 0;
before(async () => {
  scratch = await mkdtemp(join(tmpdir(), 'skein-step-'));
});
after(() => rm(scratch, { recursive: true, force: true }));

type Contents = string | Map<string, Tensor>;
interface Files {
  model: Contents;
  weights: Contents;
  batch: Contents;
}

/** Runs the command in a folder of its own. A `Contents` that is text is written as it stands. */
async function step(
  files: Files,
  flags: readonly string[],
  env: Record<string, string> = {},
): Promise<Ended & { out: string }> {
  const folder = join(scratch, String((runs += 1)));
  await mkdir(folder);
  const args: string[] = [];
  for (const [name, contents] of Object.entries(files) as [string, Contents][]) {
    const file = join(folder, name);
    await writeFile(file, typeof contents === 'string' ? contents : encode(contents));
    args.push(`--${name}`, file);
  }
  const out = join(folder, 'out.safetensors');
  const ended = await runNode(['node/cli.ts', 'step', ...args, '--out', out, ...flags, '--json'], env);
  return { ...ended, out };
}

const filesOf = ({ tensors, model }: Case): Files => ({
  model: JSON.stringify(model),
  weights: under(tensors, 'start.'),
  batch: new Map([...tensors].filter(([name]) => name === 'x' || name === 'y')),
});

async function assertAgrees(name: string, split: readonly number[] | null, t: TestContext): Promise<void> {
  const given = readCase(name);
  const flags = split === null ? [] : ['--split', split.join(',')];
  const ended = await step(filesOf(given), [...given.flags, ...flags]);
  assert.equal(ended.code, 0, ended.stderr);
  const { tensors } = decode(new Uint8Array(readFileSync(ended.out)));
  const parameters = [...under(given.tensors, 'start.').keys()];
  const expected = ['loss', ...parameters.flatMap((parameter) => [parameter, `grad.${parameter}`])];
  assert.deepEqual([...tensors.keys()].sort(), expected.sort());
  let worst = 0;
  for (const key of expected) {
    const got = tensors.get(key);
    const wanted = given.tensors.get(key);
    assert.ok(got && wanted, key);
    assert.deepEqual(got.shape, wanted.shape, key);
    const error = relativeError(f32Of(got), f32Of(wanted));
    worst = Math.max(worst, error);
    assert.ok(error <= TOLERANCE, `${key}: ${error}`);
  }
  t.diagnostic(`largest relative error ${worst.toExponential(1)}`);
  const done = ended.events.find((event) => event.kind === 'step.done');
  const loss = given.tensors.get('loss');
  assert.ok(done && loss);
  assert.ok(Math.abs(done.loss - (f32Of(loss)[0] ?? NaN)) <= TOLERANCE * done.loss, `loss ${done.loss}`);
  const squares = parameters.map((parameter) => {
    const gradient = given.tensors.get(`grad.${parameter}`);
    return gradient ? f32Of(gradient).reduce((sum, value) => sum + value * value, 0) : NaN;
  });
  const norm = Math.sqrt(squares.reduce((a, b) => a + b, 0));
  assert.ok(Math.abs(done.gradientNorm - norm) <= TOLERANCE * norm, `gradient norm ${done.gradientNorm}`);
  assert.equal(done.stages, split?.length ?? 1);
}

const names = readdirSync(golden).map((file) => file.replace('.safetensors', ''));
for (const name of names) test(`agrees with PyTorch: ${name}`, (t) => assertAgrees(name, null, t));
for (const split of splits(4))
  test(`agrees with PyTorch, four layers split into ${split.join('+')}`, (t) => assertAgrees('deep', split, t));
test('agrees with PyTorch, convolutions and linear layers split into 1+2+2', (t) => assertAgrees('cnn', [1, 2, 2], t));
test('the golden files cover ignored rows, convolutions, and sgd, momentum, adamw, decay', () => {
  assert.deepEqual(names.sort(), ['adamw', 'adamw-all', 'cnn', 'decay', 'deep', 'momentum', 'sgd']);
});

const base = readCase('sgd');
const good = filesOf(base);
const changed = (from: Contents, over: Record<string, Tensor | null>): Map<string, Tensor> => {
  const tensors = new Map(from as Map<string, Tensor>);
  for (const [name, tensor] of Object.entries(over)) {
    if (tensor) tensors.set(name, tensor);
    else tensors.delete(name);
  }
  return tensors;
};
const zeros = (...shape: number[]): Tensor => f32Tensor(shape, new Float32Array(shape.reduce((a, b) => a * b, 1)));
const i64 = (...values: bigint[]): Tensor => ({
  dtype: 'i64',
  shape: [values.length],
  data: new Uint8Array(BigInt64Array.from(values).buffer),
});
const labels = (...values: number[]): Tensor => i32Tensor([values.length], Int32Array.from(values));
const notFinite = f32Tensor([8, 20], new Float32Array(160).fill(1, 0, 80).fill(NaN, 80));

interface Refusal {
  what: string;
  files?: Partial<Files>;
  flags?: string[];
  code: number;
  error: RegExp;
  fix?: RegExp;
}

const REFUSALS: Refusal[] = [
  {
    what: 'weights that are no safetensors',
    files: { weights: 'PK\u0003\u0004 a pickle' },
    code: 2,
    error: /weights: /,
  },
  { what: 'a batch that is cut off', files: { batch: '\u0010' }, code: 2, error: /batch: .*too few/ },
  { what: 'a model that is no JSON', files: { model: '{' }, code: 2, error: /model is no model spec/, fix: /"family"/ },
  { what: 'a model with an unknown key', files: { model: '{"family":"mlp","sizes":[2,2],"depth":3}' }, code: 2, error: /depth/ }, // prettier-ignore
  { what: 'a model whose kernel is larger than its image', files: { model: '{"family":"cnn","input":[1,4,4]}' }, code: 2, error: /layers\.2\.kernel: 5 × 5 does not fit 2 × 2 pixels/ }, // prettier-ignore
  { what: 'a parameter that is missing', files: { weights: changed(good.weights, { 'layers.1.bias': null }) }, code: 2, error: /missing layers\.1\.bias/ }, // prettier-ignore
  { what: 'a parameter too many', files: { weights: changed(good.weights, { 'layers.2.bias': zeros(1) }) }, code: 2, error: /unknown layers\.2\.bias/ }, // prettier-ignore
  { what: 'a parameter of another shape', files: { weights: changed(good.weights, { 'layers.0.weight': zeros(20, 16) }) }, code: 2, error: /layers\.0\.weight.*\(20, 16\).*\(16, 20\)/ }, // prettier-ignore
  { what: 'weights that hold NaN', files: { weights: changed(good.weights, { 'layers.1.bias': f32Tensor([10], new Float32Array(10).fill(NaN)) }) }, code: 1, error: /NaN or infinity/ }, // prettier-ignore
  {
    what: 'a batch without y',
    files: { batch: changed(good.batch, { y: null }) },
    code: 2,
    error: /x and y are needed/,
  },
  {
    what: 'x of another width',
    files: { batch: changed(good.batch, { x: zeros(8, 19) }) },
    code: 2,
    error: /\(8, 19\)/,
  },
  { what: 'x with NaN', files: { batch: changed(good.batch, { x: notFinite }) }, code: 1, error: /x holds NaN/ },
  { what: 'fewer labels than rows', files: { batch: changed(good.batch, { y: labels(1, 2) }) }, code: 2, error: /2.*8|8.*2/ }, // prettier-ignore
  { what: 'a label out of range', files: { batch: changed(good.batch, { y: labels(0, 1, 2, 3, 4, 5, 6, 10) }) }, code: 2, error: /target 10/ }, // prettier-ignore
  { what: 'a label below zero', files: { batch: changed(good.batch, { y: i64(0n, 1n, 2n, 3n, 4n, 5n, 6n, -1n) }) }, code: 2, error: /target -1/ }, // prettier-ignore
  { what: 'a label beyond 32 bits', files: { batch: changed(good.batch, { y: i64(0n, 1n, 2n, 3n, 4n, 5n, 6n, 2n ** 32n + 7n) }) }, code: 2, error: /4294967303/ }, // prettier-ignore
  {
    what: 'labels that are floats',
    files: { batch: changed(good.batch, { y: zeros(8) }) },
    code: 2,
    error: /targets are f32/,
  },
  { what: 'no label that counts', files: { batch: changed(good.batch, { y: labels(...Array<number>(8).fill(-100)) }) }, code: 2, error: /no target that counts/ }, // prettier-ignore
  { what: 'a split of another number of layers', flags: ['--split', '1,2'], code: 2, error: /split into 1 \+ 2 .*2 layers/ }, // prettier-ignore
  { what: 'an empty stage', flags: ['--split', '0,2'], code: 2, error: /split into 0 \+ 2/ },
  { what: 'a split that is no list', flags: ['--split', 'a'], code: 2, error: /--split .*such as 1,2/ },
  { what: 'momentum for adamw', flags: ['--optimizer', 'adamw', '--momentum', '0.9'], code: 2, error: /--momentum is no option of adamw/ }, // prettier-ignore
  { what: 'a beta for sgd', flags: ['--beta1', '0.9'], code: 2, error: /--beta1 is no option of sgd/ },
  { what: 'an unknown optimizer', flags: ['--optimizer', 'lion'], code: 2, error: /--optimizer .*sgd/ },
  { what: 'a learning rate that is no number', flags: ['--lr', 'high'], code: 2, error: /--lr/ },
  { what: 'a learning rate of zero', flags: ['--lr', '0'], code: 2, error: /lr/ },
  { what: 'no model', flags: ['--model', '/nonexistent/spec.json'], code: 2, error: /\/nonexistent\/spec\.json/, fix: /path/ }, // prettier-ignore
  { what: 'no weights', flags: ['--weights', '/nonexistent/w'], code: 2, error: /\/nonexistent\/w/, fix: /path/ },
  { what: 'an output that cannot be written', flags: ['--out', '/dev/null/out'], code: 2, error: /\/dev\/null/ },
];

for (const { what, files, flags, code, error, fix } of REFUSALS)
  test(`refuses ${what}`, async () => {
    const ended = await step({ ...good, ...files }, flags ?? []);
    assertRefused(ended, code, error, fix ?? /\w/);
    assert.equal(existsSync(ended.out), false, 'no output is left behind');
    assert.equal(existsSync(`${ended.out}.part`), false, 'no partial output is left behind');
  });

test('says so where there is no GPU', async () => {
  const noDriver = { VK_DRIVER_FILES: '/nonexistent', VK_ICD_FILENAMES: '/nonexistent' };
  const ended = await step(good, [], noDriver);
  assertRefused(ended, 3, /GPU/, /\w/);
  assert.equal(existsSync(ended.out), false);
});

test('refuses to run without its files', async () => {
  assertRefused(await runNode(['node/cli.ts', 'step']), 2, /--model .*is needed/, /--help/);
});
