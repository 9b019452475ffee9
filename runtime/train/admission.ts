// Taking members into a run and finding out who dropped out. Slow parts (dialling, building the stage) go on beside training, so that
// a newcomer that hangs holds nobody up; only taking over state in a sync run happens between two steps, and has a short deadline.
import { MeshError, toMeshError } from '../errors.ts';
import type { StageSpec } from '../compute.ts';
import type { Request } from '../wire/messages.ts';
import { sameShape } from '../tensor.ts';
import type { Member } from './roster.ts';
import type { SessionOptions } from './session-options.ts';

const OPEN_MS = 120_000;
const ADOPT_MS = 15_000;
const PROBE_MS = 4_000;
/** At the very start: how long those who are there already may still take once there is one of each stage. */
const START_GRACE_MS = 5_000;
/** A wait this short is nobody's concern. */
const QUIET_MS = 1_000;

export class Admission {
  readonly #options: SessionOptions;
  readonly #opening = new Map<Member, Promise<void>>();
  /** Built and waiting for the state of the run. */
  readonly #built = new Set<Member>();
  /** Newcomers that hold nothing of a run that has begun. */
  readonly #empty = new Set<Member>();
  #probing: Promise<void> | null = null;
  #fatal: MeshError | null = null;
  /** Why the last one that came was not taken in. */
  #lastRefusal: MeshError | null = null;

  constructor(options: SessionOptions) {
    this.#options = options;
  }

  /**
   * Waits until every stage has an active member, and takes in whoever is ready to be. `step`: optimizer steps that the run has
   * committed (async: any number above 0 once it has begun). Rejects `no-replica` when a stage's state is gone or patience is over.
   */
  async ready(step: number, signal = this.#options.signal): Promise<void> {
    const { roster, config, plans, emit, run } = this.#options;
    const started = performance.now();
    let lastMissing = '';
    for (;;) {
      signal.throwIfAborted();
      this.#openCandidates(step);
      await this.#adoptBuilt(step, signal);
      if (this.#fatal) throw this.#fatal;
      const stages = plans.map((_, stage) => stage).filter((stage) => roster.members('active', stage).length === 0);
      const isStarting = step === 0 && this.#opening.size > 0 && performance.now() - started < START_GRACE_MS;
      if (stages.length === 0 && !isStarting) return;
      const missing = stages.map((stage) => plans[stage]?.name ?? '');
      // Those that are being built are not waited for yet.
      const isNews = missing.length > 0 && missing.join() !== lastMissing && performance.now() - started > QUIET_MS;
      if (isNews) {
        emit({ kind: 'run.waiting', run, missing });
        lastMissing = missing.join();
      }
      const isLost = [...this.#empty].some(
        (member) => stages.includes(member.stage) && roster.byUid(member.replica.uid) === member,
      );
      if (isLost || performance.now() - started > config.patienceMs) throw this.#gone(missing, step);
      await Promise.race([roster.change(500), ...this.#opening.values()]);
    }
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
    return { model: config.model, from: plan.from, to: plan.to, seed: config.seed, optimizer: config.optimizer };
  }

  #openCandidates(step: number): void {
    for (const member of this.#options.roster.candidates()) {
      if (this.#opening.has(member) || this.#built.has(member) || this.#empty.has(member)) continue;
      this.#opening.set(
        member,
        this.#open(member, step)
          .catch((cause: unknown) => this.#refuse(member, toMeshError(cause), step))
          .finally(() => this.#opening.delete(member)),
      );
    }
  }

  /** Builds the stage there. One that is as far as the run is active at once; the others wait to take over state. */
  async #open(member: Member, step: number): Promise<void> {
    const { ask, signal, roster, config } = this.#options;
    const { body } = await ask(member.replica, 'stage.open', this.#openBody(member), { deadlineMs: OPEN_MS, signal });
    this.#expectFit(member, body.info);
    const holds = config.mode === 'sync' ? body.step === step : !body.isNew;
    if (step === 0 && config.mode === 'sync' && body.step > 0)
      throw new MeshError(
        'stale',
        `${member.replica.uid} is at step ${body.step} of this run already.`,
        'Give the run another name.',
      );
    // The run may have gone on meanwhile: what was equal to its step then is looked at again when it is adopted.
    if (step === 0 || (holds && roster.members('active', member.stage).length === 0)) this.#activate(member);
    else if (holds && config.mode === 'async') this.#activate(member);
    else this.#built.add(member);
  }

  async #adoptBuilt(step: number, signal: AbortSignal): Promise<void> {
    const { roster, config } = this.#options;
    const adoptions = [...this.#built].map(async (member) => {
      this.#built.delete(member);
      if (roster.byUid(member.replica.uid) !== member || member.state === 'active') return;
      const [source] = roster.members('active', member.stage);
      if (!source) {
        if (member.state === 'new') this.#empty.add(member);
        else this.#options.roster.setOut(member);
        return;
      }
      try {
        const request = { ...this.#openBody(member), from: source.replica };
        const { body } = await this.#options.ask(member.replica, 'stage.adopt', request, {
          deadlineMs: ADOPT_MS,
          signal,
        });
        if (config.mode === 'sync' && body.step !== step)
          throw new MeshError('stale', `it took over step ${body.step}, the run is at ${step}`, 'It tries again.');
        this.#activate(member);
      } catch (cause) {
        this.#refuse(member, toMeshError(cause), step);
      }
    });
    const all = Promise.all(adoptions);
    // In async training nobody waits for a newcomer.
    if (config.mode === 'sync' || this.#options.plans.some((_, stage) => roster.members('active', stage).length === 0))
      await all;
    else void all;
  }

  async #probe(step: number): Promise<void> {
    const { roster, config, emit, run, ask, signal } = this.#options;
    await Promise.all(
      roster.members('active').map(async (member) => {
        try {
          const { body } = await ask(member.replica, 'stage.open', this.#openBody(member), {
            deadlineMs: PROBE_MS,
            signal,
          });
          if (config.mode === 'sync' && body.step !== step)
            throw new MeshError(
              'stale',
              `it is at step ${body.step}, the run at ${step}`,
              'It takes over the state of another.',
            );
          if (body.isNew && (config.mode === 'async' || step > 0))
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
    const { roster } = this.#options;
    this.#built.delete(member);
    this.#empty.delete(member);
    if (roster.byUid(member.replica.uid) === member) roster.setActive(member);
  }

  #openBody(member: Member): Request<'stage.open'> {
    const { run, config } = this.#options;
    const accumulate = Math.ceil(config.batch / config.microbatch);
    return { uid: member.replica.uid, run, spec: this.specOf(member.stage), mode: config.mode, accumulate };
  }

  /** What the replica built must begin where the stage before it ends. */
  #expectFit(member: Member, info: { inputShape: number[]; outputShape: number[] }): void {
    const { model } = this.#options.config;
    const { from, to } = this.specOf(member.stage);
    const want = { input: [model.sizes[from] ?? 0], output: [model.sizes[to] ?? 0] };
    if (sameShape(info.inputShape, want.input) && sameShape(info.outputShape, want.output)) return;
    throw new MeshError(
      'stage-shapes',
      `${member.replica.uid} maps (${info.inputShape.join(', ')}) to (${info.outputShape.join(', ')}); its neighbours need (${want.input.join(', ')}) to (${want.output.join(', ')}).`,
      'Give every stage of this version the same model, split at the same layers.',
    );
  }

  /**
   * A replica that cannot be used is left out for a while. One that does not fit stops a run that has not begun, because waiting would
   * not mend it; a run that goes on is not ended by somebody's newcomer.
   */
  #refuse(member: Member, error: MeshError, step: number): void {
    const { signal, roster, emit } = this.#options;
    if (signal.aborted) return;
    if (step === 0 && (error.code === 'stage-shapes' || error.code === 'usage')) this.#fatal = error;
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
    return step > 0
      ? new MeshError(
          'no-replica',
          `No replica of ${names} is left; step ${step} was reached, and its weights are gone with the last one.`,
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
