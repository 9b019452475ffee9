// For those who want to say which stage this tab hosts. Left alone, Skein chooses.
import { MeshError } from '../../runtime/errors.ts';
import { parseUid } from '../../runtime/wire/ids.ts';
import { chooseStage, freeUid, knownStages } from '../choose-stage.ts';
import { runOfPlace, type Federation } from '../federations.ts';
import type { State } from '../state.ts';

const NONE_TAKEN: ReadonlySet<string> = new Set();

/** Why the text is no UID of a stage; null if it is one, or empty. */
export function uidProblem(text: string, federations: readonly Federation[]): string | null {
  if (text.trim() === '') return null;
  try {
    const { uid } = parseUid(text.trim());
    const run = runOfPlace(federations, uid);
    return run === null
      ? null
      : `${uid} is a worker's place in the federated run ${run}: train as that worker instead.`;
  } catch (cause) {
    return cause instanceof MeshError ? `${cause.message} ${cause.fix}` : String(cause);
  }
}

export function StagePicker({ state }: { state: State }) {
  const records = state.records.value;
  const text = state.wantedUid.value;
  const problem = uidProblem(text, state.federations.value);
  const stages = knownStages(records).map((choice) => ({ ...choice, uid: freeUid(records, choice, NONE_TAKEN) }));
  const own = freeUid(records, chooseStage(records), NONE_TAKEN);
  return (
    <details class="picker" open={text !== ''}>
      <summary>
        {text === '' ? (
          <>
            Will host <code data-testid="next-uid">{own}</code>; choose another stage
          </>
        ) : (
          'Choose the stage'
        )}
      </summary>
      <div class="fields">
        {stages.length > 0 ? (
          <label>
            Stage
            <select
              value={stages.some(({ uid }) => uid === text) ? text : ''}
              onChange={(event) => (state.wantedUid.value = event.currentTarget.value)}
              data-testid="stage-select"
            >
              <option value="">Where help is needed most</option>
              {stages.map(({ uid, replicas }) => (
                <option key={uid} value={uid}>
                  {uid} ({replicas} {replicas === 1 ? 'replica' : 'replicas'} now)
                </option>
              ))}
            </select>
          </label>
        ) : null}
        <label>
          UID
          <input
            type="text"
            value={text}
            placeholder="front.0.1.0"
            spellcheck={false}
            autocapitalize="off"
            autocomplete="off"
            maxLength={100}
            aria-invalid={problem !== null}
            aria-describedby="uid-problem"
            onInput={(event) => (state.wantedUid.value = event.currentTarget.value)}
            data-testid="uid-input"
          />
        </label>
        <p id="uid-problem" class={problem === null ? 'muted' : 'error'} role="status" data-testid="uid-problem">
          {problem ?? '{stage_name}.{version}.{expert_index}.{subversion}; leave it empty to let Skein choose.'}
        </p>
      </div>
    </details>
  );
}
