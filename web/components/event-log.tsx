// What happened lately, the newest first. Every word of it comes from strangers and is shown as text.
import { clock } from '../format.ts';
import type { State } from '../state.ts';

const SHOWN_LINES = 80;

export function EventLog({ state }: { state: State }) {
  const lines = state.log.value.slice(-SHOWN_LINES).reverse();
  return (
    <section class="card" aria-labelledby="log-title">
      <h2 id="log-title">What happened</h2>
      {lines.length === 0 ? (
        <p class="muted">Nothing yet.</p>
      ) : (
        <ol class="log" tabIndex={0} aria-labelledby="log-title" data-testid="log">
          {lines.map(({ key, at, text, isWarning }) => (
            <li key={key} class={isWarning ? 'warn' : ''}>
              <time dateTime={new Date(at).toISOString()}>{clock(at)}</time> <span>{text}</span>
            </li>
          ))}
        </ol>
      )}
    </section>
  );
}
