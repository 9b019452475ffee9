// Browsers slow the timers of hidden tabs down and may stop them: says so when it happened while this tab was lending or training.
import { effect } from '@preact/signals';
import type { Lending, State } from './state.ts';

/** Shorter looks at another tab change nothing. */
const WORTH_TELLING_MS = 3_000;

export function followVisibility(state: State): void {
  let hiddenAt: number | null = null;
  document.addEventListener('visibilitychange', () => {
    const now = performance.now();
    const spentMs = hiddenAt === null ? 0 : now - hiddenAt;
    hiddenAt = document.visibilityState === 'hidden' ? now : null;
    if (hiddenAt !== null || spentMs < WORTH_TELLING_MS || !isAtWork(state.lending.value)) return;
    state.notice.value = `This tab was in the background for ${Math.round(spentMs / 1_000)} s. Browsers slow such tabs down: keep it visible, or in a window of its own.`;
  });
  effect(() => {
    const lending = state.lending.value;
    const doing = lending.kind === 'training' ? 'Training' : 'Lending';
    document.title = !isAtWork(lending) ? 'Skein' : `${lending.isPaused ? 'Paused' : doing} · Skein`;
  });
}

const isAtWork = (lending: Lending): lending is Extract<Lending, { kind: 'lending' | 'training' }> =>
  lending.kind === 'lending' || lending.kind === 'training';
