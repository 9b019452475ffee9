// This tab at work: what it hosts, how fast, over which links, and the way out.
import { bytes, loss, rate, whole } from '../format.ts';
import type { Lender } from '../lending.ts';
import type { Figures, Lending, State } from '../state.ts';
import { Facts } from './facts.tsx';

export function LoanPanel({ state, lender }: { state: State; lender: Lender }) {
  const lending = state.lending.value;
  const figures = state.figures.value;
  const isBusy = lending.kind !== 'lending' || lending.isChanging;
  const isPaused = lending.kind === 'lending' && lending.isPaused;
  return (
    <div class="loan">
      <p class="gpu">
        <span class={`dot ${isPaused || isBusy ? 'busy' : 'good'}`} aria-hidden="true" />
        <strong role="status" data-testid="lend-state" data-state={stateOf(lending, figures)}>
          {describe(lending, figures)}
        </strong>
        {lending.kind === 'lending' ? <code data-testid="stage-uid">{lending.uid}</code> : null}
      </p>
      <Facts
        facts={[
          { name: 'Samples/s', value: rate(figures.samplesPerSecond), testId: 'own-throughput' },
          { name: 'Samples done', value: whole(figures.samples), testId: 'own-samples' },
          { name: 'Loss', value: loss(figures.loss), testId: 'own-loss' },
          { name: 'Received', value: bytes(figures.bytesIn), testId: 'own-bytes-in' },
          { name: 'Sent', value: bytes(figures.bytesOut), testId: 'own-bytes-out' },
          { name: 'Links', value: linksOf(figures), testId: 'own-links' },
        ]}
      />
      <p class="actions">
        <button type="button" disabled={isBusy} onClick={() => void lender.pause(!isPaused)} data-testid="pause">
          {isPaused ? 'Resume' : 'Pause'}
        </button>
        <button type="button" disabled={isBusy} onClick={() => void lender.leave()} data-testid="leave">
          Leave
        </button>
        <span class="muted">
          Keep this tab visible: browsers slow hidden ones down. Peers you are linked to see your IP address.
        </span>
      </p>
    </div>
  );
}

/** For programs: idle, starting, waiting, working, paused, leaving. */
function stateOf(lending: Lending, figures: Figures): string {
  if (lending.kind !== 'lending') return lending.kind;
  if (lending.isPaused) return 'paused';
  return figures.run === null ? 'waiting' : 'working';
}

function describe(lending: Lending, figures: Figures): string {
  switch (lending.kind) {
    case 'starting':
      return `${lending.doing} …`;
    case 'leaving':
      return 'Finishing what was begun …';
    case 'lending':
      if (lending.isPaused) return 'Paused: others take over';
      return figures.run === null ? 'Ready, waiting for a run' : `Working for ${figures.run}`;
    // A worker has a panel of its own.
    case 'training':
    case 'trained':
    case 'idle':
    case 'failed':
      return '';
    default:
      return lending satisfies never;
  }
}

export function linksOf({ links }: Figures): string {
  const counts = new Map<string, number>();
  for (const { transport } of links) counts.set(transport, (counts.get(transport) ?? 0) + 1);
  return [...counts].map(([transport, count]) => `${count} ${transport}`).join(', ') || 'none';
}
