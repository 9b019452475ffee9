// The watching half of the page: joins the monitor as an observer and keeps the state's records, runs and log up to date.
import { batch } from '@preact/signals';
import { createIdentity } from '../runtime/mesh/identity.ts';
import type { JoinTarget } from '../runtime/mesh/join-url.ts';
import { joinMonitor, type PublishedEvent } from '../runtime/mesh/monitor-client.ts';
import { toMeshError } from '../runtime/errors.ts';
import type { MeshEvent } from '../runtime/events.ts';
import { logLine } from './event-text.ts';
import { withWorkerEvent, type Holder } from './federated-view.ts';
import { parseRunEvent, parseStats, parseWorkerEvent } from './published.ts';
import { withEvent } from './run-view.ts';
import type { State } from './state.ts';

const LOG_LINES = 200;

/** Resolves once it watches; the state then follows the mesh, through losses of the monitor too. Failures are put into the state. */
export async function observe(target: JoinTarget, state: State): Promise<void> {
  state.access.value = { kind: 'joining' };
  try {
    const identity = await createIdentity();
    const monitor = await joinMonitor({ target, identity, role: 'observer', emit: (event) => onOwn(state, event) });
    state.access.value = { kind: 'joined', isConnected: true };
    await monitor.watch('', (records) => {
      state.records.value = new Map(records);
    });
    let key = 0;
    await monitor.observe((events) => batch(() => take(state, events, () => key++)));
  } catch (cause) {
    state.access.value = { kind: 'refused', error: toMeshError(cause).toShape() };
  }
}

/** The connection of this page itself. */
function onOwn(state: State, event: MeshEvent): void {
  if (event.kind === 'monitor.lost') state.access.value = { kind: 'joined', isConnected: false };
  if (event.kind === 'monitor.joined') state.access.value = { kind: 'joined', isConnected: true };
}

function take(state: State, events: readonly PublishedEvent[], nextKey: () => number): void {
  const lines = [];
  for (const event of events) {
    const ofRun = parseRunEvent(event);
    if (ofRun) state.runs.value = withEvent(state.runs.value, ofRun);
    const ofWorker = parseWorkerEvent(event);
    if (ofWorker)
      state.federatedRuns.value = withWorkerEvent(state.federatedRuns.value, ofWorker, holderOf(state, ofWorker.uid));
    const stats = parseStats(event);
    if (stats) state.stats.value = new Map(state.stats.value).set(stats.uid, stats);
    const line = logLine(event, nextKey());
    if (line) lines.push(line);
  }
  if (lines.length > 0) state.log.value = [...state.log.value, ...lines].slice(-LOG_LINES);
}

function holderOf(state: State, uid: string): Holder | null {
  const record = state.records.value.get(uid);
  return record?.kind === 'stage' ? record : null;
}
