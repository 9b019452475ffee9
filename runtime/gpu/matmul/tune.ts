// The search for the fastest of some candidates within a budget: successive halving over wall-clock time, the winner checked before
// it counts. Pure: the device (tune-gpu.ts), the clock, the timer and the store come in as functions.
import { parseTuningEntry, type TuningStore } from '../tuning-store.ts';

export interface Candidate<C> {
  /** Names the candidate in the store. */
  readonly name: string;
  readonly choice: C;
}

/** What a search does on a device. */
export interface TuneBench<C> {
  /** Compiles and runs the candidate once, for drivers finish compiling at the first run. Rejects where the device refuses it. */
  prepare(choice: C): Promise<void>;
  /** Runs the product `repeats` times; resolves when the device has finished. */
  run(choice: C, repeats: number): Promise<void>;
  /** Whether the result is that of the reference. */
  isRight(choice: C): Promise<boolean>;
}

export interface TuneOptions<C> {
  readonly key: string;
  /** The likeliest first: where the budget ends early, the first have had their turn. */
  readonly candidates: readonly Candidate<C>[];
  readonly bench: TuneBench<C>;
  readonly store: TuningStore;
  readonly nowMs: () => number;
  /** Calls `body` once after `ms` unless the returned function was called. */
  readonly setTimer: (ms: number, body: () => void) => () => void;
  /** Operations of one product. */
  readonly operations: number;
  readonly measureMs?: number;
  readonly compileMs?: number;
}

export interface Tuned<C> {
  readonly name: string;
  readonly choice: C;
  readonly gflops: number;
  readonly isStored: boolean;
}

const MEASURE_MS = 300;
const COMPILE_MS = 3_000;
/** A batch shorter than this is mostly submit and readback. */
const BATCH_MS = 5;
const MAX_REPEATS = 256;
/** The first round is one run each, with all that a first run costs; a figure worth publishing takes more, of a lone candidate too. */
const LEAST_ROUNDS = 4;

interface Runner<C> extends Candidate<C> {
  /** Best time of one product so far. */
  bestMs: number;
  repeats: number;
}

/** The fastest right candidate, or null where none compiled, finished in time and was right. */
export async function tune<C>(options: TuneOptions<C>): Promise<Tuned<C> | null> {
  const { key, candidates, store, bench, operations } = options;
  const stored = parseTuningEntry(await store.read(key).catch(() => undefined)); // unreadable is as good as none
  const known = stored === null ? undefined : candidates.find(({ name }) => name === stored.name);
  if (stored !== null && known !== undefined) return { ...known, gflops: stored.gflops, isStored: true };

  const ranked = await race(await prepared(options), options);
  for (const { name, choice, bestMs } of ranked) {
    if (!(await bench.isRight(choice).catch(() => false))) continue; // wrong or refused: either way not this one
    const gflops = operations / bestMs / 1e6;
    await store.write(key, { name, gflops }).catch(() => {}); // measured again next time
    return { name, choice, gflops, isStored: false };
  }
  return null;
}

/** What compiles within the budget for compiling. A compiler that hangs costs what is left of the budget, not more. */
async function prepared<C>(options: TuneOptions<C>): Promise<Runner<C>[]> {
  const { candidates, nowMs, compileMs = COMPILE_MS } = options;
  const untilMs = nowMs() + compileMs;
  const runners: Runner<C>[] = [];
  for (const candidate of candidates) {
    const leftMs = untilMs - nowMs();
    if (leftMs <= 0) break;
    if (await isPrepared(options, candidate, leftMs))
      runners.push({ ...candidate, bestMs: Number.POSITIVE_INFINITY, repeats: 1 });
  }
  return runners;
}

function isPrepared<C>(
  { bench, setTimer }: TuneOptions<C>,
  { choice }: Candidate<C>,
  limitMs: number,
): Promise<boolean> {
  return new Promise((resolve) => {
    const cancel = setTimer(limitMs, () => resolve(false));
    const settle = (isGood: boolean): void => {
      cancel();
      resolve(isGood);
    };
    bench.prepare(choice).then(
      () => settle(true),
      () => settle(false), // the device refuses this one
    );
  });
}

/** Those that were measured, fastest first. In every round the slower half falls out and the others run twice as long. */
async function race<C>(runners: readonly Runner<C>[], options: TuneOptions<C>): Promise<Runner<C>[]> {
  const { nowMs, measureMs = MEASURE_MS } = options;
  const untilMs = nowMs() + measureMs;
  const measured = new Set<Runner<C>>();
  let field = [...runners];
  let batchMs = BATCH_MS;
  let rounds = 0;
  while (field.length > 0 && nowMs() < untilMs) {
    for (const runner of field) {
      // A round that begins late is not worth a half of it: those that had no turn keep their time of the last round.
      if (nowMs() >= untilMs) break;
      if (await timed(runner, options, Math.min(batchMs, untilMs - nowMs()))) measured.add(runner);
      else measured.delete(runner);
    }
    const ranked = field.filter((runner) => measured.has(runner)).sort((a, b) => a.bestMs - b.bestMs);
    rounds += 1;
    if (ranked.length < 2 && rounds >= LEAST_ROUNDS) break;
    field = ranked.slice(0, Math.ceil(ranked.length / 2));
    batchMs *= 2;
  }
  return [...measured].sort((a, b) => a.bestMs - b.bestMs);
}

/** One batch; false where the device failed. The first run tells how many repeats fill a batch. */
async function timed<C>(runner: Runner<C>, { bench, nowMs }: TuneOptions<C>, batchMs: number): Promise<boolean> {
  try {
    if (runner.bestMs < Number.POSITIVE_INFINITY)
      runner.repeats = Math.max(1, Math.min(MAX_REPEATS, Math.floor(batchMs / runner.bestMs)));
    const startMs = nowMs();
    await bench.run(runner.choice, runner.repeats);
    // A clock that browsers make coarse may say 0.
    const ms = Math.max(nowMs() - startMs, 0.01) / runner.repeats;
    runner.bestMs = Math.min(runner.bestMs, ms);
    return true;
  } catch {
    return false; // the device refused it after all
  }
}
