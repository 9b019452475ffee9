// This tab as a federated worker: where it stands, what it got from its neighbours, and the way out.
import { isDone, type WorkerView } from '../federated-view.ts';
import { loss, mebibytes, percent, rate, whole } from '../format.ts';
import type { Lender } from '../lending.ts';
import type { Lending, State } from '../state.ts';
import { Facts } from './facts.tsx';
import { linksOf } from './loan-panel.tsx';

export function WorkerPanel({ state, lender }: { state: State; lender: Lender }) {
  const lending = state.lending.value;
  const view = state.ownWorker.value;
  const phase = phaseOf(lending, view);
  const isAtWork = lending.kind === 'training' && !lending.isChanging;
  const isPaused = phase === 'paused';
  const tone = phase === 'training' || phase === 'finishing' || phase === 'done' ? 'good' : 'busy';
  return (
    <div class="loan">
      <p class="gpu">
        <span class={`dot ${tone}`} aria-hidden="true" />
        <strong role="status" data-testid="worker-state" data-state={phase}>
          {describe(phase, lending, view)}
        </strong>
        {'uid' in lending ? <code data-testid="worker-uid">{lending.uid}</code> : null}
      </p>
      {view ? <WorkerFacts view={view} state={state} /> : null}
      <p class="actions">
        {lending.kind === 'trained' ? (
          <button type="button" onClick={() => lender.dismiss()} data-testid="worker-dismiss">
            Close
          </button>
        ) : (
          <>
            <button
              type="button"
              disabled={!isAtWork}
              onClick={() => void lender.pause(!isPaused)}
              data-testid="worker-pause"
            >
              {isPaused ? 'Resume' : 'Pause'}
            </button>
            <button
              type="button"
              disabled={!isAtWork && lending.kind !== 'starting'}
              onClick={() => void lender.leave()}
              data-testid="worker-leave"
            >
              {lending.kind === 'starting' ? 'Cancel' : 'Leave'}
            </button>
            <span class="muted">
              Keep this tab visible: browsers slow hidden ones down. Its rows stay here; layers of its model go to its
              neighbours, which see your IP address.
            </span>
          </>
        )}
      </p>
    </div>
  );
}

function WorkerFacts({ view, state }: { view: WorkerView; state: State }) {
  return (
    <Facts
      facts={[
        { name: 'Own rows', value: whole(view.rows), testId: 'worker-rows' },
        { name: 'Steps', value: stepsOf(view), testId: 'worker-steps' },
        { name: 'Loss', value: loss(view.loss), testId: 'worker-loss' },
        { name: 'Samples/s', value: rate(view.samplesPerSecond), testId: 'worker-throughput' },
        { name: 'Merges', value: whole(view.rounds), testId: 'worker-merges' },
        { name: 'Pulled', value: mebibytes(view.bytes), testId: 'worker-pulled' },
        { name: 'Links', value: linksOf(state.figures.value), testId: 'worker-links' },
        { name: 'Accuracy', value: view.accuracy === null ? '–' : percent(view.accuracy), testId: 'worker-accuracy' },
      ]}
    />
  );
}

export const stepsOf = ({ step, steps }: WorkerView): string =>
  steps > 0 ? `${whole(step)} / ${whole(steps)}` : step > 0 ? whole(step) : '–';

type Phase = 'starting' | 'waiting' | 'training' | 'finishing' | 'paused' | 'leaving' | 'done';

function phaseOf(lending: Lending, view: WorkerView | null): Phase {
  if (lending.kind === 'starting' || lending.kind === 'leaving') return lending.kind;
  if (lending.kind === 'trained' || (view && isDone(view))) return 'done';
  if (lending.kind === 'training' && lending.isPaused) return 'paused';
  if (!view || view.status === 'ready' || view.status === 'waiting') return 'waiting';
  return view.steps > 0 && view.step >= view.steps ? 'finishing' : 'training';
}

function describe(phase: Phase, lending: Lending, view: WorkerView | null): string {
  switch (phase) {
    case 'starting':
      return lending.kind === 'starting' ? `${lending.doing} …` : '';
    case 'waiting':
      return view && view.missing.length > 0 ? `Waiting for ${view.missing.join(' and ')}` : 'Getting ready';
    case 'training':
      return `Training for ${view?.run ?? ''}`;
    case 'finishing':
      return 'All steps taken: its neighbours still pull layers from it';
    case 'paused':
      return 'Paused: its neighbours go on';
    case 'leaving':
      return 'Leaving …';
    case 'done':
      return 'Done';
    default:
      return phase satisfies never;
  }
}
