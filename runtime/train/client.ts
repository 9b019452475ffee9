// The client, or trainer manager: one run from the first discovery to the exported model. It drives; it holds no weights.
import { MeshError, toMeshError } from '../errors.ts';
import type { Emit, EventOf } from '../events.ts';
import type { Peer } from '../mesh/peer.ts';
import { formatUid, runIdSchema, type RunId } from '../wire/ids.ts';
import { RECORD_TTL_MS, type RunRecord } from '../wire/records.ts';
import type { Tensor } from '../tensor.ts';
import { asyncSteps } from './async.ts';
import { planStages, type RunConfig } from './config.ts';
import { mergeStates, type Snapshot } from './checkpoint.ts';
import { evaluate, nextLogits, pullModel, pullStates, type Evaluation } from './evaluate.ts';
import { expectTravels } from './frame-limit.ts';
import { milestones } from './milestones.ts';
import { progressReporter } from './progress.ts';
import { Roster } from './roster.ts';
import { makeSchedule, type Schedule } from './schedule.ts';
import { Session } from './session.ts';
import type { Resumed } from './session-options.ts';
import { syncStep } from './sync.ts';

/** What a run needs of its data, whatever it is. */
export interface RunData {
  /** Rows with one label each, or windows of text, whose labels are the tokens that follow. */
  kind: 'classes' | 'tokens';
  train: { rows: number; batch(rows: Uint32Array): { x: Tensor; y: Tensor }; order(epoch: number): Uint32Array };
  test: { rows: number; batch(rows: Uint32Array): { x: Tensor; y: Tensor } };
  /** Labels that there are, or tokens. */
  classes: number;
  /** Tokens to a window; 1 where a row has one label. */
  targetsPerRow: number;
}

/** The trained model, while its stages are still there. */
export interface TrainedModel {
  /** Logits of the token that follows the given ones, (V). */
  nextLogits(ids: Int32Array<ArrayBuffer>): Promise<Float32Array>;
}

export interface ClientOptions {
  peer: Peer;
  config: RunConfig;
  data: RunData;
  emit: Emit;
  signal: AbortSignal;
  /** Keeps the model's bytes; returns where. */
  save: (tensors: ReadonlyMap<string, Tensor>) => Promise<string>;
  /** Keeps a checkpoint, where the configuration asks for them. */
  keep?: ((snapshot: Snapshot) => Promise<void>) | undefined;
  /** Where the run goes on from. */
  resumed?: Resumed | undefined;
  /** After the last evaluation. */
  finish?: ((model: TrainedModel) => Promise<void>) | undefined;
}

/** Runs to the end. Rejects with the reason when it cannot go on; stages are closed either way. */
export async function runClient(options: ClientOptions): Promise<EventOf<'run.done'>> {
  const { peer, config, emit, signal } = options;
  const run = config.run ?? runIdSchema.parse(`run-${crypto.randomUUID().slice(0, 8)}`);
  const plans = planStages(config);
  const warning = expectTravels(config, plans);
  if (warning !== null) emit({ kind: 'log', level: 'warn', message: warning });
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
    targetsPerRow: options.data.targetsPerRow,
    resumed: options.resumed,
    signal,
  });
  const start = options.resumed?.step ?? 0;
  if (start > schedule.steps)
    throw new MeshError(
      'usage',
      `The checkpoint is at step ${start}, and the run has ${schedule.steps} steps.`,
      'Raise epochs or maxSteps.',
    );
  const unwatch = await followDirectory(peer, roster);
  await peer.monitor?.announce(`run/${run}`, () => runRecord(peer, run, config));
  try {
    await session.ready(start);
    emit({
      kind: 'run.started',
      run,
      mode: config.mode,
      policy: config.policy,
      stages: plans.map((plan) => formatUid({ stage: plan.name, version, expertIndex: 0, subversion })),
      plannedMicrobatches: schedule.microbatches,
      plannedSteps: schedule.steps,
      ...(options.resumed ? { resumedAt: start } : {}),
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
  const { config, emit, data, resumed } = options;
  const { run } = session.options;
  const start = resumed?.step ?? 0;
  const { evalEvery = null, checkpoints, epochs } = config;
  const remaining = remainingOf(schedule, start);
  const tokensPerRow = data.kind === 'tokens' ? data.targetsPerRow : null;
  const progress = progressReporter(session, schedule, { epochs, remaining: remaining.samples, tokensPerRow });
  const stops = milestones({
    ...{ start, steps: schedule.steps, stepsPerEpoch: schedule.stepsPerEpoch, mode: config.mode, evalEvery },
    checkpointEvery: checkpoints?.every ?? null,
  });
  let evaluation: Evaluation | null = null;
  let model = '';
  let from = start;
  for (const { step: to, evaluates, keepsCheckpoint } of stops) {
    progress.resume();
    if (config.mode === 'sync')
      for (let step = from; step < to; step += 1)
        progress.count({ step, loss: await syncStep(session, step), samples: schedule.rowsAt(step) });
    else if (from < to) {
      const staleness = await asyncSteps(session, from, to, progress.count);
      emit({ kind: 'log', level: 'info', message: `${run}: worst staleness ${staleness} steps` });
    }
    progress.pause();
    from = to;
    // What was learned is safe before anything else is asked of the stages.
    if (keepsCheckpoint && to > start) await keepCheckpoint(options, session, schedule, to);
    if (to === schedule.steps) model = await options.save(await session.again(to, () => pullModel(session)));
    if (!evaluates) continue;
    evaluation = await session.again(to, () => evaluate(session, data));
    const epoch = Math.ceil(to / schedule.stepsPerEpoch);
    emit({ kind: 'run.evaluated', run, epoch, step: to, ...evaluation });
  }
  let turn = 0;
  await options.finish?.({
    nextLogits: (ids) => session.again(schedule.steps, () => nextLogits(session, ids, turn++)),
  });
  const seconds = progress.seconds();
  const { accuracy = 0, perClassAccuracy = [], heldOutLoss, perplexity } = evaluation ?? {};
  const samplesPerSecond = seconds > 0 ? Math.round(progress.samples() / seconds) : 0;
  const done: EventOf<'run.done'> = {
    kind: 'run.done',
    run,
    accuracy,
    perClassAccuracy,
    ...(heldOutLoss === undefined || perplexity === undefined ? {} : { heldOutLoss, perplexity }),
    samplesPerSecond,
    ...(tokensPerRow === null ? {} : { tokensPerSecond: samplesPerSecond * tokensPerRow }),
    peers: session.mostPeers,
    trainers: session.mostTrainers,
    plannedMicrobatches: remaining.microbatches,
    appliedMicrobatches: session.applied,
    seconds: Math.round(seconds * 10) / 10,
    model,
  };
  emit(done);
  return done;
}

async function keepCheckpoint(
  { keep, config }: ClientOptions,
  session: Session,
  { steps }: Schedule,
  step: number,
): Promise<void> {
  if (!keep) return;
  const states = await session.again(step, () => pullStates(session, config.mode === 'sync' ? step : null));
  await keep({ step, steps, ...mergeStates(states), lossScale: session.lossScale?.state ?? null });
}

/** What is planned from a step on. */
function remainingOf(schedule: Schedule, start: number): { samples: number; microbatches: number } {
  let { samples, microbatches } = schedule;
  for (let step = 0; step < Math.min(start, schedule.steps); step += 1) {
    samples -= schedule.rowsAt(step);
    microbatches -= schedule.microbatchesAt(step);
  }
  return { samples, microbatches };
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
