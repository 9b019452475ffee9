// Which federated runs the directory shows, and which places among their workers are free. Pure. Of a worker's configuration it reads no more
// than the page shows: a stranger wrote it, and who takes a place has all of it checked then.
import { z } from 'zod';
import { MeshError } from '../runtime/errors.ts';
import { formatUid, parseUid, runIdSchema, stageNameSchema, type Uid } from '../runtime/wire/ids.ts';
import type { MeshRecord } from '../runtime/wire/records.ts';

/** As large as the parts of a UID. */
const index = z.int().min(0).max(999_999);

const shownSchema = z.object({
  run: runIdSchema,
  worker: index,
  workers: z.int().min(1).max(100_000),
  stage: stageNameSchema,
  version: index,
  subversion: index,
  data: z.unknown(),
});

type Shown = z.infer<typeof shownSchema>;

export interface Federation {
  run: string;
  workers: number;
  stage: string;
  version: number;
  subversion: number;
  /** Indices that have a record. */
  present: number;
  /** Indices without one, ascending; of very many the first hundred. */
  free: readonly number[];
  /** Why a tab cannot be one of its workers; null if it can. */
  problem: MeshError | null;
  /** The configuration as one of its workers tells it: JSON, unchecked. */
  text: string;
}

export interface Place {
  federation: Federation;
  worker: number;
  uid: Uid;
}

/** What the person asked for, by the address or by choosing; null leaves it to the page. */
export interface WantedPlace {
  run: string | null;
  worker: number | null;
}

/** Then training is what the page is open for. */
export const isAskedToTrain = ({ run, worker }: WantedPlace): boolean => run !== null || worker !== null;

const MAX_FREE = 100;
/** To know whose neighbour it is, a worker looks at every pair; a page must not be made to look at billions. */
const MAX_WORKERS = 1_000;

interface Member extends Shown {
  text: string;
  /** The configuration without its `worker`. */
  common: string;
}

/** A reader that parses each configuration once, as long as it is in the directory. By run. */
export function federationReader(): (records: ReadonlyMap<string, MeshRecord>) => Federation[] {
  let known = new Map<string, Member | null>();
  return (records) => {
    const seen = new Map<string, Member | null>();
    const families = new Map<string, Member[]>();
    for (const record of records.values()) {
      if (record.kind !== 'stage' || record.federation === undefined) continue;
      const text = record.federation;
      const member = known.get(text) ?? memberOf(text);
      seen.set(text, member);
      // One that tells of another place than the one that it holds is nobody's witness.
      if (!member || uidIn(member, member.worker) !== record.name) continue;
      const { run, stage, version, subversion } = member;
      const family = [run, stage, version, subversion].join(' ');
      families.set(family, [...(families.get(family) ?? []), member]);
    }
    known = seen;
    return [...families.values()]
      .flatMap((members) => federationOf(members, records) ?? [])
      .sort((a, b) => a.run.localeCompare(b.run, 'en', { numeric: true }));
  };
}

/** The place to offer; null where none is free. A place that is held gives way to the next one that is free. */
export function placeFor(federations: readonly Federation[], wanted: WantedPlace): Place | null {
  const open = federations.filter(({ free }) => free.length > 0);
  const federation = wanted.run === null ? open[0] : open.find(({ run }) => run === wanted.run);
  if (!federation) return null;
  const worker = nextFree(federation, wanted.worker ?? 0);
  return worker === null ? null : { federation, worker, uid: uidIn(federation, worker) };
}

/** The first free index from `from` on, then from 0, that is not in `taken`. */
export function nextFree({ free }: Federation, from: number, taken?: ReadonlySet<number>): number | null {
  const left = free.filter((worker) => !taken?.has(worker));
  return left.find((worker) => worker >= from) ?? left[0] ?? null;
}

/** The run among whose workers this UID is a place. */
export function runOfPlace(federations: readonly Federation[], uid: string): string | null {
  const { stage, version, subversion, expertIndex } = parseUid(uid);
  const found = federations.find(
    (one) =>
      one.stage === stage && one.version === version && one.subversion === subversion && expertIndex < one.workers,
  );
  return found?.run ?? null;
}

/** Why a tab cannot be a worker of such a run, and what to do instead; null if it can. */
export function problemOf({ workers, data }: { workers: number; data?: unknown }): MeshError | null {
  const why = manyProblem(workers) ?? dataProblem(data);
  const instead = 'Take the place with a process: node node/serve.ts --join LINK --worker --config FILE.';
  return why === null ? null : new MeshError('usage', why, instead);
}

const manyProblem = (workers: number): string | null =>
  workers <= MAX_WORKERS ? null : `A tab takes part in runs of up to ${MAX_WORKERS} workers; this one has ${workers}.`;

/** Data that go by a name the monitor has; all others are paths. */
function dataProblem(data: unknown): string | null {
  if (typeof data === 'string') return null;
  const isText = typeof data === 'object' && data !== null && 'text' in data;
  return `A tab cannot read ${isText ? 'the text' : 'the data'} of this run: ${isText ? 'it is' : 'they are'} in files of each worker's machine.`;
}

const uidIn = ({ stage, version, subversion }: Pick<Shown, 'stage' | 'version' | 'subversion'>, worker: number): Uid =>
  formatUid({ stage, version, expertIndex: worker, subversion });

function memberOf(text: string): Member | null {
  try {
    const document: unknown = JSON.parse(text);
    const parsed = shownSchema.safeParse(document);
    if (!parsed.success || parsed.data.worker >= parsed.data.workers) return null;
    return { ...parsed.data, text, common: JSON.stringify({ ...(document as object), worker: 0 }) };
  } catch {
    return null; // not JSON: whoever announced it offers no place
  }
}

/** What most of its workers say; one that tells something else does not speak for the run. */
function federationOf(members: readonly Member[], records: ReadonlyMap<string, MeshRecord>): Federation | null {
  const votes = new Map<string, number>();
  for (const { common } of members) votes.set(common, (votes.get(common) ?? 0) + 1);
  const [spokesman] = [...members].sort(
    (a, b) => (votes.get(b.common) ?? 0) - (votes.get(a.common) ?? 0) || a.worker - b.worker,
  );
  if (!spokesman) return null;
  const { run, workers, stage, version, subversion, data, text } = spokesman;
  const free: number[] = [];
  for (let worker = 0; worker < workers && free.length < MAX_FREE; worker += 1)
    if (!records.has(uidIn(spokesman, worker))) free.push(worker);
  const problem = problemOf({ workers, data });
  return { run, workers, stage, version, subversion, present: members.length, free, problem, text };
}
