// What the buttons do: one loan at a time, of a stage or of a whole worker, its life written into the state.
import { MeshError, toMeshError } from '../runtime/errors.ts';
import type { EventOf, MeshEvent } from '../runtime/events.ts';
import type { PublishedEvent } from '../runtime/mesh/monitor-client.ts';
import { parseUid, type Uid } from '../runtime/wire/ids.ts';
import { chooseStage, freeUid } from './choose-stage.ts';
import { nextFree, placeFor, type Place } from './federations.ts';
import { workerAfter } from './federated-view.ts';
import { percent } from './format.ts';
import { parseWorkerEvent } from './published.ts';
import { NO_FIGURES, type Lending, type Part, type State } from './state.ts';
import type { JoinOptions, Loan } from './tab-peer.ts';
import type { Training } from './train-worker.ts';

export interface Lender {
  /** Lends a stage. */
  start(): Promise<void>;
  /** Trains as the worker whose place the page offers. */
  train(): Promise<void>;
  pause(isPaused: boolean): Promise<void>;
  /** Also while training starts. */
  leave(): Promise<void>;
  /** Puts the result of a worker that is done away. */
  dismiss(): void;
  /** The page goes away. */
  abandon(): void;
}

const FIGURES_MS = 500;

export function createLender(state: State): Lender {
  let loan: Loan | null = null;
  let starting: AbortController | null = null;
  let timer: ReturnType<typeof setInterval> | undefined;

  const end = (next: Lending): void => {
    clearInterval(timer);
    loan = null;
    state.figures.value = { ...state.figures.value, links: [], samplesPerSecond: 0 };
    state.lending.value = next;
  };

  const fail = (cause: unknown): void => {
    const failed = loan;
    end({ kind: 'failed', error: toMeshError(cause).toShape() });
    failed?.abandon();
  };

  /** Runs one step of the loan's life; what goes wrong ends the loan and says so. */
  const guarded = async (work: () => Promise<void>): Promise<void> => {
    try {
      await work();
    } catch (cause) {
      fail(cause);
    }
  };

  /** One loan at a time; what ends it by accident is told. */
  const begin = <L extends Loan>(
    as: Part,
    make: (options: JoinOptions) => Promise<L>,
    emit: (event: MeshEvent) => void,
    begun: (loan: L) => void,
  ): Promise<void> =>
    guarded(async () => {
      const target = state.target.value;
      if (!target || starting || loan) return;
      const abort = new AbortController();
      starting = abort;
      state.notice.value = null;
      state.figures.value = NO_FIGURES;
      const tell = (doing: string): void => {
        state.lending.value = { kind: 'starting', as, doing };
      };
      tell('Loading');
      try {
        const made = await make({ target, emit, tell, signal: abort.signal });
        loan = made;
        void made.died.then((reason) => {
          if (loan === made) fail(workerDied(reason));
        });
        timer = setInterval(() => {
          state.figures.value = made.figures();
        }, FIGURES_MS);
        const kind = as === 'stage' ? 'lending' : 'training';
        state.lending.value = { kind, uid: made.uid, isPaused: false, isChanging: false };
        begun(made);
      } catch (cause) {
        if (!abort.signal.aborted) throw cause;
        end({ kind: 'idle' });
        state.notice.value = 'Nothing was begun.';
      } finally {
        starting = null;
      }
    });

  /** A renewal that the monitor refuses: after it was away, another peer may hold the name. */
  const tellRefusal = (event: MeshEvent): void => {
    if (event.kind === 'record.rejected' && event.name === loan?.uid)
      state.notice.value = `The monitor does not list ${event.name} any more: ${event.reason} Leave, and begin again.`;
  };

  const followWorker = (event: MeshEvent): void => {
    tellRefusal(event);
    const own: PublishedEvent = { ...event, publisher: 'this tab', at: Date.now() };
    const parsed = parseWorkerEvent(own);
    if (parsed) state.ownWorker.value = workerAfter(state.ownWorker.value ?? undefined, parsed);
  };

  /** What it was for is done: its place is given back, and the result stays to be seen. */
  const finish = (training: Training, outcome: EventOf<'worker.done'>): Promise<void> =>
    guarded(async () => {
      if (loan !== training) return;
      end({ kind: 'trained', uid: training.uid });
      state.notice.value = doneText(outcome);
      await training.leave();
    });

  const followTraining = (training: Training): void => {
    training.done.then(
      (outcome) => finish(training, outcome),
      (cause: unknown) => {
        if (loan === training) fail(cause);
      },
    );
  };

  return {
    start: () =>
      begin(
        'stage',
        async (options) => {
          // Only those who lend load what lending needs.
          const { lend } = await import('./contribute.ts');
          return lend({ ...options, pick: picker(state) });
        },
        tellRefusal,
        () => undefined,
      ),

    train: () =>
      begin(
        'worker',
        async (options) => {
          const place = placeFor(state.federations.value, state.wantedPlace.value);
          if (!place) throw noPlace();
          if (place.federation.problem) throw place.federation.problem;
          state.ownWorker.value = null;
          const { readFederation, trainWorker } = await import('./train-worker.ts');
          const config = readFederation(place.federation.text, place.worker);
          return trainWorker({ ...options, config, next: (taken) => another(state, place, taken) });
        },
        followWorker,
        followTraining,
      ),

    pause: (isPaused) =>
      guarded(async () => {
        const current = state.lending.value;
        if (!loan || (current.kind !== 'lending' && current.kind !== 'training') || current.isChanging) return;
        state.lending.value = { ...current, isChanging: true };
        await loan.pause(isPaused);
        // It may have been done meanwhile.
        if (loan) state.lending.value = { ...current, isPaused, isChanging: false };
      }),

    leave: () =>
      guarded(async () => {
        const { kind } = state.lending.value;
        if (kind === 'starting') starting?.abort(new DOMException('The person changed their mind.', 'AbortError'));
        const leaving = loan;
        if (!leaving || (kind !== 'lending' && kind !== 'training')) return;
        state.lending.value = { kind: 'leaving', as: kind === 'lending' ? 'stage' : 'worker' };
        loan = null; // its worker's end is no accident from here on
        await leaving.leave();
        end({ kind: 'idle' });
        state.notice.value = `You left the mesh; ${leaving.uid} is withdrawn. Thank you.`;
      }),

    dismiss: () => {
      if (state.lending.value.kind !== 'trained') return;
      state.lending.value = { kind: 'idle' };
      state.notice.value = null;
    },

    abandon: () => {
      starting?.abort();
      const left = loan;
      if (left) end({ kind: 'idle' });
      left?.abandon();
    },
  };
}

/** The UID to try: what the person asked for, else where help is needed most. One that is held gives way to the next index. */
function picker(state: State): (taken: ReadonlySet<string>) => Uid {
  const wanted = state.wantedUid.value.trim();
  return (taken) => {
    const records = state.records.value;
    if (wanted === '') return freeUid(records, chooseStage(records), taken);
    const parts = parseUid(wanted);
    const uid = freeUid(records, parts, taken, parts.expertIndex);
    if (uid !== parts.uid)
      state.notice.value = `${parts.uid} is held by another peer already; this tab takes the next index.`;
    return uid;
  };
}

/** The next place of the same run, as it is in the directory now. */
function another(state: State, { federation, uid }: Place, taken: ReadonlySet<number>): number | null {
  const now = state.federations.value.find(({ run }) => run === federation.run);
  const worker = now ? nextFree(now, 0, taken) : null;
  if (worker !== null) state.notice.value = `${uid} is held by another peer already; this tab takes another place.`;
  return worker;
}

function doneText({ uid, accuracy, heldOutLoss, steps, rounds }: EventOf<'worker.done'>): string {
  const result = heldOutLoss === undefined ? `${percent(accuracy)} right` : `held-out loss ${heldOutLoss.toFixed(4)}`;
  return `${uid} is done: ${result} after ${steps} steps and ${rounds} merges. Thank you.`;
}

const noPlace = (): MeshError =>
  new MeshError(
    'busy',
    'There is no free place for a worker any more.',
    'Choose another run, or lend this GPU for a stage.',
  );

const workerDied = (reason: string): MeshError =>
  new MeshError(
    'gpu-lost',
    `The compute worker of this tab died: ${reason}.`,
    'Press the button to start again; if it happens again, reload the page or update the graphics driver.',
  );
