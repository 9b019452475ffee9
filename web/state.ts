// What the page knows, as signals. Written by observe.ts and lending.ts, read by the components; nothing here does anything.
import { computed, signal, type ReadonlySignal, type Signal } from '@preact/signals';
import type { MeshErrorShape } from '../runtime/errors.ts';
import type { TransportKind } from '../runtime/events.ts';
import type { JoinTarget } from '../runtime/mesh/join-url.ts';
import type { Uid } from '../runtime/wire/ids.ts';
import type { MeshRecord, RunRecord, StageRecord } from '../runtime/wire/records.ts';
import { isFederatedWorker, isPipelineStage } from './choose-stage.ts';
import type { LogLine } from './event-text.ts';
import { newestFederation, type FederatedView, type FederatedViews, type WorkerView } from './federated-view.ts';
import { federationReader, type Federation, type WantedPlace } from './federations.ts';
import { newestRun, type RunView } from './run-view.ts';

/** How the page stands with the monitor. */
export type Access =
  | { kind: 'no-link' }
  | { kind: 'bad-link'; error: MeshErrorShape }
  | { kind: 'insecure'; why: string }
  | { kind: 'joining' }
  | { kind: 'refused'; error: MeshErrorShape }
  | { kind: 'joined'; isConnected: boolean };

export type Gpu =
  { kind: 'looking' } | { kind: 'found'; name: string; isSoftware: boolean } | { kind: 'none'; why: string };

/** A stage for runs of others, or a worker with data of its own. */
export type Part = 'stage' | 'worker';

/** What this tab does for the mesh. `isChanging`: a click is being carried out. */
export type Lending =
  | { kind: 'idle' }
  | { kind: 'starting'; as: Part; doing: string }
  | { kind: 'lending' | 'training'; uid: Uid; isPaused: boolean; isChanging: boolean }
  | { kind: 'trained'; uid: Uid }
  | { kind: 'leaving'; as: Part }
  | { kind: 'failed'; error: MeshErrorShape };

export interface OpenLink {
  peer: string;
  transport: TransportKind;
}

/** Figures of what this tab hosts. */
export interface Figures {
  run: string | null;
  samplesPerSecond: number;
  samples: number;
  loss: number | null;
  bytesIn: number;
  bytesOut: number;
  links: readonly OpenLink[];
}

/** A stage's own figures as it publishes them, newer than those in its record. */
export interface StageStats {
  publisher: string;
  samplesPerSecond: number;
}

export interface State {
  readonly target: Signal<JoinTarget | null>;
  readonly access: Signal<Access>;
  readonly gpu: Signal<Gpu>;
  readonly lending: Signal<Lending>;
  readonly figures: Signal<Figures>;
  /** What is worth telling about the loan beside its state: a UID that was taken, a tab that was hidden. */
  readonly notice: Signal<string | null>;
  /** What the person typed or chose as the stage to host; empty lets Skein choose. */
  readonly wantedUid: Signal<string>;
  /** As which worker of which federated run this tab is to train. */
  readonly wantedPlace: Signal<WantedPlace>;
  /** The worker in this tab, by its own account; kept when it is done. */
  readonly ownWorker: Signal<WorkerView | null>;
  readonly records: Signal<ReadonlyMap<string, MeshRecord>>;
  readonly stats: Signal<ReadonlyMap<string, StageStats>>;
  readonly runs: Signal<ReadonlyMap<string, RunView>>;
  /** The run to show; null shows the newest. */
  readonly chosenRun: Signal<string | null>;
  readonly federatedRuns: Signal<FederatedViews>;
  /** As with chosenRun; of the worker, null shows this tab's own or the first. */
  readonly chosenFederation: Signal<string | null>;
  readonly chosenWorker: Signal<string | null>;
  readonly log: Signal<readonly LogLine[]>;
  readonly stages: ReadonlySignal<readonly StageRecord[]>;
  readonly runRecords: ReadonlySignal<readonly RunRecord[]>;
  readonly shownRun: ReadonlySignal<RunView | null>;
  /** Records of federated workers. */
  readonly workers: ReadonlySignal<readonly StageRecord[]>;
  readonly federations: ReadonlySignal<readonly Federation[]>;
  readonly shownFederation: ReadonlySignal<FederatedView | null>;
}

export const NO_FIGURES: Figures = {
  run: null,
  samplesPerSecond: 0,
  samples: 0,
  loss: null,
  bytesIn: 0,
  bytesOut: 0,
  links: [],
};

export function createState(): State {
  const records = signal<ReadonlyMap<string, MeshRecord>>(new Map());
  const runs = signal<ReadonlyMap<string, RunView>>(new Map());
  const chosenRun = signal<string | null>(null);
  const federatedRuns = signal<FederatedViews>(new Map());
  const chosenFederation = signal<string | null>(null);
  const readFederations = federationReader();
  const byName = (a: MeshRecord, b: MeshRecord): number => a.name.localeCompare(b.name, 'en', { numeric: true });
  return {
    target: signal(null),
    access: signal<Access>({ kind: 'joining' }),
    gpu: signal<Gpu>({ kind: 'looking' }),
    lending: signal<Lending>({ kind: 'idle' }),
    figures: signal(NO_FIGURES),
    notice: signal<string | null>(null),
    wantedUid: signal(''),
    wantedPlace: signal<WantedPlace>({ run: null, worker: null }),
    ownWorker: signal<WorkerView | null>(null),
    records,
    stats: signal<ReadonlyMap<string, StageStats>>(new Map()),
    runs,
    ...{ chosenRun, federatedRuns, chosenFederation },
    chosenWorker: signal<string | null>(null),
    log: signal<readonly LogLine[]>([]),
    stages: computed(() => [...records.value.values()].filter(isPipelineStage).sort(byName)),
    workers: computed(() => [...records.value.values()].filter(isFederatedWorker).sort(byName)),
    runRecords: computed(() => [...records.value.values()].filter((record) => record.kind === 'run')),
    shownRun: computed(() => runs.value.get(chosenRun.value ?? '') ?? newestRun(runs.value)),
    federations: computed(() => readFederations(records.value)),
    shownFederation: computed(
      () => federatedRuns.value.get(chosenFederation.value ?? '') ?? newestFederation(federatedRuns.value),
    ),
  };
}
