// `skein config generate`, and the workers that its files are for: what is written, and what is refused with which words and exit code.
import assert from 'node:assert/strict';
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { parseWorkerConfig, type WorkerConfig } from '../../runtime/federated/config.ts';
import { readWorkerConfig } from '../../node/worker.ts';
import { assertRefused, runNode, type Ended } from '../support/cli.ts';
import { TOKEN } from '../support/mesh.ts';

const NOBODY = `http://127.0.0.1:9/#token=${TOKEN}`; // discard, a port that no one listens on here
const SERVE = ['node/serve.ts', '--join', NOBODY];

async function scratch(t: TestContext): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'skein-generate-'));
  t.after(() => rm(folder, { recursive: true, force: true }));
  return folder;
}
const generate = (...args: string[]): Promise<Ended> => runNode(['node/cli.ts', 'config', 'generate', ...args]);
const filesIn = async (folder: string): Promise<WorkerConfig[]> => {
  const names = (await readdir(folder)).filter((name) => name.startsWith('worker-')).sort();
  return names.map((name) => readWorkerConfig(join(folder, name)));
};

test('three files that a worker takes as they stand, named on standard output', async (t) => {
  const folder = await scratch(t);
  const { code, stdout, stderr } = await generate('--out', folder);
  assert.equal(code, 0, stderr);
  const names = [0, 1, 2].map((i) => join(folder, `worker-${i}.yaml`));
  assert.deepEqual(stdout.trim().split('\n'), names);
  assert.match(stderr, /node node\/serve\.ts --join LINK --worker --config .*worker-0\.yaml/);
  const configs = await filesIn(folder);
  const defaults = parseWorkerConfig({ worker: 0, workers: 3 });
  assert.deepEqual(configs, [0, 1, 2].map((worker) => ({ ...defaults, worker }))); // prettier-ignore
  const text = await readFile(names[1] ?? '', 'utf8');
  assert.match(text, /^# Worker 1 of 3; its neighbours: worker\.0\.0\.0, worker\.0\.2\.0\.\n/);
  assert.doesNotMatch(text, /join/);
});

test('each option is written into the files', async (t) => {
  const folder = join(await scratch(t), 'new', 'run');
  const { code, stderr } = await generate('--workers', '2', '--topology', 'full', '--method', 'streaming-diloco', '--partition', 'label:0.7', '--join', NOBODY, '--seed', '9', '--out', folder); // prettier-ignore
  assert.equal(code, 0, stderr);
  for (const config of await filesIn(folder)) {
    assert.deepEqual([config.workers, config.topology, config.seed, config.join], [2, 'full', 9, NOBODY]);
    assert.deepEqual(config.partition, { kind: 'label', share: 0.7 });
    assert.equal(config.average.outer?.kind, 'streaming-diloco');
    assert.equal(config.average.planner, undefined);
  }
});

test('topologies and partitions as they are written on a command line', async (t) => {
  const folder = await scratch(t);
  const cases = [
    [['--topology', 'random:0.2', '--partition', 'dirichlet:3', '--method', 'd-psgd'], { random: 0.2 }, { kind: 'dirichlet', alpha: 3 }], // prettier-ignore
    [['--topology', '0-1,1-2', '--partition', 'iid'], { edges: [[0, 1], [1, 2]] }, { kind: 'iid' }], // prettier-ignore
    [['--topology', 'random', '--partition', 'dirichlet'], { random: 0.5 }, { kind: 'dirichlet', alpha: 0.5 }],
  ] as const;
  for (const [args, topology, partition] of cases) {
    assert.equal((await generate(...args, '--force', '--out', folder)).code, 0, args.join(' '));
    const [config] = await filesIn(folder);
    assert.deepEqual([config?.topology, config?.partition], [topology, partition]);
    assert.equal(config?.average.planner, args.includes('d-psgd' as never) ? 'd-psgd' : undefined);
  }
});

test('--from: all that is not said is the file’s, and the rest stands before it', async (t) => {
  const folder = await scratch(t);
  const base = join(folder, 'base.yaml');
  const given = { worker: 1, workers: 4, topology: 'full', batch: 16, seed: 5, average: { planner: { name: 'epidemic', peers: 2 }, format: 'int8', intervalMs: 250 } }; // prettier-ignore
  await writeFile(base, JSON.stringify(given));
  assert.equal((await generate('--from', base, '--out', join(folder, 'a'))).code, 0);
  const same = await filesIn(join(folder, 'a'));
  assert.deepEqual(same, [0, 1, 2, 3].map((worker) => parseWorkerConfig({ ...given, worker }))); // prettier-ignore
  assert.equal((await generate('--from', base, '--workers', '2', '--topology', 'ring', '--method', 'diloco', '--seed', '6', '--out', join(folder, 'b'))).code, 0); // prettier-ignore
  const [first, ...others] = await filesIn(join(folder, 'b'));
  assert.equal(others.length, 1);
  assert.deepEqual([first?.topology, first?.batch, first?.seed], ['ring', 16, 6]);
  const { outer, planner, format, intervalMs } = first?.average ?? {};
  assert.deepEqual([outer?.kind, planner, format, intervalMs], ['diloco', undefined, 'int8', 250]);
});

test('the vocabulary of a language model stays the tokenizer’s', async (t) => {
  const folder = await scratch(t);
  const base = join(folder, 'base.yaml');
  await writeFile(base, JSON.stringify({ worker: 0, workers: 2, model: { family: 'gpt2', n_layer: 1, n_embd: 16, n_head: 2 }, data: { text: 'sotu', tokenizer: 'char', contextLength: 16 } })); // prettier-ignore
  assert.equal((await generate('--from', base, '--out', folder)).code, 0);
  assert.ok(readWorkerConfig(join(folder, 'worker-1.yaml')).isVocabularyOpen);
});

test('files that are there are written over with --force only, and then all or none are written', async (t) => {
  const folder = await scratch(t);
  await writeFile(join(folder, 'worker-2.yaml'), 'mine');
  assertRefused(await generate('--out', folder), 2, /worker-2\.yaml is there already/, /--out, or add --force/);
  assert.deepEqual(await readdir(folder), ['worker-2.yaml']);
  assert.equal((await generate('--out', folder, '--force')).code, 0);
  assert.equal((await filesIn(folder)).length, 3);
});

test('what cannot be is refused with its option, and nothing is written', async (t) => {
  const folder = join(await scratch(t), 'none');
  const base = join(folder, '..', 'base.yaml');
  await writeFile(base, 'worker: 0\nworkers: 3\naverage: { plannner: mpls }\n');
  const cases: [string[], RegExp, RegExp?][] = [
    [['--workers', '0'], /--workers/],
    [['--topology', 'random:x'], /--topology .*ring, full, random:P/],
    [['--topology', '0-3'], /edge 0–3 joins no two of 3 workers/, /0 to 2/],
    [['--partition', 'label:1.5'], /--partition .*iid, dirichlet:ALPHA, or label:SHARE/],
    [['--method', 'best'], /--method .*mpls/],
    [['--from', '/nonexistent.yaml'], /\/nonexistent\.yaml cannot be read/, /YAML/],
    [['--from', base], /base\.yaml:3: average\.plannner/, /Correct that line/],
  ];
  const refuse = async ([args, error, fix = /--help/]: (typeof cases)[number]): Promise<void> =>
    assertRefused(await generate(...args, '--out', folder), 2, error, fix);
  await Promise.all(cases.map(refuse));
  await assert.rejects(readdir(folder));
  assertRefused(await generate('--out', '/dev/null/run'), 2, /\/dev\/null\/run cannot be written/, /--out/);
});

test('serve --worker: no file, one that is wrong, no join link', async (t) => {
  const folder = await scratch(t);
  const file = join(folder, 'worker.yaml');
  assertRefused(
    await runNode([...SERVE, '--worker']),
    2,
    /--worker needs --config/,
    /skein config generate --workers 3/,
  );
  await writeFile(file, 'worker: 0\nworkers: 3\nbatchsize: 3\n');
  assertRefused(await runNode([...SERVE, '--worker', '--config', file]), 2, /worker\.yaml:3: batchsize/, /Correct that line/); // prettier-ignore
  await writeFile(file, 'worker: 0\nworkers: 3\n');
  const bare = ['node/serve.ts', '--worker', '--config', file];
  assertRefused(await runNode(bare), 2, /--join \(or SKEIN_JOIN\): is needed/, /--help/);
  assertRefused(await runNode([...bare, '--join', NOBODY, '--out', '/dev/null/m']), 2, /\/dev\/null\/m cannot be written/, /folder/); // prettier-ignore
});

test('a worker’s file that is wrong is refused by line and key', async (t) => {
  const folder = await scratch(t);
  const file = join(folder, 'worker.yaml');
  const cases: [string, RegExp][] = [
    ['worker: 0\nworkers: 3\naverage:\n  planner: mpls\n  defense: clip\n', /worker\.yaml:5: average\.defense/],
    ['worker: 0\nworkers: 3\naverage:\n  planner: best\n', /worker\.yaml:4: average\.planner/],
    ['worker: 0\nworkers: 3\naverage:\n  planner: { name: mpls, tau: 1 }\n', /worker\.yaml:4: average\.planner\.tau/],
    ['worker: 0\nworkers: 3\naverage:\n  outer: { kind: diloco, fragments: 3 }\n', /worker\.yaml:4: average\.outer\.fragments/], // prettier-ignore
    ['worker: 0\nworkers: 3\ntopology: { random: 3 }\n', /worker\.yaml:3: topology\.random/],
    ['worker: 0\nworkers: 3\npartition: { kind: label }\n', /worker\.yaml:3: partition\.share/],
    ['worker: 0\n', /worker\.yaml:1: workers/],
    ['worker: [\n', /worker\.yaml:\d/],
    ['worker: 5\nworkers: 3\n', /worker: 5 of 3 workers/],
    ['worker: 0\nworkers: 3\ntopology: { edges: [[0, 4]] }\n', /edge 0–4 joins no two of 3 workers/],
    ['worker: 0\nworkers: 2\naverage: { planner: mpls, outer: diloco }\n', /average\.outer: .*leave out planner/],
  ];
  for (const [text, message] of cases) {
    await writeFile(file, text);
    assert.throws(() => readWorkerConfig(file), { code: 'usage', message }, text);
  }
  assert.throws(() => readWorkerConfig(join(folder, 'no.yaml')), {
    code: 'bad-file',
    message: /no\.yaml cannot be read/,
  });
});

test('serve: a server takes no --config, and a worker no --stage', async (t) => {
  const folder = await scratch(t);
  const file = join(folder, 'worker.yaml');
  await mkdir(folder, { recursive: true });
  await writeFile(file, 'worker: 0\nworkers: 3\n');
  assertRefused(await runNode(SERVE), 2, /--stage .*front\.0\.0\.0/, /--worker --config FILE/);
  assertRefused(await runNode([...SERVE, '--config', file]), 2, /--config and --out are those of a worker/, /--worker/);
  assertRefused(await runNode([...SERVE, '--stage', 'front.0.0.0', '--out', 'm']), 2, /those of a worker/, /--worker/);
  assertRefused(await runNode([...SERVE, '--worker', '--config', file, '--stage', 'front.0.0.0']), 2, /--stage, --model and --layers are those of a server/, /Leave them out/); // prettier-ignore
});

test('config generate --help shows its options and examples', async () => {
  const { code, stdout } = await generate('--help');
  assert.equal(code, 0);
  assert.match(stdout, /\nExamples:\n {2}\$ skein config generate --workers 3/);
  for (const option of ['--topology', '--method', '--partition', '--from', '--force']) assert.ok(stdout.includes(option)); // prettier-ignore
});
