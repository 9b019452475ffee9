// `skein simulate` runs a small simulation on MNIST, writes what it says, and names what is wrong.
import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { after, before } from 'node:test';
import { assertRefused, runNode } from '../support/cli.ts';

let folder = '';
let small = '';
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'skein-simulate-'));
  small = join(folder, 'small.yaml');
  const lines = ['workers: 6', 'seconds: 20', 'sampleSeconds: 10', 'seeds: [1]', 'targets: [0.1]'];
  await writeFile(small, [...lines, 'learning: { rows: 600, testRows: 100, hidden: 8, pool: 4 }', ''].join('\n'));
});
after(() => rm(folder, { recursive: true, force: true }));

const simulate = (...args: string[]) => runNode(['node/cli.ts', 'simulate', ...args]);

test('compares two systems, tells both outputs, and writes the same files for the same seed', async () => {
  const [first, second] = [join(folder, 'a'), join(folder, 'b')];
  const args = ['--config', small, '--systems', 'mpls,appg,local-only', '--json'];
  const ended = await simulate(...args, '--out', first);
  assert.equal(ended.code, 0, ended.stderr);
  const progress = ended.events.filter(({ kind }) => kind === 'simulate.progress');
  assert.equal(progress.length, 5);
  const done = ended.events.find((event) => event.kind === 'simulate.done');
  assert.ok(done && done.runs === 5 && done.reference === 'mpls' && done.out === first);
  assert.deepEqual(
    done.comparisons.map(({ system, network }) => `${system} ${network}`),
    ['paper', 'access'].flatMap((network) => ['mpls', 'appg', 'local-only'].map((system) => `${system} ${network}`)),
  );
  assert.match(ended.stderr, /1\/5 {2}/);
  assert.equal((await simulate(...args, '--out', second)).code, 0);
  for (const name of ['simulation.json', 'report.md', 'accuracy-paper.svg', 'accuracy-access.svg'])
    assert.equal(await readFile(join(second, name), 'utf8'), await readFile(join(first, name), 'utf8'), name);
  const svg = await readFile(join(first, 'accuracy-paper.svg'), 'utf8');
  assert.match(svg, /^<svg /);
  assert.match(svg, /virtual seconds/);
  assert.equal(svg.match(/<polyline/g)?.length, 5); // nobody's line against bytes where nothing is sent
});

test('prints a report for people', async () => {
  const ended = await simulate('--config', small, '--systems', 'mpls', '--network', 'access');
  assert.equal(ended.code, 0, ended.stderr);
  assert.match(ended.stdout, /^# Simulation\n/);
  assert.match(ended.stdout, /## Network `access`/);
  assert.doesNotMatch(ended.stdout, /## Network `paper`/);
});

test('plans alone', async () => {
  const ended = await simulate('--config', small, '--plans', '--systems', 'mpls,appg', '--network', 'paper', '--json');
  assert.equal(ended.code, 0, ended.stderr);
  const { figures } = JSON.parse(ended.stdout) as { figures: { system: string; plansPerSecond: number }[] };
  assert.deepEqual(figures.map(({ system }) => system), ['mpls', 'appg']); // prettier-ignore
  assert.ok(figures.every(({ plansPerSecond }) => plansPerSecond > 0));
});

test('says what is wrong, and where', async () => {
  const file = join(folder, 'wrong.yaml');
  await writeFile(file, 'workers: 6\nlearning:\n  row: 5\n');
  assertRefused(await simulate('--config', file), 2, /wrong\.yaml:3: learning\.row/, /line/);
  await writeFile(file, 'workers: 6\nsystems:\n  - mpls\n  - fedprox\n');
  assertRefused(await simulate('--config', file), 2, /wrong\.yaml:4: systems\.1.*fedprox/, /line/);
  assertRefused(await simulate('--config', join(folder, 'none.yaml')), 2, /none\.yaml cannot be read/, /--config/);
  assertRefused(await simulate('--systems', 'mpls,nobody'), 2, /there is no system "nobody"/, /--help/);
  assertRefused(await simulate('--seeds', 'one'), 2, /--seeds/, /--help/);
  assertRefused(await simulate('--network', 'wifi'), 2, /--network/, /--help/);
  await writeFile(file, 'workers: 60\nlearning: { rows: 50 }\n');
  assertRefused(await simulate('--config', file, '--systems', 'mpls'), 2, /60 workers/, /./);
});
