// Who hosts which stage: the live records of the directory, with the newest figures that their peers published. Federated workers host no stage
// of a pipeline: they are counted here and shown with their run.
import type { StageRecord } from '../../runtime/wire/records.ts';
import { plainText, rate, shortPeer } from '../format.ts';
import type { State } from '../state.ts';

export function StagesTable({ state }: { state: State }) {
  const stages = state.stages.value;
  const workers = state.workers.value;
  const peers = new Set([...stages, ...workers].map((record) => record.peer)).size;
  return (
    <section class="card" aria-labelledby="peers-title">
      <div class="title">
        <h2 id="peers-title">Peers and stages</h2>
        <span class="muted">
          <span data-testid="peers-count">{peers}</span> {peers === 1 ? 'peer' : 'peers'},{' '}
          <span data-testid="stages-count">{stages.length}</span> {stages.length === 1 ? 'stage' : 'stages'}
          {workers.length > 0 ? (
            <>
              , <span data-testid="workers-count">{workers.length}</span>{' '}
              {workers.length === 1 ? 'federated worker' : 'federated workers'}
            </>
          ) : null}
        </span>
      </div>
      {stages.length === 0 ? (
        <p class="muted">
          {workers.length === 0
            ? 'Nobody lends a GPU yet. Be the first with the button above, or lend a headless machine.'
            : 'Nobody lends a GPU for a stage: those who are here train as workers of a federated run.'}
        </p>
      ) : (
        <table>
          <thead>
            <tr>
              <th scope="col">Stage</th>
              <th scope="col">GPU</th>
              <th scope="col">Where</th>
              <th scope="col" class="number">
                Samples/s
              </th>
              <th scope="col" class="number">
                At work
              </th>
            </tr>
          </thead>
          <tbody data-testid="stages">
            {stages.map((record) => (
              <Row key={record.name} record={record} state={state} />
            ))}
          </tbody>
        </table>
      )}
    </section>
  );
}

function Row({ record, state }: { record: StageRecord; state: State }) {
  const { lending } = state;
  const isOwn = lending.value.kind === 'lending' && lending.value.uid === record.name;
  const stats = state.stats.value.get(record.name);
  const isFresh = stats?.publisher === record.peer;
  return (
    <tr>
      <th scope="row">
        <code>{record.name}</code>
        {isOwn ? <span class="tag">this tab</span> : null}
      </th>
      <td data-label="GPU">
        <span>
          {plainText(record.device)}
          {record.isSoftware ? <span class="tag">software</span> : null}
        </span>
      </td>
      <td data-label="Where">
        <span>
          {record.host === 'browser' ? 'browser' : 'Node'} <span class="muted">{shortPeer(record.peer)}</span>
        </span>
      </td>
      <td data-label="Samples/s" class="number">
        {record.run === null ? '–' : rate(isFresh ? stats.samplesPerSecond : record.samplesPerSecond)}
      </td>
      <td data-label="At work" class="number">
        {record.isPaused ? 'paused' : record.load}
      </td>
    </tr>
  );
}
