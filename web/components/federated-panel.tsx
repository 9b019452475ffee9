// The federated run: where each worker stands, what it pulled, and how well its own model does.
import type { MeshRecord, StageRecord } from '../../runtime/wire/records.ts';
import { isDone, workersOf, worstClass, type FederatedView, type WorkerView } from '../federated-view.ts';
import { loss, mebibytes, percent, plainText, rate, shortPeer, whole } from '../format.ts';
import type { State } from '../state.ts';
import { AccuracyBars } from './accuracy-bars.tsx';
import { AccuracyChart, colourOf } from './accuracy-chart.tsx';
import { stepsOf } from './worker-panel.tsx';

export function FederatedPanel({ state }: { state: State }) {
  const view = state.shownFederation.value;
  if (!view) return null;
  const workers = workersOf(view);
  const own = ownUid(state);
  const chosen =
    workers.find(({ uid }) => uid === state.chosenWorker.value) ?? workers.find(({ uid }) => uid === own) ?? workers[0];
  const records = state.records.value;
  const conditions = workers.map((worker) => conditionOf(worker, recordOf(records.get(worker.uid), worker)));
  const isText = workers.some(({ heldOutLoss }) => heldOutLoss !== null);
  return (
    <section class="card" aria-labelledby="federated-title" data-testid="federated">
      <div class="title">
        <h2 id="federated-title">
          Federated run <RunName state={state} view={view} />
        </h2>
        <span class="muted">{countsOf(state, view, workers)}</span>
      </div>
      <p class="gpu" role="status" data-testid="federated-status">
        {statusOf(workers, conditions)}
      </p>
      <table class="workers">
        <thead>
          <tr>
            <th scope="col">Worker</th>
            <th scope="col">Where</th>
            {['Steps', 'Loss', 'Samples/s', 'Merges', 'Pulled', 'Accuracy'].map((name) => (
              <th key={name} scope="col" class="number">
                {name}
              </th>
            ))}
            <th scope="col" class="number">
              {isText ? 'Held-out loss' : 'Worst class'}
            </th>
          </tr>
        </thead>
        <tbody data-testid="workers">
          {workers.map((worker, place) => (
            <Row
              key={worker.uid}
              state={state}
              worker={worker}
              colour={colourOf(place)}
              condition={conditions[place] ?? 'gone'}
              isChosen={worker === chosen}
              isOwn={worker.uid === own}
              isText={isText}
            />
          ))}
        </tbody>
      </table>
      <div class={isText ? 'figures single' : 'figures'}>
        <AccuracyChart workers={workers} chosen={chosen?.uid ?? null} />
        {isText ? null : (
          <AccuracyBars
            shares={chosen?.perClassAccuracy ?? []}
            of={chosen?.uid ?? ''}
            colour={colourOf(chosen ? workers.indexOf(chosen) : 0)}
            owned={chosen?.labels ?? []}
          />
        )}
      </div>
    </section>
  );
}

interface RowProps {
  state: State;
  worker: WorkerView;
  colour: string;
  condition: Condition;
  isChosen: boolean;
  isOwn: boolean;
  isText: boolean;
}

function Row({ state, worker, colour, condition, isChosen, isOwn, isText }: RowProps) {
  const worst = worstClass(worker.perClassAccuracy);
  const last = isText ? loss(worker.heldOutLoss) : worst ? `${worst.label}: ${percent(worst.share)}` : '–';
  return (
    <tr data-uid={worker.uid} data-condition={condition}>
      <th scope="row">
        <button
          type="button"
          class="row-choice"
          aria-pressed={isChosen}
          onClick={() => (state.chosenWorker.value = worker.uid)}
          data-testid="choose-worker"
        >
          <span class="swatch" style={{ background: `var(${colour})` }} aria-hidden="true" />
          <code>{plainText(worker.uid)}</code>
        </button>
        {isOwn ? <span class="tag">this tab</span> : null}
        {condition === 'training' ? null : <span class="tag">{condition}</span>}
      </th>
      <td data-label="Where">
        <span>
          {worker.host === null ? '' : worker.host === 'browser' ? 'browser ' : 'Node '}
          <span class="muted">{plainText(shortPeer(worker.publisher))}</span>
        </span>
      </td>
      <Figure name="Steps" value={stepsOf(worker)} />
      <Figure name="Loss" value={loss(worker.loss)} />
      <Figure name="Samples/s" value={rate(worker.samplesPerSecond)} />
      <Figure name="Merges" value={whole(worker.rounds)} />
      <Figure name="Pulled" value={mebibytes(worker.bytes)} />
      <Figure name="Accuracy" value={worker.accuracy === null ? '–' : percent(worker.accuracy)} />
      <Figure name={isText ? 'Held-out loss' : 'Worst class'} value={last} />
    </tr>
  );
}

const Figure = ({ name, value }: { name: string; value: string }) => (
  <td data-label={name} class="number">
    {value}
  </td>
);

/** Text, or a choice where there is more than one run. */
function RunName({ state, view }: { state: State; view: FederatedView }) {
  const names = [...state.federatedRuns.value.keys()];
  if (names.length < 2) return <span data-testid="federated-name">{plainText(view.run)}</span>;
  return (
    <select
      value={view.run}
      aria-label="Federated run"
      onChange={(event) => (state.chosenFederation.value = event.currentTarget.value)}
      data-testid="federated-name"
    >
      {names.map((name) => (
        <option key={name} value={name}>
          {plainText(name)}
        </option>
      ))}
    </select>
  );
}

type Condition = 'ready' | 'waiting' | 'training' | 'paused' | 'done' | 'gone';

function conditionOf(worker: WorkerView, record: StageRecord | null): Condition {
  if (isDone(worker)) return 'done';
  if (record?.isPaused) return 'paused';
  // It tells that it is ready before its record is there.
  return record || worker.status === 'ready' ? worker.status : 'gone';
}

const recordOf = (record: MeshRecord | undefined, { publisher }: WorkerView): StageRecord | null =>
  record?.kind === 'stage' && record.peer === publisher ? record : null;

function ownUid(state: State): string | null {
  const lending = state.lending.value;
  return lending.kind === 'training' || lending.kind === 'trained' ? lending.uid : null;
}

function countsOf(state: State, view: FederatedView, workers: readonly WorkerView[]): string {
  const federation = state.federations.value.find(({ run }) => run === view.run);
  if (!federation) return `${workers.length} ${workers.length === 1 ? 'worker' : 'workers'}`;
  const hidden = federation.present > workers.length ? `; ${workers.length} are shown` : '';
  return `${federation.present} of ${federation.workers} workers here${hidden}`;
}

function statusOf(workers: readonly WorkerView[], conditions: readonly Condition[]) {
  const count = (condition: Condition): number => conditions.filter((one) => one === condition).length;
  const missing = new Set(workers.filter(({ status }) => status === 'waiting').flatMap((worker) => worker.missing));
  const mean = workers.reduce((sum, { accuracy }) => sum + (accuracy ?? 0), 0) / workers.length;
  const [tone, text] = ((): [string, string] => {
    if (count('training') > 0) return ['good', 'Training'];
    if (count('done') === workers.length) return ['good', `Done: ${percent(mean)} right on average`];
    if (count('waiting') > 0 && missing.size > 0) return ['busy', `Waiting for ${[...missing].slice(0, 4).join(', ')}`];
    if (count('ready') + count('waiting') + count('paused') > 0) return ['busy', 'Getting ready'];
    return ['bad', 'Its workers are gone.'];
  })();
  return (
    <>
      <span class={`dot ${tone}`} aria-hidden="true" />
      <span>{plainText(text, 400)}</span>
    </>
  );
}
