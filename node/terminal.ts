// What a person sees: one line an event, and one line at the bottom that moves while a run goes on. Where standard error is no
// terminal, progress is a line every few seconds instead.
import type { EventOf, MeshEvent } from '../runtime/events.ts';
import { lineOf } from './event-lines.ts';

const QUIET_PROGRESS_MS = 5_000;
const BAR = 24;
const CLEAR_LINE = '\r\u001b[2K';

export interface Terminal {
  show(event: MeshEvent): void;
  say(line: string): void;
}

export function terminal(
  out: { isTTY?: boolean; columns?: number; write(text: string): unknown },
  now: () => number = Date.now,
): Terminal {
  let moving = false;
  let lastProgress = 0;
  const say = (line: string): void => {
    out.write(`${moving ? CLEAR_LINE : ''}${line}\n`);
    moving = false;
  };
  return {
    say,
    show: (event) => {
      const line = lineOf(event);
      if (line === null) return;
      if (event.kind !== 'run.progress' && event.kind !== 'worker.progress') {
        say(line);
        if (event.kind === 'run.done') for (const row of classTable(event)) say(row);
      } else if (out.isTTY) {
        out.write(`${CLEAR_LINE}${`${bar(event)} ${line}`.slice(0, (out.columns ?? 80) - 1)}`);
        moving = true;
      } else if (now() - lastProgress >= QUIET_PROGRESS_MS) {
        lastProgress = now();
        say(line);
      }
    },
  };
}

function bar({ step, steps }: EventOf<'run.progress' | 'worker.progress'>): string {
  const filled = Math.round((step / steps) * BAR);
  return `[${'#'.repeat(filled)}${'.'.repeat(BAR - filled)}]`;
}

/** Accuracy of each class, a bar each. */
function classTable({ perClassAccuracy }: EventOf<'run.done'>): string[] {
  return perClassAccuracy.map(
    (share, index) =>
      `  class ${String(index).padStart(2)}  ${(share * 100).toFixed(1).padStart(5)} %  ${'#'.repeat(Math.round(share * BAR))}`,
  );
}
