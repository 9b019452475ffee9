// npm run bench -- transformer: GPT-2 models of random weights against PyTorch on the CPU of the same machine, by turns in one
// run, and what our kernels reach of the adapter's peaks (roofline.ts). The ratios are what travels between machines.
import { availableParallelism } from 'node:os';
import { installDawnPacing } from '../../node/dawn-pacing.ts';
import { platform } from '../../node/platform.ts';
import type { ComputeEngine } from '../../runtime/compute-engine.ts';
import { createCompute } from '../../runtime/compute-engine.ts';
import { MeshError } from '../../runtime/errors.ts';
import { benchRoofline, rooflineGroups, showRoofline, type Roofline } from './roofline.ts';
import { MODEL_GROUPS, selectedGroups, type Measurement, type ModelGroup } from './transformer/measurements.ts';
import { openModel, type Budget, type Call } from './transformer/ours.ts';
import { isReferenceBlas, runTorch, torchMissing, type TorchLine } from './transformer/torch.ts';

const ROUNDS = 2;
const BUDGET: Budget = { repeats: 6, maxMs: 3000 };
const QUICK: Budget = { repeats: 2, maxMs: 1000 };

interface Times {
  bestMs: number;
  medianMs: number;
}

interface Ours extends Times {
  tokensPerSecond: number;
  /** The least that this process took of its processors for a call: on a software adapter all work, however busy the machine is. */
  processorMs: number;
}

interface Torch extends Times {
  /** As PyTorch chose it where `isDefault`. */
  threads: number;
  isDefault: boolean;
}

interface Row extends Measurement {
  ours: Ours;
  torch: Torch[];
  /** PyTorch's best time, of any number of threads, over ours. */
  ratio?: number;
  reachesFloor?: boolean;
  reachesStretch?: boolean;
}

interface TransformerBench {
  benchmark: 'transformer';
  device: string;
  method: string;
  /** coreType: what OPENBLAS_CORETYPE restricts OpenBLAS to. */
  torch:
    { version: string; blas: string; isReferenceBlas: boolean; coreType: string | null } | { missing: string } | null;
  results: Row[];
  roofline?: Roofline;
}

interface Options {
  rounds: number;
  budget: Budget;
  only: readonly string[];
  isQuick: boolean;
}

export function transformerOptions(values: { rounds?: unknown; only?: unknown; quick?: unknown }): Options {
  const isQuick = values.quick === true;
  const rounds = typeof values.rounds === 'string' ? Number(values.rounds) : isQuick ? 1 : ROUNDS;
  if (!Number.isInteger(rounds) || rounds < 1)
    throw new MeshError('usage', `--rounds is ${String(values.rounds)}.`, 'Give a whole number of at least 1.');
  const only = typeof values.only === 'string' ? values.only.split(',') : [];
  const names = [
    ...MODEL_GROUPS.flatMap(({ measurements }) => measurements.map(({ name }) => name)),
    'roofline',
    ...rooflineGroups,
  ];
  for (const part of only)
    if (part === '' || !names.some((name) => name.startsWith(part)))
      throw new MeshError('usage', `Nothing begins with "${part}".`, `Give the beginnings of: ${names.join(', ')}.`);
  return { rounds, only, isQuick, budget: isQuick ? QUICK : BUDGET };
}

export async function benchTransformer({ rounds, only, isQuick, budget }: Options): Promise<TransformerBench> {
  installDawnPacing();
  const groups = selectedGroups(only);
  const missing = groups.length === 0 ? null : await torchMissing();
  const lines: TorchLine[] = [];
  const results: Row[] = [];
  const engine = createCompute(platform);
  let device: string;
  try {
    device = (await engine.compute.describe()).description;
    for (const group of groups) {
      say(`${group.name}: opening`);
      const found = await duel(engine, group, missing === null, rounds, budget);
      lines.push(...found.lines);
      results.push(...found.rows);
    }
  } finally {
    await engine.stop();
  }
  const [line] = lines;
  const kernels = only.includes('roofline') ? [] : only;
  const wantsRoofline = kernels.length === 0 || rooflineGroups.some((name) => startsWithAny(name, kernels));
  return {
    benchmark: 'transformer',
    device,
    method:
      `wall clock of one call in this process after two others, best and median; ours and PyTorch by turns, ${rounds} rounds, never ` +
      'both at once; the same ids in shape and count, random weights, no dropout, loss over every position, AdamW over all ' +
      'parameters; ratio: the best time of PyTorch, with as many threads as it takes by itself or one (every core where it takes one), over our best',
    torch:
      missing !== null
        ? { missing }
        : line === undefined
          ? null
          : {
              version: line.torch,
              blas: line.blas,
              isReferenceBlas: isReferenceBlas(line.blas),
              coreType: process.env.OPENBLAS_CORETYPE ?? null,
            },
    results,
    ...(wantsRoofline ? { roofline: await benchRoofline(kernels, isQuick) } : {}),
  };
}

const startsWithAny = (name: string, parts: readonly string[]): boolean => parts.some((part) => name.startsWith(part));

/** All rounds of one model: ours, PyTorch with as many threads as it takes by itself, PyTorch with one, and again. */
async function duel(
  { compute }: ComputeEngine,
  group: ModelGroup,
  hasTorch: boolean,
  rounds: number,
  budget: Budget,
): Promise<{ rows: Row[]; lines: TorchLine[] }> {
  const model = await openModel(compute, group);
  const calls = new Map<string, Call[]>(group.measurements.map(({ name }) => [name, []]));
  const lines: TorchLine[] = [];
  const defaults: TorchLine[] = [];
  const names = group.measurements.map((measurement) => measurement.torchName ?? measurement.name);
  // One measurement needs no more of PyTorch than itself.
  const wanted = new Set(names).size === 1 ? (names[0] ?? group.name) : group.name;
  try {
    for (let round = 0; round < rounds; round++) {
      for (const measurement of group.measurements) {
        const found = await model.measure(measurement, budget);
        calls.get(measurement.name)?.push(...found);
        say(`  ${measurement.name}: ours ${Math.min(...found.map(({ ms }) => ms)).toFixed(1)} ms`);
      }
      if (!hasTorch) continue;
      for (const isDefault of [true, false]) {
        // Where one thread is PyTorch's own choice, the other try is every core.
        const other = defaults[0]?.threads === 1 ? availableParallelism() : 1;
        const line = await runTorch(wanted, isDefault ? null : other, budget.repeats);
        lines.push(line);
        if (isDefault) defaults.push(line);
        for (const { name, bestMs } of line.results) say(`  ${name}: PyTorch, ${line.threads} thread(s) ${bestMs} ms`);
      }
    }
  } finally {
    await model.close();
  }
  const rows = group.measurements.map((measurement) => {
    const ofTorch = [defaults, lines.filter((line) => !defaults.includes(line))].flatMap((some, i) =>
      torchTimes(some, measurement, i === 0),
    );
    return rowOf(measurement, calls.get(measurement.name) ?? [], ofTorch);
  });
  return { rows, lines };
}

/** Of several rounds the best time, and the best of their medians. */
function torchTimes(lines: readonly TorchLine[], measurement: Measurement, isDefault: boolean): Torch[] {
  const name = measurement.torchName ?? measurement.name;
  const found = lines.flatMap(({ results }) => results.filter((result) => result.name === name));
  const [line] = lines;
  if (line === undefined || found.length === 0) return [];
  if (found.some(({ batch, tokens }) => batch !== measurement.batch || tokens !== measurement.tokens))
    throw new Error(`${name} is of another size in transformer_torch.py`);
  const bestMs = Math.min(...found.map((result) => result.bestMs));
  const medianMs = Math.min(...found.map((result) => result.medianMs));
  return [{ threads: line.threads, isDefault, bestMs, medianMs }];
}

function rowOf(measurement: Measurement, calls: readonly Call[], torch: Torch[]): Row {
  const sorted = calls.map(({ ms }) => ms).toSorted((a, b) => a - b);
  const best = sorted[0] ?? Number.NaN;
  const ours = {
    bestMs: round(best),
    medianMs: round(sorted[sorted.length >> 1] ?? Number.NaN),
    tokensPerSecond: round((1000 * measurement.batch * measurement.tokens) / best),
    processorMs: round(Math.min(...calls.map(({ processorMs }) => processorMs))),
  };
  if (torch.length === 0) return { ...measurement, ours, torch };
  const ratio = round(Math.min(...torch.map(({ bestMs }) => bestMs)) / best);
  const { floor, stretch } = measurement;
  return {
    ...measurement,
    ours,
    torch,
    ratio,
    ...(floor === undefined ? {} : { reachesFloor: ratio >= floor }),
    ...(stretch === undefined ? {} : { reachesStretch: ratio >= stretch }),
  };
}

/** For people: a line each. */
export function showTransformer({ device, method, torch, results, roofline }: TransformerBench): string {
  const lines = [device, method, ''];
  if (torch !== null)
    lines.push(
      'missing' in torch
        ? `no PyTorch: ${torch.missing}`
        : `PyTorch ${torch.version} on ${torch.blas}${torch.isReferenceBlas ? ': THE REFERENCE BLAS, some 20 times slower than OpenBLAS; the ratios say nothing' : ''}`,
    );
  for (const { name, precision, ours, torch: theirs, ratio, floor, stretch, reachesFloor } of results) {
    const others = theirs.map(({ threads, bestMs, medianMs }) => `${bestMs} (${medianMs}) with ${threads}`).join(', ');
    const goals = [floor === undefined ? '' : `floor ${floor}`, stretch === undefined ? '' : `stretch ${stretch}`];
    const judged = goals.filter((goal) => goal !== '').join(', ');
    lines.push(
      `${name.padEnd(28)} ${precision.padEnd(4)} ${ours.bestMs} ms (median ${ours.medianMs}, processor ${ours.processorMs}), ${ours.tokensPerSecond} tokens/s` +
        (ratio === undefined ? '' : `; PyTorch ${others} thread(s): ${ratio}×`) +
        (judged === '' ? '' : ` [${judged}]${reachesFloor === false ? ' BELOW' : ''}`),
    );
  }
  if (roofline !== undefined) lines.push('', showRoofline(roofline));
  return lines.join('\n');
}

const say = (text: string): void => void process.stderr.write(`${text}\n`);
const round = (value: number): number => Math.round(value * 100) / 100;
