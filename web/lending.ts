// What the buttons do: one loan at a time, its life written into the state.
import { MeshError, toMeshError } from '../runtime/errors.ts';
import type { MeshEvent } from '../runtime/events.ts';
import { parseUid, type Uid } from '../runtime/wire/ids.ts';
import { chooseStage, freeUid } from './choose-stage.ts';
import type { Loan } from './contribute.ts';
import { NO_FIGURES, type State } from './state.ts';

export interface Lender {
  start(): Promise<void>;
  pause(isPaused: boolean): Promise<void>;
  leave(): Promise<void>;
  /** The page goes away. */
  abandon(): void;
}

const FIGURES_MS = 500;

export function createLender(state: State): Lender {
  let loan: Loan | null = null;
  let starting: AbortController | null = null;
  let timer: ReturnType<typeof setInterval> | undefined;

  const end = (next: State['lending']['value']): void => {
    clearInterval(timer);
    loan = null;
    state.figures.value = { ...state.figures.value, links: [], samplesPerSecond: 0 };
    state.lending.value = next;
  };

  /** A renewal that the monitor refuses: after it was away, another peer may hold the name. */
  const tellRefusal = (event: MeshEvent): void => {
    if (event.kind === 'record.rejected' && event.name === loan?.uid)
      state.notice.value = `The monitor does not list this stage any more: ${event.reason} Leave, and lend again.`;
  };

  /** Runs one step of the loan's life; what goes wrong ends the loan and says so. */
  const guarded = async (work: () => Promise<void>): Promise<void> => {
    try {
      await work();
    } catch (cause) {
      const failed = loan;
      end({ kind: 'failed', error: toMeshError(cause).toShape() });
      failed?.abandon();
    }
  };

  return {
    start: () =>
      guarded(async () => {
        const target = state.target.value;
        if (!target || starting || loan) return;
        const abort = new AbortController();
        starting = abort;
        state.notice.value = null;
        state.figures.value = NO_FIGURES;
        const tell = (doing: string): void => {
          state.lending.value = { kind: 'starting', doing };
        };
        try {
          tell('Loading');
          // Only those who lend load what lending needs.
          const { lend } = await import('./contribute.ts');
          loan = await lend({ target, pick: picker(state), emit: tellRefusal, tell, signal: abort.signal });
        } finally {
          starting = null;
        }
        const begun = loan;
        void begun.died.then((reason) => {
          if (loan !== begun) return;
          end({ kind: 'failed', error: workerDied(reason).toShape() });
          begun.abandon();
        });
        timer = setInterval(() => {
          state.figures.value = begun.figures();
        }, FIGURES_MS);
        state.lending.value = { kind: 'lending', uid: begun.uid, isPaused: false, isChanging: false };
      }),

    pause: (isPaused) =>
      guarded(async () => {
        const current = state.lending.value;
        if (!loan || current.kind !== 'lending' || current.isChanging) return;
        state.lending.value = { ...current, isChanging: true };
        await loan.pause(isPaused);
        state.lending.value = { ...current, isPaused, isChanging: false };
      }),

    leave: () =>
      guarded(async () => {
        const leaving = loan;
        if (!leaving || state.lending.value.kind !== 'lending') return;
        state.lending.value = { kind: 'leaving' };
        loan = null; // its worker's end is no accident from here on
        await leaving.leave();
        end({ kind: 'idle' });
        state.notice.value = `You left the mesh; ${leaving.uid} is withdrawn. Thank you.`;
      }),

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

const workerDied = (reason: string): MeshError =>
  new MeshError(
    'gpu-lost',
    `The compute worker of this tab died: ${reason}.`,
    'Press the button to start again; if it happens again, reload the page or update the graphics driver.',
  );
