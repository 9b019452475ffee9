// What Skein is, which GPU is here, and the button; a second one where a federated run has a place free.
import type { Lender } from '../lending.ts';
import { isAskedToTrain } from '../federations.ts';
import { plainText } from '../format.ts';
import type { Gpu, State } from '../state.ts';
import { LoanPanel } from './loan-panel.tsx';
import { StagePicker, uidProblem } from './stage-picker.tsx';
import { WorkerOffer } from './worker-offer.tsx';
import { WorkerPanel } from './worker-panel.tsx';

export function LendCard({ state, lender }: { state: State; lender: Lender }) {
  const lending = state.lending.value;
  const isIdle = lending.kind === 'idle' || lending.kind === 'failed';
  const isWorker =
    lending.kind === 'training' || lending.kind === 'trained' || ('as' in lending && lending.as === 'worker');
  return (
    <section class="card hero" aria-labelledby="lend-title">
      <h1 id="lend-title">Lend this GPU to a mesh that trains together</h1>
      <p class="lead">
        Skein splits a neural network into stages and trains it over many machines at once, from phones to GPU servers.
        This tab can host one of the stages: nothing is installed, and you can stop at any time.
      </p>
      <GpuLine gpu={state.gpu.value} />
      {lending.kind === 'failed' ? (
        <p class="error" role="alert" data-testid="lend-error">
          {lending.error.message} {lending.error.fix}
        </p>
      ) : null}
      {isIdle ? (
        <StartRow state={state} lender={lender} />
      ) : isWorker ? (
        <WorkerPanel state={state} lender={lender} />
      ) : (
        <LoanPanel state={state} lender={lender} />
      )}
      <p class="notice" role="status" data-testid="notice">
        {state.notice.value}
      </p>
    </section>
  );
}

function StartRow({ state, lender }: { state: State; lender: Lender }) {
  const isReady =
    state.access.value.kind === 'joined' &&
    state.gpu.value.kind === 'found' &&
    uidProblem(state.wantedUid.value, state.federations.value) === null;
  return (
    <>
      <p class="actions">
        <button
          type="button"
          class={isAskedToTrain(state.wantedPlace.value) ? '' : 'primary'}
          disabled={!isReady}
          onClick={() => void lender.start()}
          data-testid="contribute"
        >
          {state.lending.value.kind === 'failed' ? 'Lend this GPU again' : 'Lend this GPU'}
        </button>
        <span class="muted" data-testid="lend-state" data-state={state.lending.value.kind}>
          Direct links (WebRTC) show your IP address to the peers of this mesh.
        </span>
      </p>
      {state.access.value.kind === 'joined' ? (
        <>
          <StagePicker state={state} />
          <WorkerOffer state={state} lender={lender} />
        </>
      ) : null}
    </>
  );
}

function GpuLine({ gpu }: { gpu: Gpu }) {
  switch (gpu.kind) {
    case 'looking':
      return (
        <p class="gpu" data-testid="gpu" data-gpu="looking">
          <span class="dot busy" aria-hidden="true" /> Looking for a GPU …
        </p>
      );
    case 'found':
      return (
        <p class="gpu" data-testid="gpu" data-gpu={gpu.isSoftware ? 'software' : 'hardware'}>
          <span class={`dot ${gpu.isSoftware ? 'busy' : 'good'}`} aria-hidden="true" />
          <strong>{plainText(gpu.name)}</strong>
          {gpu.isSoftware ? <span class="muted">software driver: slow, but correct</span> : null}
        </p>
      );
    case 'none':
      return (
        <p class="gpu" data-testid="gpu" data-gpu="none">
          <span class="dot bad" aria-hidden="true" />
          <span>
            <strong>No GPU can be used here.</strong> {gpu.why} You can still watch.
          </span>
        </p>
      );
    default:
      return gpu satisfies never;
  }
}
