// What `npm test` runs: the check, then every test file in a process of its own. Arguments select files by a part of their path
// (then without the check). The last line is `N passed, N failed`; the exit code is 0 only if something ran and nothing failed.
import { globSync } from 'node:fs';
import { delimiter, join, relative } from 'node:path';
import process from 'node:process';
import { Readable } from 'node:stream';
import { run } from 'node:test';
import { spec } from 'node:test/reporters';
import { fileURLToPath } from 'node:url';
import { check } from './check.ts';

type TestEvent = { type: string; data: unknown };
type Outcome = {
  name: string;
  file?: string;
  skip?: string | boolean;
  todo?: string | boolean;
  details?: { type?: string };
};

type Summary = { file?: string; duration_ms: number };

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const WATCHDOG = new URL('support/watchdog.ts', import.meta.url).href;
const TEST_TIMEOUT_MS = 180_000;
/** Files that start many processes of their own, and so run one at a time after the others. */
const SERIAL = /^test\/(e2e|chaos)\/|\.serial\.test\.ts$/;

const filters = process.argv.slice(2);
const files = globSync('test/**/*.test.ts', { cwd: ROOT })
  .map((file) => file.replaceAll('\\', '/'))
  .filter((file) => filters.length === 0 || filters.some((filter) => file.includes(filter)))
  .sort();

const tally = { passed: 0, failed: 0, skipped: [] as string[] };
const seconds = new Map<string, number>();

function count(type: string, { name, file, skip, todo, details }: Outcome): void {
  if (details?.type === 'suite') return;
  const where = file === undefined ? name : `${file.replace(ROOT, '')}: ${name}`;
  if (type === 'test:fail') tally.failed++;
  else if (skip !== undefined || todo !== undefined)
    tally.skipped.push(
      `${where} (${[skip, todo].find((reason) => typeof reason === 'string' && reason !== '') ?? 'no reason given'})`,
    );
  // node:test reports a file that holds no tests as one that passed, under the file's own name.
  else if (name === file) {
    tally.failed++;
    console.error(`${where} holds no tests`);
  } else tally.passed++;
}

function time({ file, duration_ms: ms }: Summary): void {
  if (file !== undefined) seconds.set(relative(ROOT, file), ms / 1000);
}

/** Events of both rounds as one stream; the figures at the end of each are ours to give. */
async function* results(): AsyncGenerator<TestEvent> {
  const rounds = [
    { files: files.filter((file) => !SERIAL.test(file)), concurrency: 2 },
    { files: files.filter((file) => SERIAL.test(file)), concurrency: 1 },
  ];
  for (const round of rounds) {
    if (round.files.length === 0) continue;
    const events = run({
      files: round.files.map((file) => join(ROOT, file)),
      cwd: ROOT,
      concurrency: round.concurrency,
      isolation: 'process',
      timeout: TEST_TIMEOUT_MS,
      execArgv: ['--import', WATCHDOG, '--test-force-exit'],
    });
    for await (const event of events as AsyncIterable<TestEvent>) {
      if (event.type === 'test:summary') time(event.data as Summary);
      if (event.type === 'test:pass' || event.type === 'test:fail') count(event.type, event.data as Outcome);
      const isFigure = event.type === 'test:summary' || (event.type === 'test:diagnostic' && !isOfFile(event.data));
      if (!isFigure) yield event;
    }
  }
}

const isOfFile = (data: unknown): boolean => typeof data === 'object' && data !== null && 'file' in data;

const started = performance.now();
// Whatever a test starts by the name `node` runs on the Node that runs this file.
process.env.PATH = [join(ROOT, 'node_modules/.bin'), process.env.PATH ?? ''].join(delimiter);

const failedChecks = filters.length === 0 ? await check() : [];
if (filters.length > 0) console.log(`${files.length} test files match ${filters.join(', ')}; the check is left out`);
tally.failed += failedChecks.length;
await new Promise<void>((resolve, reject) => {
  const lines = Readable.from(results()).compose(new spec());
  lines.on('end', resolve).on('error', reject).pipe(process.stdout, { end: false });
});

const { passed, failed, skipped } = tally;
const tail: string[] = [];
if (failedChecks.length > 0) tail.push(`check failed: ${failedChecks.join(', ')}`);
for (const skip of skipped) tail.push(`skipped: ${skip}`);
if (passed + failed === 0) tail.push('no tests ran');
const slowest = [...seconds].sort(([, a], [, b]) => b - a).slice(0, 10);
if (filters.length === 0)
  tail.push(`slowest: ${slowest.map(([file, taken]) => `${file} ${taken.toFixed(0)} s`).join(', ')}`);
tail.push(`${((performance.now() - started) / 1000).toFixed(1)} s in all`);
tail.push(`${passed} passed, ${failed} failed${skipped.length > 0 ? `, ${skipped.length} skipped` : ''}`);
process.stdout.write(`${tail.join('\n')}\n`, () => process.exit(passed > 0 && failed === 0 ? 0 : 1));
