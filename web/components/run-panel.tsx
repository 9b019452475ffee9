// The run: where it stands, its loss curve, and how well the model does.
import { duration, loss, percent, plainText, rate } from '../format.ts';
import type { RunView } from '../run-view.ts';
import type { State } from '../state.ts';
import { AccuracyBars } from './accuracy-bars.tsx';
import { Facts } from './facts.tsx';
import { LossChart } from './loss-chart.tsx';

export function RunPanel({ state }: { state: State }) {
  const view = state.shownRun.value;
  // One card too many says that there is nothing, where a federated run is.
  if (!view) return state.shownFederation.value ? null : <NoRun />;
  const record = state.runRecords.value.find(({ name }) => name === `run/${view.run}`);
  const mode = [view.mode || record?.mode, view.policy || record?.policy].filter(Boolean).join(', ');
  const isEnded = view.status.kind === 'done' || view.status.kind === 'failed';
  const accuracy = view.accuracies.at(-1);
  return (
    <section class="card" aria-labelledby="run-title" data-testid="run" data-status={view.status.kind}>
      <div class="title">
        <h2 id="run-title">
          Run <RunName state={state} view={view} />
        </h2>
        <span class="muted">{plainText(mode)}</span>
      </div>
      <StatusLine view={view} isAbandoned={!isEnded && !record} />
      <Facts
        facts={[
          { name: 'Epoch', value: view.epochs > 0 ? `${view.epoch} / ${view.epochs}` : '–', testId: 'run-epoch' },
          { name: 'Step', value: view.steps > 0 ? `${view.step} / ${view.steps}` : '–', testId: 'run-step' },
          { name: 'Loss', value: loss(view.loss), testId: 'run-loss' },
          view.tokensPerSecond === null
            ? { name: 'Samples/s', value: rate(view.samplesPerSecond), testId: 'run-throughput' }
            : { name: 'Tokens/s', value: rate(view.tokensPerSecond), testId: 'run-throughput' },
          { name: 'Peers', value: String(view.peers), testId: 'run-peers' },
          { name: 'Trainers', value: String(view.trainers), testId: 'run-trainers' },
          { name: 'Time left', value: isEnded ? '–' : duration(view.etaSeconds), testId: 'run-eta' },
          view.tokensPerSecond === null
            ? { name: 'Accuracy', value: accuracy ? percent(accuracy.accuracy) : '–', testId: 'run-accuracy' }
            : { name: 'Held-out loss', value: loss(view.heldOutLoss), testId: 'run-held-out' },
        ]}
      />
      <div class={view.tokensPerSecond === null ? 'figures' : 'figures single'}>
        <LossChart view={view} />
        {view.tokensPerSecond === null && <AccuracyBars shares={view.perClassAccuracy} />}
      </div>
    </section>
  );
}

/** Text, or a choice where there is more than one run. */
function RunName({ state, view }: { state: State; view: RunView }) {
  const names = [...state.runs.value.keys()];
  if (names.length < 2) return <span data-testid="run-name">{plainText(view.run)}</span>;
  return (
    <select
      value={view.run}
      aria-label="Run"
      onChange={(event) => (state.chosenRun.value = event.currentTarget.value)}
      data-testid="run-name"
    >
      {names.map((name) => (
        <option key={name} value={name}>
          {plainText(name)}
        </option>
      ))}
    </select>
  );
}

function StatusLine({ view, isAbandoned }: { view: RunView; isAbandoned: boolean }) {
  const { status } = view;
  const [tone, text] = statusOf(status, isAbandoned);
  return (
    <p class="gpu" role="status" data-testid="run-status">
      <span class={`dot ${tone}`} aria-hidden="true" />
      <span>{plainText(text, 700)}</span>
    </p>
  );
}

function statusOf(status: RunView['status'], isAbandoned: boolean): [tone: string, text: string] {
  if (isAbandoned) return ['bad', 'The client of this run is gone: it was ended, or lost the monitor.'];
  switch (status.kind) {
    case 'waiting':
      return ['busy', `Waiting for a replica of ${status.missing.join(' and ')}. Lend a GPU for it here.`];
    case 'training':
      return ['good', 'Training'];
    case 'done':
      return [
        'good',
        `Done in ${duration(status.seconds)}: ${status.applied} of ${status.planned} planned microbatches applied.`,
      ];
    case 'failed':
      return ['bad', `Failed: ${status.message} ${status.fix}`];
    default:
      return status satisfies never;
  }
}

function NoRun() {
  return (
    <section class="card" data-testid="no-run">
      <h2>No run yet</h2>
      <p class="muted">
        Nobody trains on this mesh now. Lend a GPU for each stage, then start a run with the command below: its
        progress, loss and accuracy appear here.
      </p>
    </section>
  );
}
