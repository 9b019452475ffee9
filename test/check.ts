// What `npm run check` runs before every commit: format, lint, types, layers, kernels, length of files. One line a step;
// the output of a step is shown where it fails.
import { spawn } from 'node:child_process';
import { existsSync, globSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const FOLDERS = ['runtime', 'signaling', 'web', 'node', 'test'].filter((folder) => existsSync(join(ROOT, folder)));
const WARN_LINES = 300;
const MAX_LINES = 400;
const STEP_TIMEOUT_MS = 120_000;

interface Outcome {
  isGood: boolean;
  output: string;
}

interface Step {
  name: string;
  run: () => Promise<Outcome>;
}

/** Runs a script of an installed package under this Node. */
const tool = (script: string, ...args: string[]): Promise<Outcome> =>
  execute([join(ROOT, 'node_modules', script), ...args]);

function execute(args: string[]): Promise<Outcome> {
  return new Promise((resolve) => {
    const child = spawn(process.execPath, args, { cwd: ROOT, timeout: STEP_TIMEOUT_MS, killSignal: 'SIGKILL' });
    let output = '';
    const take = (chunk: Buffer): void => {
      output += chunk.toString();
    };
    child.stdout.on('data', take);
    child.stderr.on('data', take);
    child.once('error', (error) => resolve({ isGood: false, output: error.message }));
    child.once('close', (code, signal) => {
      const end = signal === null ? '' : `\nended by ${signal}`;
      resolve({ isGood: code === 0, output: output + end });
    });
  });
}

/** In a process of its own: a defect in a shader compiler may take its process down. */
async function kernels(): Promise<Outcome> {
  const file = join(ROOT, 'test/kernels/null-backend.ts');
  if (!existsSync(file)) return { isGood: false, output: 'test/kernels/null-backend.ts is missing.' };
  const program = `
    import { checkKernels } from ${JSON.stringify(file)};
    const failures = await checkKernels();
    for (const failure of failures) console.error(failure);
    process.exit(failures.length === 0 ? 0 : 1);`;
  return execute(['--input-type=module-typescript', '--eval', program]);
}

async function lengths(): Promise<Outcome> {
  const files = globSync(['{runtime,signaling,web,node,test}/**/*.{ts,tsx,mjs}', 'kernels/*.wgsl'], {
    cwd: ROOT,
    exclude: ['**/node_modules/**'], // the peers of `npm run bench -- compare`
  });
  const counted = files.map((file) => ({ file, lines: readFileSync(join(ROOT, file), 'utf8').split('\n').length - 1 }));
  const long = counted.filter(({ lines }) => lines > WARN_LINES).sort((a, b) => b.lines - a.lines);
  const lines = long.map(
    ({ file, lines }) => `  ${lines > MAX_LINES ? 'too long' : 'long'}: ${file} has ${lines} lines`,
  );
  const output =
    lines.length === 0 ? '' : `${lines.join('\n')}\n  (${WARN_LINES} is the aim, ${MAX_LINES} the limit)\n`;
  return { isGood: long.every(({ lines }) => lines <= MAX_LINES), output };
}

const STEPS: Step[] = [
  { name: 'format', run: () => tool('prettier/bin/prettier.cjs', '--check', '--log-level', 'warn', '.') },
  { name: 'types', run: () => tool('typescript/bin/tsc', '-p', '.') },
  { name: 'lint', run: () => tool('oxlint/bin/oxlint', '--type-aware') },
  {
    name: 'layers',
    run: () => tool('dependency-cruiser/bin/dependency-cruiser.mjs', ...FOLDERS, '--output-type', 'err'),
  },
  { name: 'kernels', run: kernels },
  { name: 'lengths', run: lengths },
];

/** Runs all steps, two at a time; resolves with the names of those that failed. */
export async function check(): Promise<string[]> {
  const failed: string[] = [];
  const waiting = STEPS.values();
  const lane = async (): Promise<void> => {
    for (const { name, run } of waiting) {
      const started = performance.now();
      const { isGood, output } = await run();
      const seconds = ((performance.now() - started) / 1000).toFixed(1);
      console.log(`check ${name.padEnd(8)} ${isGood ? 'ok' : 'FAILED'} (${seconds} s)`);
      if (!isGood) failed.push(name);
      // A step that is good and still says something about lengths warns; other tools' chatter is of no use then.
      if (!isGood || name === 'lengths') process.stdout.write(output === '' ? '' : output.trimEnd() + '\n');
    }
  };
  await Promise.all([lane(), lane()]);
  return failed;
}

if (import.meta.main) {
  const failed = await check();
  if (failed.length > 0)
    console.log(
      `check failed: ${failed.join(', ')}${failed.includes('format') ? ' (npm run format mends the format)' : ''}`,
    );
  process.exit(failed.length === 0 ? 0 : 1);
}
