// Ours beside what a user would pick instead, in one run on one machine: contenders take turns, round after round, each in a fresh
// page of the same Chromium on the same adapter, and ours in Node beside them. The ratios are what travels between machines.
import { cpus, loadavg } from 'node:os';
import { installDawnPacing } from '../../node/dawn-pacing.ts';
import { MeshError } from '../../runtime/errors.ts';
import {
  CASES,
  CONTENDERS,
  figure,
  ratios,
  type Case,
  type ContenderInfo,
  type Figures,
  type Ratio,
} from './compare/contenders.ts';
import { BATCH_MS, CASE_MS, MAX_STEPS, type Timing } from './compare/measure.ts';
import { installPeers } from './compare/peers.ts';
import { openNode, openPage, takeRound, type RoundRecorder } from './compare/run.ts';
import { launchChromium, serveSite } from './compare/site.ts';

const ROUNDS = 3;
const MAX_ROUNDS = 20;
/** After the peers are installed. */
const TOTAL_MS = 350_000;

const METHOD =
  `f32. Each round every contender gets a fresh page (Node: a fresh device), and each case goes from one to the next; the order rotates. A case is compiled and ` +
  `warmed up, then timed in batches of up to ${MAX_STEPS} steps or about ${BATCH_MS} ms, for about ${CASE_MS} ms a round; a batch ends in ` +
  `one readback or wait. Products: 2·n³ operations; ours is a · bᵀ (weights are stored so), the peers' a · b. Steps: forward, cross-entropy, ` +
  `backward and Adam (ours: AdamW) of the same samples; "ours" reads loss and gradient norm every step, "loop" reads the loss once a ` +
  `batch, as the peers do. Some entries of each product are checked, each loss has to fall. A ratio is the median of the rounds' ratios, each of medians.`;

export interface CompareOptions {
  rounds: number;
  /** Contenders by name; all where empty. */
  only: readonly string[];
}

export interface CompareResult {
  bench: 'compare';
  method: string;
  /** `load`: processes that want a core, averaged over a minute, before and after; what else runs here makes figures worse. */
  machine: { cpu: string; cores: number; load: number[]; node: string; chromium: string };
  rounds: { asked: number; done: number };
  seconds: number;
  versions: Record<string, string | null>;
  devices: Record<string, string>;
  units: { matmul: string; mlp: string };
  results: Figures;
  ratios: Ratio[];
  missing: { contender: string; size: string; reason: string }[];
}

/** Throws `usage` on an option that means nothing. */
export function compareOptions(given: { rounds?: unknown; only?: unknown }): CompareOptions {
  const rounds = given.rounds === undefined ? ROUNDS : Number(given.rounds);
  const only = given.only === undefined ? [] : String(given.only).split(',');
  const names = CONTENDERS.map(({ name }) => name);
  const unknown = only.filter((name) => !names.includes(name));
  if (!(Number.isInteger(rounds) && rounds >= 1 && rounds <= MAX_ROUNDS))
    throw new MeshError('usage', `--rounds is ${String(given.rounds)}.`, `Give a number from 1 to ${MAX_ROUNDS}.`);
  if (unknown.length > 0)
    throw new MeshError('usage', `--only names ${unknown.join(', ')}.`, `Choose among ${names.join(', ')}.`);
  return { rounds, only };
}

export async function benchCompare({ rounds, only }: CompareOptions): Promise<CompareResult> {
  const log = (line: string): void => console.error(`compare: ${line}`);
  const { versions, failure } = await installPeers(log);
  if (failure !== null) log(`the peers could not be installed: ${failure}`);
  const isThere = ({ packages }: ContenderInfo): boolean => packages.every((name) => versions[name] !== null);
  const startMs = performance.now();
  const loads = loadavg().slice(0, 1);
  const untilMs = startMs + TOTAL_MS;
  installDawnPacing();
  const stop = (): void => process.exit(130); // the browser and the built page go with the process
  process.once('SIGINT', stop).once('SIGTERM', stop);
  const chosen = CONTENDERS.filter(({ name }) => only.length === 0 || only.includes(name));
  const present = chosen.filter(isThere);
  const board = new Board(chosen);
  for (const info of chosen)
    if (!isThere(info)) board.absent(info, `not installed: ${failure ?? 'a package is missing'}`);
  const site = await serveSite();
  try {
    const browser = await launchChromium();
    try {
      const open = ({ name, host }: ContenderInfo): ReturnType<typeof openPage> =>
        host === 'node' ? openNode(name.endsWith('-loop')) : openPage(browser, site.url, name);
      let done = 0;
      let longestMs = 0;
      // Never a round that could not be finished: a contender with fewer turns than the others would have its luck.
      for (; done < rounds && performance.now() + longestMs < untilMs; done++) {
        const roundMs = performance.now();
        // A contender that is always the first, or always after the same one, would have its luck.
        const order = present
          .map((_, i) => present[(i + done * 2) % present.length])
          .filter((info) => info !== undefined);
        log(`round ${done + 1} of ${rounds}`);
        await takeRound(order, open, board.round(done), untilMs);
        longestMs = Math.max(longestMs, performance.now() - roundMs);
      }
      if (done < rounds) log(`only ${done} of ${rounds} rounds fit into ${TOTAL_MS / 1000} s`);
      return {
        bench: 'compare',
        method: METHOD,
        machine: {
          cpu: cpus()[0]?.model ?? '',
          cores: cpus().length,
          load: [...loads, ...loadavg().slice(0, 1)],
          node: process.version,
          chromium: browser.version(),
        },
        rounds: { asked: rounds, done },
        seconds: Math.round((performance.now() - startMs) / 1000),
        versions,
        units: { matmul: 'GF/s', mlp: 'ms a step' },
        ...board.outcome(),
      };
    } finally {
      await browser.close();
    }
  } finally {
    site.close();
    process.off('SIGINT', stop).off('SIGTERM', stop);
  }
}

/** What all rounds brought. */
class Board {
  readonly #chosen: readonly ContenderInfo[];
  /** By contender and case: one for each round. */
  readonly #timings = new Map<string, (Timing | null)[]>();
  readonly #failures = new Map<string, string>();
  readonly #devices: Record<string, string> = {};

  constructor(chosen: readonly ContenderInfo[]) {
    this.#chosen = chosen;
  }

  absent({ name, kinds }: ContenderInfo, reason: string): void {
    for (const each of CASES) if (kinds.includes(each.kind)) this.#failures.set(keyOf(name, each), reason);
  }

  round(index: number): RoundRecorder {
    return {
      device: (name, device) => {
        this.#devices[name] = device;
      },
      timing: (name, each, timing) => {
        const rounds = this.#timings.get(keyOf(name, each)) ?? [];
        while (rounds.length < index) rounds.push(null);
        this.#timings.set(keyOf(name, each), [...rounds, timing]);
      },
      failure: (name, each, reason) => this.#failures.set(keyOf(name, each), `round ${index + 1}: ${reason}`),
    };
  }

  outcome(): Pick<CompareResult, 'devices' | 'results' | 'ratios' | 'missing'> {
    const results: Figures = { matmul: {}, mlp: {} };
    const missing: CompareResult['missing'] = [];
    for (const each of CASES)
      for (const { name, kinds } of this.#chosen) {
        const timings = this.#timings.get(keyOf(name, each));
        if (timings !== undefined) (results[each.kind][each.name] ??= {})[name] = figure(each, timings);
        const reason = this.#failures.get(keyOf(name, each));
        if (reason !== undefined)
          missing.push({
            contender: name,
            size: each.name,
            reason: timings === undefined ? reason : `${reason} (other rounds count)`,
          });
        else if (!kinds.includes(each.kind) && each.kind === 'mlp')
          missing.push({ contender: name, size: each.name, reason: 'it trains nothing' });
      }
    return { devices: this.#devices, results, ratios: ratios(results, this.#chosen), missing };
  }
}

const keyOf = (name: string, each: Case): string => `${name} ${each.kind} ${each.name}`;

export function showCompare({
  machine,
  devices,
  results,
  ratios: found,
  missing,
  seconds,
  rounds,
}: CompareResult): string {
  const lines = [
    `${machine.cpu}, ${machine.cores} cores (load ${machine.load.map((load) => load.toFixed(1)).join(' to ')}), Node ${machine.node}, Chromium ${machine.chromium}; ${rounds.done} of ${rounds.asked} rounds in ${seconds} s`,
    '',
    ...Object.entries(devices).map(([name, device]) => `${name.padEnd(16)}${device}`),
  ];
  const names = Object.keys(devices);
  const width = Math.max(16, ...names.map((name) => name.length + 2));
  for (const { kind, name } of CASES) {
    if (results[kind][name] === undefined) continue;
    lines.push('', `${kind} ${name}, ${kind === 'matmul' ? 'GF/s' : 'ms a step'}`.padEnd(width) + '   best / median');
    for (const contender of names) {
      const value = results[kind][name]?.[contender];
      if (value !== undefined) lines.push(`  ${contender.padEnd(width)}${value.best} / ${value.median}`);
    }
  }
  if (found.length > 0) lines.push('', 'ours ÷ theirs, side by side in each round (above 1: ours is faster)');
  for (const { name, size, ratio, ratioOfBests, loopRatio, floor, stretch, isMet, isStretchMet } of found) {
    const mark = ratio === null ? 'missing' : isStretchMet ? 'stretch' : isMet ? 'met' : 'NOT MET';
    const others = `bests ${ratioOfBests ?? '–'}×${loopRatio === null ? '' : `, loop ${loopRatio}×`}`;
    lines.push(
      `  ${name.padEnd(26)}${size.padEnd(18)}${`${ratio ?? '–'}×`.padEnd(9)}floor ${floor}×, stretch ${stretch}×  ${mark.padEnd(8)}(${others})`,
    );
  }
  if (missing.length > 0) lines.push('');
  for (const { contender, size, reason } of missing) lines.push(`missing: ${contender}, ${size}: ${reason}`);
  return lines.join('\n');
}
