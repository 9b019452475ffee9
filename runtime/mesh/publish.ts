// Which of a peer's events others get to see: the monitor passes them on to its observers, the dashboards.
import type { EventBus, MeshEvent } from '../events.ts';
import type { Monitor } from './monitor-client.ts';

/** Kinds that only their own process cares for. */
const PRIVATE: ReadonlySet<MeshEvent['kind']> = new Set([
  'monitor.joined',
  'monitor.lost',
  'record.added',
  'record.removed',
  'microbatch.done',
  'step.applied',
  'stage.stepped',
]);

/** Shows this peer's events on the dashboards. */
export function publishTo(monitor: Monitor, bus: EventBus): () => void {
  return bus.on((event) => {
    if (!PRIVATE.has(event.kind)) monitor.publish([event]);
  });
}
