// The client, or trainer manager: one run from the first discovery to the exported model. It drives; it holds no weights.
import { MeshError, toMeshError } from '../errors.ts';
import type { Emit, EventOf } from '../events.ts';
import type { Peer } from '../mesh/peer.ts';
import { formatUid, runIdSchema, type RunId } from '../wire/ids.ts';
import { RECORD_TTL_MS, type RunRecord } from '../wire/records.ts';
import type { Tensor } from '../tensor.ts';
import { asyncSteps } from './async.ts';
import { planStages, type RunConfig } from './config.ts';
import { evaluate, pullModel, type Evaluation } from './evaluate.ts';
import { Roster } from './roster.ts';
import { makeSchedule, type Schedule } from './schedule.ts';
import { Session } from './session.ts';
import { syncStep } from './sync.ts';

/** What a run needs of its data, whatever it is. */
export interface RunData {
  train: { rows: number; batch(rows: Uint32Array): { x: Tensor; y: Tensor }; order(epoch: number): Uint32Array };
  test: { rows: number; batch(rows: Uint32Array): { x: Tensor; y: Tensor } };
  classes: number;
}

export interface ClientOptions {
  peer: Peer;
  config: RunConfig;
  data: RunData;
  emit: Emit;
  signal: AbortSignal;
  /** Keeps the model's bytes; returns where. */
  save: (tensors: ReadonlyMap<string, Tensor>) => Promise<string>;
}

const PROGRESS_MS = 500;

/** Runs to the end. Rejects with the reason when it cannot go on; stages are closed either way. */
export async function runClient(options: ClientOptions): Promise<EventOf<'run.done'>> {
  const { peer, config, emit, signal } = options;
  const run = config.run ?? runIdSchema.parse(`run-${crypto.randomUUID().slice(0, 8)}`);
  const plans = planStages(config);
  const { version, subversion } = config;
  const roster = new Roster({
    stages: plans.map((plan) => plan.name),
    version,
    subversion,
    now: () => performance.now(),
  });
  const { train } = options.data;
  const schedule = makeSchedule({ ...config, rows: train.rows, order: (epoch) => train.order(epoch) });
  const session = new Session({
    run,
    config,
    plans,
    roster,
    ask: peer.ask,
    isConnected: (id) => peer.isConnected(id),
    emit,
    schedule,
    batchOf: (rows) => train.batch(rows),
    signal,
  });
  const unwatch = await followDirectory(peer, roster);
  await peer.monitor?.announce(`run/${run}`, () => runRecord(peer, run, config));
  try {
    await session.ready(0);
    emit({
      kind: 'run.started',
      run,
      mode: config.mode,
      policy: config.policy,
      stages: plans.map((plan) => formatUid({ stage: plan.name, version, expertIndex: 0, subversion })),
      plannedMicrobatches: schedule.microbatches,
      plannedSteps: schedule.steps,
    });
    return await trainAll(options, session, schedule);
  } catch (cause) {
    const error = signal.aborted
      ? new MeshError('cancelled', 'The run was interrupted.', 'Start it again.')
      : explained(toMeshError(cause), config);
    emit({ kind: 'run.failed', run, ...error.toShape() });
    throw error;
  } finally {
    unwatch();
    await closeStages(session);
    await peer.monitor
      ?.withdraw(`run/${run}`)
      .catch((cause: unknown) => emit({ kind: 'log', level: 'warn', message: toMeshError(cause).message }));
  }
}

/** What a stage or the trainer saw of a divergence is one number; the person who drives the run needs to know what it means. */
function explained(error: MeshError, { optimizer }: RunConfig): MeshError {
  if (error.code !== 'not-finite') return error;
  return new MeshError(
    'not-finite',
    `The run has diverged: ${error.message}`,
    `Lower optimizer.lr (it is ${optimizer.lr}) and start again; if it recurs, look for values in the data that are far too large.`,
    { cause: error },
  );
}

async function trainAll(options: ClientOptions, session: Session, schedule: Schedule): Promise<EventOf<'run.done'>> {
  const { config, emit } = options;
  const { run } = session.options;
  const progress = progressReporter(session, schedule, config.epochs);
  let evaluation: Evaluation | null = null;
  let model = '';
  for (let from = 0; from < schedule.steps; from += schedule.stepsPerEpoch) {
    const to = Math.min(from + schedule.stepsPerEpoch, schedule.steps);
    progress.resume();
    if (config.mode === 'sync')
      for (let step = from; step < to; step += 1)
        progress.count({ step, loss: await syncStep(session, step), samples: schedule.rowsAt(step) });
    else {
      const staleness = await asyncSteps(session, from, to, progress.count);
      emit({ kind: 'log', level: 'info', message: `${run}: worst staleness ${staleness} steps` });
    }
    progress.pause();
    // What was learned is safe before anything else is asked of the stages.
    if (to === schedule.steps) model = await options.save(await session.again(to, () => pullModel(session)));
    evaluation = await session.again(to, () => evaluate(session, options.data));
    emit({ kind: 'run.evaluated', run, epoch: Math.ceil(to / schedule.stepsPerEpoch), ...evaluation });
  }
  const done: EventOf<'run.done'> = {
    kind: 'run.done',
    run,
    accuracy: evaluation?.accuracy ?? 0,
    perClassAccuracy: evaluation?.perClassAccuracy ?? [],
    samplesPerSecond: Math.round(schedule.samples / progress.seconds()),
    peers: session.mostPeers,
    trainers: session.mostTrainers,
    plannedMicrobatches: schedule.microbatches,
    appliedMicrobatches: session.applied,
    seconds: Math.round(progress.seconds() * 10) / 10,
    model,
  };
  emit(done);
  return done;
}

/** The directory's view into the roster, and the links of those who vanished from it under suspicion. */
async function followDirectory(peer: Peer, roster: Roster): Promise<() => void> {
  if (!peer.monitor)
    throw new MeshError('usage', 'A run needs a monitor to find its peers.', 'Give a join link with --join.');
  return peer.monitor.watch('', (records) => {
    for (const gone of roster.update(records, (id) => peer.isConnected(id)))
      void peer.links.suspect(gone, 'its record is gone');
  });
}

function runRecord(peer: Peer, run: RunId, config: RunConfig): RunRecord {
  const issuedAt = Date.now();
  return {
    kind: 'run',
    name: `run/${run}`,
    peer: peer.id,
    stages: config.stages.map((stage) => stage.name),
    version: config.version,
    subversion: config.subversion,
    mode: config.mode,
    policy: config.policy,
    model: JSON.stringify(config.model).slice(0, 500),
    issuedAt,
    expiresAt: issuedAt + RECORD_TTL_MS,
  };
}

/** Figures of the run as it goes, at most every half second; the clock stands still while nothing is trained. */
function progressReporter(
  session: Session,
  schedule: Schedule,
  epochs: number,
): {
  count: (done: { step: number; loss: number; samples: number }) => void;
  pause: () => void;
  resume: () => void;
  seconds: () => number;
} {
  const { run, emit, roster } = session.options;
  let samples = 0;
  let loss = 0;
  let spentMs = 0;
  let since: number | null = null;
  let lastShown = 0;
  const elapsed = (): number => (spentMs + (since === null ? 0 : performance.now() - since)) / 1_000;
  return {
    resume: () => {
      since ??= performance.now();
    },
    pause: () => {
      if (since !== null) spentMs += performance.now() - since;
      since = null;
    },
    seconds: elapsed,
    count: (done) => {
      samples += done.samples;
      loss = loss === 0 ? done.loss : loss * 0.95 + done.loss * 0.05;
      const now = performance.now();
      if (now - lastShown < PROGRESS_MS) return;
      lastShown = now;
      const samplesPerSecond = samples / Math.max(elapsed(), 1e-3);
      emit({
        kind: 'run.progress',
        run,
        epoch: Math.floor(done.step / schedule.stepsPerEpoch) + 1,
        epochs,
        step: done.step + 1,
        steps: schedule.steps,
        loss,
        samplesPerSecond,
        peers: roster.peers(),
        trainers: session.trainers.length,
        etaSeconds: (schedule.samples - samples) / samplesPerSecond,
      });
    },
  };
}

/** Gives back every stage that this run may have built, active or not; one that is gone has closed itself. */
async function closeStages(session: Session): Promise<void> {
  const { roster, ask, run, isConnected } = session.options;
  await Promise.allSettled(
    (['active', 'new', 'out'] as const)
      .flatMap((state) => roster.members(state))
      .filter((member) => isConnected(member.replica.peer))
      .map((member) => ask(member.replica, 'stage.close', { uid: member.replica.uid, run }, { deadlineMs: 2_000 })),
  );
}
