// The second button: a free place among the workers of a federated run, for a tab that trains on a share of the data of its own.
import { isAskedToTrain, placeFor, type Federation, type Place } from '../federations.ts';
import { plainText } from '../format.ts';
import type { Lender } from '../lending.ts';
import type { State } from '../state.ts';

export function WorkerOffer({ state, lender }: { state: State; lender: Lender }) {
  const federations = state.federations.value;
  const wanted = state.wantedPlace.value;
  const place = placeFor(federations, wanted);
  if (!place) return <Absent state={state} />;
  const { federation, worker, uid } = place;
  const { problem } = federation;
  const isReady = state.gpu.value.kind === 'found' && problem === null;
  return (
    <div class="offer">
      <p class="actions">
        <button
          type="button"
          class={isAskedToTrain(wanted) ? 'primary' : ''}
          disabled={!isReady}
          onClick={() => void lender.train()}
          data-testid="train-worker"
          data-uid={uid}
        >
          Train with your own share: {plainText(federation.run)}, worker {worker} of {federation.workers}
        </button>
        <span class="muted">
          Its rows stay in this tab; layers of its model go to its neighbours, which see your IP address.
        </span>
      </p>
      {problem === null ? null : (
        <p class="muted" data-testid="worker-problem">
          {problem.message} {problem.fix}
        </p>
      )}
      <PlacePicker state={state} place={place} federations={federations} />
    </div>
  );
}

/** For whoever came by a link to a run. */
function Absent({ state }: { state: State }) {
  const { run } = state.wantedPlace.value;
  if (run === null) return null;
  const isThere = state.federations.value.some((federation) => federation.run === run);
  return (
    <p class="muted" data-testid="worker-absent">
      {isThere
        ? `All places of the federated run ${plainText(run)} are taken.`
        : `The federated run ${plainText(run)} is not here now: its workers have not come, or are done.`}
    </p>
  );
}

interface PickerProps {
  state: State;
  place: Place;
  federations: readonly Federation[];
}

function PlacePicker({ state, place, federations }: PickerProps) {
  const { federation, worker, uid } = place;
  const wanted = state.wantedPlace.value;
  const given = wanted.worker;
  const isTaken = given !== null && given !== worker;
  return (
    <details class="picker">
      <summary>
        {isTaken ? `Worker ${given} is not free; takes ` : 'Takes the place '}
        <code data-testid="next-worker">{uid}</code>; choose another
      </summary>
      <div class="fields">
        <label>
          Federated run
          <select
            value={federation.run}
            onChange={(event) => (state.wantedPlace.value = { run: event.currentTarget.value, worker: null })}
            data-testid="worker-run"
          >
            {federations.map(({ run, present, workers }) => (
              <option key={run} value={run}>
                {plainText(run)} ({present} of {workers} workers here)
              </option>
            ))}
          </select>
        </label>
        <label>
          Worker, counted from 0
          <select
            value={String(worker)}
            onChange={(event) =>
              (state.wantedPlace.value = { run: federation.run, worker: Number(event.currentTarget.value) })
            }
            data-testid="worker-index"
          >
            {federation.free.map((one) => (
              <option key={one} value={String(one)}>
                {one}
              </option>
            ))}
          </select>
        </label>
      </div>
    </details>
  );
}
