// Taking members into a run and finding out who dropped out. Slow parts (dialling, building the stage) go on beside training, so that
// a newcomer that hangs holds nobody up; only taking over state in a sync run happens between two steps, and has a short deadline.
import { MeshError, toMeshError } from '../errors.ts';
import type { StageSpec } from '../compute.ts';
import type { Request } from '../wire/messages.ts';
import { DEFAULT_AVERAGE } from '../average-spec.ts';
import { storeOf } from '../average/averaging.ts';
import { momentNames, stageInfo } from '../model/spec.ts';
import { sameShape } from '../tensor.ts';
import { isLanguage } from '../model-spec.ts';
import type { RunConfig } from './config.ts';
import { contextOf, isText } from './language.ts';
import { rateOf } from './learning-rate.ts';
import type { Member } from './roster.ts';
import type { SessionOptions } from './session-options.ts';

const OPEN_MS = 120_000;
/** To take over a state: this long, and time for it to travel over a slow link. */
const ADOPT_MS = 15_000;
const ADOPT_BYTES_PER_MS = 20_000;
const PROBE_MS = 4_000;
/** At the very start: how long those who are there already may still take once there is one of each stage. */
const START_GRACE_MS = 5_000;
/** A wait this short is nobody's concern. */
const QUIET_MS = 1_000;
/** How long a stage's last holder may be away before its state counts as lost, where a newcomer without it is there. */
const LOST_GRACE_MS = 10_000;
/** A newcomer that could not take over the state this often is left out of the run. */
const MAX_ADOPTIONS = 3;

/** Built there, and not active yet. */
interface Built {
  member: Member;
  /** The step that it is at, if it holds state of the run. */
  step: number | null;
  isAdopting: boolean;
}

export class Admission {
  readonly #options: SessionOptions;
  readonly #opening = new Map<string, Promise<void>>();
  readonly #built = new Map<string, Built>();
  /** Who holds the state of the run, as far as is known: they were active once and have not been found empty since. */
  readonly #holders = new Map<string, Member>();
  readonly #failedAdoptions = new Map<string, number>();
  #probing: Promise<void> | null = null;
  #fatal: MeshError | null = null;
  /** Why the last one that came was not taken in. */
  #lastRefusal: MeshError | null = null;
  #hasBegun = false;

  constructor(options: SessionOptions) {
    this.#options = options;
  }

  /**
   * Waits until every stage has an active member, and takes in whoever is ready to be; in sync training, to be called between two
   * steps. `step`: optimizer steps that the run has committed (async: any number). Rejects `no-replica` when a stage's state is
   * gone or patience is over.
   */
  async ready(step: number, signal = this.#options.signal): Promise<void> {
    const { roster, config, plans, emit, run } = this.#options;
    const started = performance.now();
    let lastMissing = '';
    for (;;) {
      signal.throwIfAborted();
      this.#openCandidates();
      await this.#takeIn(step, signal);
      if (this.#fatal) throw this.#fatal;
      const stages = plans.map((_, stage) => stage).filter((stage) => roster.members('active', stage).length === 0);
      const waitedMs = performance.now() - started;
      const isStarting = !this.#hasBegun && this.#opening.size > 0 && waitedMs < START_GRACE_MS;
      if (stages.length === 0 && !isStarting) break;
      const missing = stages.map((stage) => plans[stage]?.name ?? '');
      // Those that are being built are not waited for yet.
      if (missing.length > 0 && missing.join() !== lastMissing && waitedMs > QUIET_MS) {
        emit({ kind: 'run.waiting', run, missing });
        lastMissing = missing.join();
      }
      const isLost = waitedMs > LOST_GRACE_MS && stages.some((stage) => this.#isLost(stage));
      if (isLost || waitedMs > config.patienceMs) throw this.#gone(missing, step);
      await Promise.race([roster.change(500), ...this.#opening.values()]);
    }
    this.#hasBegun = true;
  }

  /** After a failure: whoever does not answer, or does not hold the run as of this step, drops out. One at a time for all who ask. */
  probe(step: number): Promise<void> {
    this.#probing ??= this.#probe(step).finally(() => (this.#probing = null));
    return this.#probing;
  }

  specOf(stage: number): StageSpec {
    const { config, plans } = this.#options;
    const plan = plans[stage];
    if (!plan) throw new MeshError('internal', `There is no stage ${stage}.`, 'This is a defect: please report it.');
    const { model, seed, optimizer, precision, recompute, mode, average = DEFAULT_AVERAGE } = config;
    const { parameterBytes } = stageInfo(model, plan.from, plan.to);
    return {
      ...{ model, from: plan.from, to: plan.to, seed, optimizer },
      ...(precision === undefined ? {} : { precision }),
      ...(recompute === undefined ? {} : { recompute }),
      load: loadOf(config),
      ...(mode === 'async' ? { store: storeOf(parameterBytes, average) } : {}),
    };
  }

  #openCandidates(): void {
    for (const member of this.#options.roster.candidates()) {
      const key = keyOf(member);
      if (this.#opening.has(key) || this.#isWaiting(member) || (this.#failedAdoptions.get(key) ?? 0) >= MAX_ADOPTIONS)
        continue;
      const opening = this.#open(member)
        .catch((cause: unknown) => this.#refuse(member, toMeshError(cause)))
        .finally(() => this.#opening.delete(key));
      this.#opening.set(key, opening);
    }
  }

  #isWaiting(member: Member): boolean {
    const built = this.#built.get(keyOf(member));
    if (!built) return false;
    // A record that was gone for a while comes back as another member: the same process all the same.
    built.member = member;
    return true;
  }

  /** Builds the stage there, or finds it built. */
  async #open(member: Member): Promise<void> {
    const { ask, signal, config, resumed } = this.#options;
    const start = resumed?.step ?? 0;
    // Whoever comes later takes over the state of those who are there.
    const state = resumed && !this.#hasBegun ? { tensors: await resumed.stateOf(member.stage) } : {};
    const request = { ...this.openBody(member), ...(start > 0 ? { start } : {}) };
    const { body } = await ask(member.replica, 'stage.open', request, { ...state, deadlineMs: OPEN_MS, signal });
    this.#expectFit(member, body.info);
    const key = keyOf(member);
    if (body.isNew) this.#holders.delete(key);
    if (!this.#hasBegun && !body.isNew && config.mode === 'sync' && body.step !== start)
      throw new MeshError(
        'stale',
        `${member.replica.uid} is at step ${body.step} of this run already.`,
        'Give the run another name.',
      );
    // Step 0 is the seed's too, where the run began with other weights.
    const isTelling = config.mode === 'sync' && (!resumed || body.step > 0);
    const holds = !body.isNew && (isTelling || this.#holders.has(key));
    this.#built.set(key, { member, step: holds ? body.step : null, isAdopting: false });
  }

  /** Those that were built: active at once before the run has begun, or where they hold its state; else they take it over. */
  async #takeIn(step: number, signal: AbortSignal): Promise<void> {
    const { roster, config } = this.#options;
    const adoptions: Promise<void>[] = [];
    for (const [key, built] of this.#built) {
      const { member } = built;
      const now = roster.byUid(member.replica.uid);
      if (!now || keyOf(now) !== key) {
        if (!built.isAdopting) this.#built.delete(key);
        continue;
      }
      if (built.isAdopting) continue;
      const sources = roster.members('active', member.stage);
      const isUpToDate = config.mode === 'sync' ? built.step === step : built.step !== null && sources.length === 0;
      if (!this.#hasBegun || isUpToDate) this.#activate(now);
      else if (sources.length > 0) adoptions.push(this.#adopt(built, sources, step, signal));
    }
    // In async training nobody waits for a newcomer.
    if (config.mode === 'sync') await Promise.all(adoptions);
  }

  async #adopt(built: Built, sources: readonly Member[], step: number, signal: AbortSignal): Promise<void> {
    const { ask, config } = this.#options;
    const { member } = built;
    const key = keyOf(member);
    const failures = this.#failedAdoptions.get(key) ?? 0;
    const source = sources[failures % sources.length];
    if (!source) return;
    built.isAdopting = true;
    try {
      const request = { ...this.openBody(member), from: source.replica };
      const { body } = await ask(member.replica, 'stage.adopt', request, {
        deadlineMs: this.#adoptMs(member.stage),
        signal,
      });
      if (config.mode === 'sync' && body.step !== step)
        throw new MeshError('stale', `it took over step ${body.step}, the run is at ${step}`, 'It tries again.');
      this.#activate(built.member);
      this.#failedAdoptions.delete(key);
    } catch (cause) {
      this.#built.delete(key);
      this.#failedAdoptions.set(key, failures + 1);
      this.#refuse(built.member, toMeshError(cause));
    }
  }

  async #probe(step: number): Promise<void> {
    const { roster, config, emit, run, ask, signal, resumed } = this.#options;
    await Promise.all(
      roster.members('active').map(async (member) => {
        try {
          const { body } = await ask(member.replica, 'stage.open', this.openBody(member), {
            deadlineMs: PROBE_MS,
            signal,
          });
          if (body.isNew) this.#holders.delete(keyOf(member));
          if (config.mode === 'sync' && body.step !== step)
            throw new MeshError(
              'stale',
              `it is at step ${body.step}, the run at ${step}`,
              'It takes over the state of another.',
            );
          if (body.isNew && (config.mode === 'async' || step > 0 || resumed))
            throw new MeshError('stale', 'it has lost the state of the run', 'It takes over the state of another.');
        } catch (cause) {
          if (signal.aborted) return;
          roster.setOut(member);
          const why = toMeshError(cause).message;
          emit({ kind: 'log', level: 'warn', message: `${run}: ${member.replica.uid} dropped out: ${why}` });
        }
      }),
    );
  }

  #activate(member: Member): void {
    this.#built.delete(keyOf(member));
    this.#holders.set(keyOf(member), member);
    this.#options.roster.setActive(member);
  }

  /** A newcomer without the state is there, and nobody who holds it can be: neither in the directory nor over a link. */
  #isLost(stage: number): boolean {
    const { roster, isConnected } = this.#options;
    const isThere = (member: Member): boolean => {
      const now = roster.byUid(member.replica.uid);
      return (now !== undefined && keyOf(now) === keyOf(member)) || isConnected(member.replica.peer);
    };
    const isHeld = [...this.#holders.values()].some((holder) => holder.stage === stage && isThere(holder));
    return this.#hasBegun && !isHeld && [...this.#built.values()].some(({ member }) => member.stage === stage);
  }

  #adoptMs(stage: number): number {
    const { model, from, to, optimizer } = this.specOf(stage);
    const bytes = stageInfo(model, from, to).parameterBytes * (1 + momentNames(optimizer).length);
    return ADOPT_MS + Math.ceil(bytes / ADOPT_BYTES_PER_MS);
  }

  /** What a replica is asked to be in this run. */
  openBody(member: Member): Request<'stage.open'> {
    const { run, config, schedule } = this.#options;
    const { mode, clip, optimizer } = config;
    const accumulate = Math.ceil(config.batch / config.microbatch);
    // Of a sync step the client says these with every step.
    const pace = {
      ...(config.schedule ? { rate: rateOf(config.schedule, optimizer.lr, schedule.steps) } : {}),
      ...(clip === undefined ? {} : { clip }),
      ...(config.average ? { average: config.average } : {}),
    };
    const spec = this.specOf(member.stage);
    return { uid: member.replica.uid, run, spec, mode, accumulate, ...(mode === 'async' ? pace : {}) };
  }

  /** What the replica built must begin where the stage before it ends. */
  #expectFit(member: Member, info: { inputShape: number[]; outputShape: number[] }): void {
    const { model } = this.#options.config;
    const { from, to } = this.specOf(member.stage);
    const want = stageInfo(model, from, to);
    if (sameShape(info.inputShape, want.inputShape) && sameShape(info.outputShape, want.outputShape)) return;
    throw new MeshError(
      'stage-shapes',
      `${member.replica.uid} maps (${info.inputShape.join(', ')}) to (${info.outputShape.join(', ')}); its neighbours need (${want.inputShape.join(', ')}) to (${want.outputShape.join(', ')}).`,
      'Give every stage of this version the same model, split at the same layers.',
    );
  }

  /**
   * A replica that cannot be used is left out for a while. One that does not fit stops a run that has not begun, because waiting would
   * not mend it; a run that goes on is not ended by somebody's newcomer.
   */
  #refuse(member: Member, error: MeshError): void {
    const { signal, roster, emit, resumed } = this.#options;
    if (signal.aborted) return;
    const isOfCheckpoint = resumed !== undefined && (error.code === 'bad-file' || error.code === 'malformed');
    // Where nobody else could take the stage, to wait for memory is to wait for nothing.
    const others = [...roster.members('new', member.stage), ...roster.members('active', member.stage)];
    const isTooLarge = error.code === 'out-of-memory' && others.every((other) => other === member);
    if (!this.#hasBegun && (error.code === 'stage-shapes' || error.code === 'usage' || isOfCheckpoint || isTooLarge))
      this.#fatal = error;
    this.#lastRefusal = error;
    roster.setOut(member);
    emit({
      kind: 'log',
      level: 'warn',
      message: `${member.replica.uid} cannot join the run: ${error.message} ${error.fix}`,
    });
  }

  #gone(missing: readonly string[], step: number): MeshError {
    const { config } = this.#options;
    const refusal = this.#lastRefusal;
    const names = missing.join(' or ');
    return this.#hasBegun
      ? new MeshError(
          'no-replica',
          `No replica of ${names} is left, and the weights are gone with the last one${config.mode === 'sync' ? ` (step ${step} was reached)` : ''}.`,
          'Run with two or more replicas of every stage; start again.',
        )
      : new MeshError(
          'no-replica',
          `No replica of ${names} came within ${Math.round(config.patienceMs / 1_000)} s.${refusal ? ` The last that was there: ${refusal.message}` : ''}`,
          refusal?.fix ??
            `Start one: node node/serve.ts --join URL --stage ${missing[0] ?? 'front'}.${config.version}.0.${config.subversion}`,
        );
  }
}

/** What a replica is given at most: under `all` it has the microbatches of more than one trainer. */
function loadOf({
  model,
  data,
  batch,
  microbatch,
  policy,
  inflight,
  pipeline,
  stages,
}: RunConfig): NonNullable<StageSpec['load']> {
  const ofStep = Math.ceil(batch / microbatch);
  const ofTrainer = pipeline === 'gpipe' ? ofStep : pipeline === '1f1b' ? stages.length + 1 : inflight;
  const T = isLanguage(model) && isText(data) ? contextOf(model, data) : 1;
  return { B: microbatch, T, kept: Math.min(ofStep, ofTrainer * (policy === 'all' ? 2 : 1)) };
}

/** The process behind a member: a record that goes and comes back is the same one, another process under the same UID is not. */
const keyOf = (member: Member): string => `${member.replica.uid} ${member.replica.peer}`;
