// What a person does wrong on the command line is answered with what it is and what to do, and with the exit code for it:
// 0 good, 1 failed, 2 usage, 3 no GPU, 4 unreachable or not authorised. No run is driven here (see runs.serial.test.ts).
import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { after, before } from 'node:test';
import { assertRefused, runNode } from '../support/cli.ts';
import { startMesh, TOKEN } from '../support/mesh.ts';

const SERVE = 'node/serve.ts';
const TRAIN = 'node/train.ts';
const NOBODY = `http://127.0.0.1:9/#token=${TOKEN}`; // discard, a port that no one listens on here
const NO_GPU = { VK_DRIVER_FILES: '/nonexistent', VK_ICD_FILENAMES: '/nonexistent' };

let scratch = '';
before(async () => {
  scratch = await mkdtemp(join(tmpdir(), 'skein-errors-'));
});
after(() => rm(scratch, { recursive: true, force: true }));

const CLI = 'node/cli.ts';
const COMMANDS = [[SERVE], [TRAIN], ['node/start.ts'], ['signaling/main.ts'], [CLI, 'serve'], [CLI, 'train'], [CLI, 'step']]; // prettier-ignore
for (const command of COMMANDS)
  test(`${command.join(' ')} --help shows examples`, async () => {
    const { code, stdout, stderr } = await runNode([...command, '--help']);
    assert.equal(code, 0, stderr);
    assert.match(stdout, /^Usage: /);
    assert.match(stdout, /\nExamples:\n {2}\$ \S/);
    assert.match(stdout, /--json/);
    assert.match(stdout, /\(env: SKEIN_/);
    assert.equal(stderr, '');
  });

test('the command line names its commands', async () => {
  const { code, stdout } = await runNode([CLI, '--help']);
  assert.equal(code, 0);
  for (const name of ['serve', 'train', 'step']) assert.match(stdout, new RegExp(`^ {2}${name} `, 'm'));
  const wrong = await runNode([CLI, 'trian']);
  assert.equal(wrong.code, 2);
  assert.match(wrong.stderr, /unknown command 'trian'\n\(Did you mean train\?\)/);
});

for (const command of COMMANDS)
  test(`${command.join(' ')} knows what was meant by a misspelt option`, async () => {
    const { code, stderr } = await runNode([...command, '--jsno']);
    assert.equal(code, 2);
    assert.match(stderr, /unknown option '--jsno'\n\(Did you mean --json\?\)/);
  });

for (const uid of ['front.0.0', 'front', 'Front.0.0.0', 'front.0.0.0.0', 'front.-1.0.0', 'front.00.0.0', 'a b.0.0.0'])
  test(`serve --stage "${uid}" is no UID`, async () => {
    const ended = await runNode([SERVE, '--join', NOBODY, '--stage', uid]);
    assertRefused(ended, 2, new RegExp(`"${uid}" is not a stage UID`), /front\.0\.1\.0/);
  });

test('serve takes each UID once, and at least one', async () => {
  const twice = await runNode([SERVE, '--join', NOBODY, '--stage', 'front.0.0.0', '--stage', 'front.0.0.0']);
  assertRefused(twice, 2, /--stage .*each stage UID once/, /--help/);
  assertRefused(await runNode([SERVE, '--join', NOBODY]), 2, /--stage .*front\.0\.0\.0/, /--help/);
});

test('a join link is needed, and must be one', async () => {
  for (const [script, ...more] of [[SERVE, '--stage', 'front.0.0.0'], [TRAIN]] as const) {
    assertRefused(await runNode([script, ...more]), 2, /--join \(or SKEIN_JOIN\): is needed/, /--help/);
    const link = await runNode([script, ...more, '--join', 'localhost:50000']);
    assertRefused(link, 2, /not a join link/, /single quotes/);
    const bare = await runNode([script, ...more], { SKEIN_JOIN: 'http://localhost:50000/' });
    assertRefused(bare, 2, /localhost:50000 has no token/, /#token=/);
  }
});

test('other options are checked', async () => {
  const serve = [SERVE, '--join', NOBODY, '--stage', 'front.0.0.0'];
  assertRefused(await runNode([...serve, '--port', '70000']), 2, /--port .*65535/, /--help/);
  assertRefused(await runNode([...serve, '--transports', 'pigeon']), 2, /--transports .*tcp/, /--help/);
  assertRefused(await runNode([...serve, '--layers', '0:1']), 2, /go together/, /both/);
  const model = join(scratch, 'model.json');
  await writeFile(model, '{"family":"mlp","sizes":[784,64,10]}');
  assertRefused(await runNode([...serve, '--model', model, '--layers', '1']), 2, /--layers .*FROM:TO/, /--help/);
  assertRefused(await runNode([...serve, '--model', model, '--layers', '1:3']), 2, /Layers 1 to 3 .* 2 layers/, /<= 2/);
  await writeFile(join(scratch, 'bad.json'), '{"family":"mlp"');
  const bad = await runNode([...serve, '--model', join(scratch, 'bad.json'), '--layers', '0:1']);
  assertRefused(bad, 2, /bad\.json is not a model spec/, /"family":"mlp"/);
  assertRefused(await runNode([TRAIN, '--join', NOBODY, '--mode', 'both']), 2, /--mode .*sync/, /--help/);
  assertRefused(await runNode([TRAIN, '--join', NOBODY, '--epochs', '0']), 2, /--epochs/, /--help/);
});

test('nobody listens at the join link', async () => {
  const serve = await runNode([SERVE, '--join', NOBODY, '--stage', 'front.0.0.0', '--port', '0']);
  assertRefused(serve, 4, /127\.0\.0\.1:9 cannot be reached/, /signaling\/main\.ts/);
  assertRefused(
    await runNode([TRAIN, '--join', NOBODY, '--port', '0']),
    4,
    /127\.0\.0\.1:9 cannot be reached/,
    /signaling\/main\.ts/,
  );
});

test('without a GPU nothing is served and no step is run', async () => {
  const serve = await runNode([SERVE, '--join', NOBODY, '--stage', 'front.0.0.0', '--port', '0'], NO_GPU);
  assertRefused(serve, 3, /GPU/, /\w/);
});

const CONFIGS: [what: string, text: string, error: RegExp][] = [
  ['an unknown key', 'epochs: 2\nepoch: 3\n', /run\.yaml:2: .*epoch/],
  ['an unknown key further down', 'optimizer:\n  name: sgd\n  lr: 0.1\n  beta: 1\n', /run\.yaml:4: .*beta/],
  ['a value of the wrong type', 'batch: 64\nmicrobatch: many\n', /run\.yaml:2: microbatch: .*number/],
  ['a value out of range', 'data: mnist\n\nepochs: 0\n', /run\.yaml:3: epochs: /],
  [
    'an element of the wrong type',
    'model:\n  family: mlp\n  sizes:\n    - 784\n    - wide\n',
    /run\.yaml:5: model\.sizes\.1: /,
  ],
  ['an unknown policy', 'policy: some\n', /run\.yaml:1: policy: .*disjoint/],
  ['a key that is missing', 'seed: 1\noptimizer:\n  name: sgd\n', /run\.yaml:2: optimizer\.lr: /],
  ['bad YAML', 'batch: 64\nmodel: {family: mlp\nepochs: 1\n', /run\.yaml:\d+: \w/],
  ['a key twice', 'batch: 64\nbatch: 32\n', /run\.yaml:2: .*unique/],
  ['an alias to nothing', 'batch: 64\nmodel: *base\n', /run\.yaml:\d+: .*base/],
  ['a list', '- batch\n- 64\n', /run\.yaml:1: the document: /],
  ['an unknown data set', 'data: mnits\n', /run\.yaml:1: data: .*mnist/],
  ['a stage name that is none', 'stages: [front, Back]\n', /run\.yaml:1: stages\.1: .*a-z/],
  ['a microbatch beyond the batch', 'batch: 16\nmicrobatch: 32\n', /microbatch 32 is larger than batch 16/],
  ['more stages than layers', 'stages: [a, b, c]\n', /2 layers .*3 stages/],
  ['layers that do not add up', 'stages: [{ name: a, layers: 2 }, b]\n', /2 layers .*2 stages/],
  ['a stage twice', 'stages: [front, front]\n', /occurs twice/],
];
for (const [what, text, error] of CONFIGS)
  test(`a configuration with ${what}`, async () => {
    const folder = await mkdtemp(join(scratch, 'config-'));
    const file = join(folder, 'run.yaml');
    await writeFile(file, text);
    assertRefused(await runNode([TRAIN, '--join', NOBODY, '--config', file]), 2, error, /\w/);
  });

test('files that are not there, or cannot be', async () => {
  const train = [TRAIN, '--join', NOBODY];
  assertRefused(await runNode([...train, '--config', '/nonexistent.yaml']), 2, /nonexistent\.yaml/, /--config/);
  assertRefused(await runNode([...train, '--out', '/dev/null/m']), 2, /\/dev\/null\/m cannot be written/, /folder/);
  const out = join(scratch, 'm.safetensors');
  const log = await runNode([...train, '--out', out, '--log', '/nonexistent/run.jsonl']);
  assertRefused(log, 2, /\/nonexistent\/run\.jsonl cannot be written/, /folder/);
});

test('a model that does not fit the data', async () => {
  const file = join(scratch, 'narrow.yaml');
  await writeFile(file, 'model: { family: mlp, sizes: [100, 10] }\nstages: [front]\n');
  const ended = await runNode([TRAIN, '--join', NOBODY, '--config', file]);
  assertRefused(ended, 2, /maps 100 to 10; .*784 features and 10 classes/, /model\.sizes/);
});

test('a wrong token, a UID that is held, a port that is taken', async (t) => {
  const mesh = await startMesh(t);
  const wrong = mesh.joinUrl.replace(TOKEN, 'another-token-0123456789');
  for (const args of [[SERVE, '--stage', 'front.0.0.0'], [TRAIN]]) {
    const ended = await runNode([...args, '--join', wrong, '--port', '0']);
    assertRefused(ended, 4, /token/, /link/);
    assert.doesNotMatch(ended.stderr, /another-token/, 'tokens are not repeated');
  }

  const blocker = net.createServer();
  t.after(() => blocker.close());
  await new Promise<void>((resolve) => blocker.listen(0, '127.0.0.1', resolve));
  const address = blocker.address();
  const taken = address !== null && typeof address === 'object' ? address.port : 0;
  const holder = mesh.serve(['front.0.0.0'], '--port', String(taken));
  const moved = await holder.event('port.moved');
  assert.equal(moved.wanted, taken);
  const ready = await holder.event('stage.ready');
  assert.equal(ready.port, moved.port);
  assert.notEqual(ready.port, taken);

  const second = await runNode([SERVE, '--join', mesh.joinUrl, '--port', '0', '--stage', 'back.0.0.0', 'front.0.0.0']);
  assertRefused(second, 1, /front\.0\.0\.0 is hosted by .* already/, /--stage front\.0\.1\.0/);
  await mesh.monitor.event('record.removed', (event) => event.name === 'back.0.0.0', 1_000);
});
