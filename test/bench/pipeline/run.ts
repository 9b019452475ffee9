// The two contestants of the pipeline benchmark, each a run of its own in processes that are pinned to a core.
import { readFileSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { startMesh } from '../../support/mesh.ts';
import { ROOT, start, type Running } from '../../support/processes.ts';

const RUN_MS = 400_000;
/** Linux counts processor time in hundredths of a second. */
const TICK_MS = 10;

export interface Rate {
  rowsPerSecond: number;
  finalLoss: number;
}

export interface AloneRate extends Rate {
  cpuMs: number;
}

export interface PipelineRate extends Rate {
  /** For a row, by process. */
  cpuMs: Record<string, number>;
  /** By stage. */
  idle: Record<string, number>;
  transports: string[];
}

/** A script of this project on one core. */
const pinned = (core: number, script: string, ...args: string[]): Running =>
  start('taskset', ['-c', String(core), process.execPath, script, ...args], { env: { LP_NUM_THREADS: '1' } });

export async function alone(config: Record<string, unknown>, warmSteps: number, batch: number): Promise<AloneRate> {
  const running = pinned(0, join(ROOT, 'test/bench/pipeline/one-process.ts'), JSON.stringify(config));
  await running.exit;
  const rows = (Number(config.maxSteps) - warmSteps) * batch;
  const steps = running.all('step.applied') as unknown as (Step & { cpuMs: number })[];
  const cpuMs = (steps.at(-1)?.cpuMs ?? NaN) - (steps[warmSteps - 1]?.cpuMs ?? NaN);
  return { ...rateOf(running, steps, warmSteps, batch), cpuMs: round3(cpuMs / rows) };
}

export async function pipelined(
  config: Record<string, unknown>,
  warmSteps: number,
  batch: number,
): Promise<PipelineRate> {
  const endings: (() => Promise<unknown>)[] = [];
  const keep = (running: Running): Running => {
    endings.unshift(() => running.kill());
    return running;
  };
  try {
    const mesh = await startMesh({ after: (work) => endings.unshift(work) });
    const common = ['--json', '--join', mesh.joinUrl, '--port', '0', '--transports', 'tcp'];
    const servers = ['front', 'back'].map((name, core) => ({
      name,
      running: keep(pinned(core, 'node/serve.ts', ...common, '--stage', `${name}.0.0.0`)),
    }));
    for (const { running } of servers) await running.event('stage.ready', () => true, RUN_MS);
    const [file, log, out] = ['run.yaml', 'run.jsonl', 'model.safetensors'].map((name) => join(mesh.directory, name));
    await writeFile(file ?? '', JSON.stringify(config));
    const files = ['--config', file ?? '', '--log', log ?? '', '--out', out ?? ''];
    const client = keep(pinned(0, 'node/train.ts', ...common, ...files));
    const all = [...servers, { name: 'client', running: client }];
    await applied(client, warmSteps - 1);
    const before = all.map(({ running }) => cpuMsOf(running));
    const reported = servers.map(({ running }) => running.all('stage.stats').length);
    await applied(client, Number(config.maxSteps) - 1);
    const rows = (Number(config.maxSteps) - warmSteps) * batch;
    const cpuMs = all.map(({ name, running }, i) => [name, round3((cpuMsOf(running) - (before[i] ?? 0)) / rows)]);
    // The second in which they began is not wholly theirs.
    const idle = servers.map(({ name, running }, i) => {
      const shares = running.all('stage.stats').slice((reported[i] ?? 0) + 1);
      return [name, round3(shares.reduce((sum, { idleShare = 0 }) => sum + idleShare, 0) / shares.length)];
    });
    await client.exit;
    const lines = (await readFile(log ?? '', 'utf8')).trim().split('\n');
    const events = lines.map((line) => JSON.parse(line) as { kind: string; transport?: string });
    const steps = events.filter((event) => event.kind === 'step.applied') as unknown as Step[];
    const transports = events.flatMap(({ kind, transport }) => (kind === 'link.up' && transport ? [transport] : []));
    return {
      ...rateOf(client, steps, warmSteps, batch),
      cpuMs: Object.fromEntries(cpuMs) as Record<string, number>,
      idle: Object.fromEntries(idle) as Record<string, number>,
      transports: [...new Set(transports)],
    };
  } finally {
    for (const end of endings) await end();
  }
}

/** A step.applied event with the time at which it was written. */
interface Step {
  time: number;
  loss: number;
}

const applied = (running: Running, step: number): Promise<unknown> =>
  running.event('step.applied', (event) => event.step === step, RUN_MS);

function rateOf(running: Running, steps: readonly Step[], warmSteps: number, batch: number): Rate {
  const first = steps[warmSteps - 1];
  const last = steps.at(-1);
  if (!first || !last || first === last)
    throw new Error(`the run took only ${steps.length} steps: ${running.stderr()}`);
  const seconds = (last.time - first.time) / 1_000;
  return { rowsPerSecond: round3(((steps.length - warmSteps) * batch) / seconds), finalLoss: last.loss };
}

/** Processor time of a process, user and system, all its threads. */
function cpuMsOf({ pid }: Running): number {
  const [user = 0, system = 0] = (readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1] ?? '').split(' ').slice(11, 13).map(Number); // prettier-ignore
  return (user + system) * TICK_MS;
}

export const round3 = (value: number): number => Math.round(value * 1_000) / 1_000;
