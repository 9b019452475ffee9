// One round: every contender in a fresh page or on a fresh device, case by case beside the others, each with a deadline.
import { setTimeout as sleep } from 'node:timers/promises';
import type { Browser } from 'playwright';
import { platform } from '../../../node/platform.ts';
import { CASES, type Case, type ContenderInfo } from './contenders.ts';
import { MLP_CASES, measureMatmul, measureMlp, type Timing } from './measure.ts';
import { ours } from './ours.ts';
import type { PageBench } from './page.ts';

/** First compilations included. */
const CASE_TIMEOUT_MS = 60_000;

interface Seat {
  bench: PageBench;
  close(): Promise<void>;
}

export interface RoundRecorder {
  device(contender: string, device: string): void;
  timing(contender: string, which: Case, timing: Timing): void;
  failure(contender: string, which: Case, reason: string): void;
}

/**
 * Opens a seat for each contender; then every case is measured for one after the other, in the given order, so that figures that
 * are compared are from the same seconds. `untilMs` on the clock of `performance.now` is when everything has to be over.
 */
export async function takeRound(
  order: readonly ContenderInfo[],
  open: (info: ContenderInfo) => Promise<Seat>,
  record: RoundRecorder,
  untilMs: number,
): Promise<void> {
  const seats = new Map<string, Seat>();
  const close = async (name: string): Promise<void> => {
    const seat = seats.get(name);
    seats.delete(name);
    if (seat !== undefined) await within(seat.close(), performance.now() + CASE_TIMEOUT_MS, 'close');
  };
  /** Why a contender is out of this round. */
  const out = new Map<string, string>();
  try {
    for (const info of order)
      try {
        const seat = await within(open(info), untilMs, 'start');
        seats.set(info.name, seat);
        record.device(info.name, await within(seat.bench.device(), untilMs, 'start'));
      } catch (cause) {
        out.set(info.name, reasonOf(cause));
      }
    for (const each of CASES)
      for (const { name, kinds } of order) {
        if (!kinds.includes(each.kind)) continue;
        const bench = seats.get(name)?.bench;
        const reason = out.get(name);
        if (bench === undefined || reason !== undefined) {
          record.failure(name, each, reason ?? 'its page is closed');
          continue;
        }
        const what = `${each.kind} ${each.name}`;
        const work = each.kind === 'matmul' ? bench.matmul(Number(each.name)) : bench.mlp(each.name);
        try {
          record.timing(name, each, await within(work, untilMs, what));
        } catch (cause) {
          record.failure(name, each, reasonOf(cause));
          if (!(cause instanceof TooLong)) continue;
          // What is still under way would be in the way of the others.
          out.set(name, `out of the round: ${reasonOf(cause)}`);
          await close(name);
        }
      }
  } finally {
    for (const name of [...seats.keys()]) await close(name);
  }
}

class TooLong extends Error {}

const reasonOf = (cause: unknown): string =>
  cause instanceof Error ? (cause.message.replace(/^page\.evaluate: /, '').split('\n')[0] ?? '') : String(cause);

async function within<T>(work: Promise<T>, untilMs: number, what: string): Promise<T> {
  const leftMs = Math.max(1, Math.min(CASE_TIMEOUT_MS, untilMs - performance.now()));
  const ended = new AbortController();
  const timeout = sleep(leftMs, undefined, { signal: ended.signal }).then(() => {
    throw new TooLong(`${what} took longer than ${Math.round(leftMs / 1000)} s`);
  });
  timeout.catch(() => {}); // aborted where the work was in time
  work.catch(() => {}); // comes too late where it was not
  try {
    return await Promise.race([work, timeout]);
  } finally {
    ended.abort();
  }
}

export async function openPage(browser: Browser, url: string, name: string): Promise<Seat> {
  const context = await browser.newContext();
  const page = await context.newPage();
  await page.goto(`${url}#${name}`);
  const call = <T>(method: keyof PageBench, argument?: unknown): Promise<T> =>
    page.evaluate(
      ([key, value]) =>
        // The function runs in the page, where `bench` is.
        (globalThis as unknown as { bench: Record<string, (given: unknown) => Promise<T>> }).bench[key]?.(
          value,
        ) as Promise<T>,
      [method, argument] as const,
    );
  // A page in the background might be slowed down.
  const inFront = async <T>(method: keyof PageBench, argument: unknown): Promise<T> => {
    await page.bringToFront();
    return call<T>(method, argument);
  };
  return {
    bench: {
      device: () => call('device'),
      matmul: (size) => inFront('matmul', size),
      mlp: (model) => inFront('mlp', model),
    },
    close: () => context.close(),
  };
}

export async function openNode(isLoop: boolean): Promise<Seat> {
  const contender = await ours(platform, isLoop);
  return {
    bench: {
      device: () => Promise.resolve(contender.device),
      matmul: (size) => measureMatmul(contender, size),
      async mlp(model) {
        const found = MLP_CASES.find(({ name }) => name === model);
        if (!found) throw new Error(`there is no model "${model}"`);
        return measureMlp(contender, found.sizes, found.batch);
      },
    },
    close: async () => contender.end(),
  };
}
