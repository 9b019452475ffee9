// Which stage a newcomer hosts. Pure: the directory's records in, a UID out.
import { formatUid, parseUid, type Uid, type UidParts } from '../runtime/wire/ids.ts';
import type { MeshRecord, RunRecord, StageRecord } from '../runtime/wire/records.ts';

export interface StageChoice {
  stage: string;
  version: number;
  subversion: number;
  replicas: number;
}

type Records = ReadonlyMap<string, MeshRecord>;

type Pipeline = Pick<RunRecord, 'stages' | 'version' | 'subversion'>;

/** What a run without a configuration of its own is made of: as long as nobody has started one, this is what will be needed. */
const DEFAULT_PIPELINE: Pipeline = { stages: ['front', 'back'], version: 0, subversion: 0 };

/** Its record is of the same kind as a stage's, but nobody helps it by hosting another one like it. */
export const isFederatedWorker = (record: MeshRecord): record is StageRecord =>
  record.kind === 'stage' && record.federation !== undefined;

export const isPipelineStage = (record: MeshRecord): record is StageRecord =>
  record.kind === 'stage' && record.federation === undefined;

/** The stage of the newest run that has the fewest live replicas; of equals the first in the pipeline. */
export function chooseStage(records: Records): StageChoice {
  const run = newest([...records.values()].filter((record) => record.kind === 'run'));
  const stages = stagesOf(records, run ?? DEFAULT_PIPELINE);
  return stages.reduce((best, stage) => (stage.replicas < best.replicas ? stage : best));
}

/** Every stage that one may help with: those of the runs, and those that somebody hosts already. */
export function knownStages(records: Records): StageChoice[] {
  const found = new Map<string, StageChoice>();
  const add = (choice: StageChoice): void => {
    found.set(`${choice.stage}.${choice.version}.${choice.subversion}`, choice);
  };
  for (const record of records.values()) {
    if (record.kind === 'run') for (const choice of stagesOf(records, record)) add(choice);
    else if (isPipelineStage(record)) {
      const { stage, version, subversion } = parseUid(record.name);
      add({ stage, version, subversion, replicas: replicasOf(records, { stage, version, subversion }).length });
    }
  }
  return [...found.values()];
}

/** The stage's UID with the lowest expert index, from `from` upwards, that nobody holds and that is not in `taken`. */
export function freeUid(
  records: Records,
  choice: Pick<UidParts, 'stage' | 'version' | 'subversion'>,
  taken: ReadonlySet<string>,
  from = 0,
): Uid {
  for (let expertIndex = from; ; expertIndex += 1) {
    const uid = formatUid({ ...choice, expertIndex });
    if (!records.has(uid) && !taken.has(uid)) return uid;
  }
}

function stagesOf(records: Records, { stages, version, subversion }: Pipeline): StageChoice[] {
  return stages.map((stage) => {
    const choice = { stage, version, subversion };
    return { ...choice, replicas: replicasOf(records, choice).length };
  });
}

function replicasOf(records: Records, choice: Pick<UidParts, 'stage' | 'version' | 'subversion'>): MeshRecord[] {
  return [...records.values()].filter((record) => {
    // A paused one keeps its place, but does none of the work that is to be shared.
    if (!isPipelineStage(record) || record.isPaused) return false;
    const { stage, version, subversion } = parseUid(record.name);
    return stage === choice.stage && version === choice.version && subversion === choice.subversion;
  });
}

const newest = (runs: readonly RunRecord[]): RunRecord | undefined =>
  [...runs].sort((a, b) => b.issuedAt - a.issuedAt)[0];
