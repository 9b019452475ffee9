// What both loops (sync.ts, async.ts) share: the run's roster and trainers, taking members in and finding out who dropped out.
import { MeshError, toMeshError } from '../errors.ts';
import type { Emit } from '../events.ts';
import type { StageSpec } from '../compute.ts';
import type { Ask } from '../mesh/ask.ts';
import type { RunId } from '../wire/ids.ts';
import type { Request } from '../wire/messages.ts';
import { sameShape, type Tensor } from '../tensor.ts';
import type { RunConfig, StagePlan } from './config.ts';
import { pipelines } from './paths.ts';
import type { Member, Roster } from './roster.ts';
import type { Schedule } from './schedule.ts';
import { Trainer } from './trainer.ts';

export interface SessionOptions {
  run: RunId;
  config: RunConfig;
  plans: readonly StagePlan[];
  roster: Roster;
  ask: Ask;
  emit: Emit;
  schedule: Schedule;
  batchOf: (rows: Uint32Array) => { x: Tensor; y: Tensor };
  signal: AbortSignal;
}

const OPEN_MS = 120_000;
const PROBE_MS = 4_000;

export class Session {
  readonly options: SessionOptions;
  /** By path. Their number is what `all`, `disjoint` and `routed` decide. */
  readonly #trainers = new Map<string, Trainer>();
  #trainerCount = 0;
  #mostTrainers = 0;
  #mostPeers = 0;
  applied = 0;

  constructor(options: SessionOptions) {
    this.options = options;
  }

  get trainers(): Trainer[] {
    return [...this.#trainers.values()];
  }
  get mostTrainers(): number {
    return this.#mostTrainers;
  }
  get mostPeers(): number {
    return this.#mostPeers;
  }

  /** Trainers as the active members now demand; tells who came and went. */
  formPipelines(): Trainer[] {
    const { roster, config, run, emit } = this.options;
    const stages = roster.active();
    const paths = pipelines(
      config.policy,
      stages.map((members) => members.length),
    );
    const wanted = new Map(
      paths.map((path) => {
        const uids = path.map((index, stage) => stages[stage]?.[index]?.replica.uid ?? '');
        return config.policy === 'routed' ? (['routed', null] as const) : ([uids.join(' '), uids] as const);
      }),
    );
    for (const [name, trainer] of this.#trainers) {
      if (wanted.has(name)) continue;
      this.#trainers.delete(name);
      emit({ kind: 'trainer.stopped', run, trainer: trainer.id, reason: 'a replica of its pipeline is gone' });
    }
    for (const [name, path] of wanted) {
      if (this.#trainers.has(name)) continue;
      const id = `t${this.#trainerCount++}`;
      const { ask, batchOf } = this.options;
      this.#trainers.set(
        name,
        new Trainer({ id, run, path, roster, ask, emit, batchOf, deadlineMs: config.deadlineMs }),
      );
      emit({ kind: 'trainer.started', run, trainer: id, path: path ?? ['routed'] });
    }
    this.#mostTrainers = Math.max(this.#mostTrainers, this.#trainers.size);
    this.#mostPeers = Math.max(this.#mostPeers, roster.peers());
    return this.trainers;
  }

  /**
   * Opens newcomers: from the seed while nothing was trained yet, else with the state of a member that has it. Where no member has
   * it, a newcomer may be one that was away (paused) and still holds it; returned are the stages where one came that does not.
   */
  async admit(step: number): Promise<ReadonlySet<number>> {
    const { roster } = this.options;
    const bereft = new Set<number>();
    await Promise.all(
      roster.candidates().map(async (member) => {
        const [source] = roster.members('active', member.stage);
        try {
          if (step === 0) await this.#open(member);
          else if (source) await this.#adopt(member, source);
          else if (!(await this.#holds(member, step))) {
            if (member.state === 'new') bereft.add(member.stage);
            return;
          }
          if (roster.byUid(member.replica.uid) === member) roster.setActive(member);
        } catch (cause) {
          this.#refuse(member, toMeshError(cause));
        }
      }),
    );
    return bereft;
  }

  /** After a failure: whoever does not answer, or is at another step, drops out. */
  async probe(step: number): Promise<void> {
    const { roster, config, emit, run } = this.options;
    await Promise.all(
      roster.members('active').map(async (member) => {
        try {
          const answer = await this.options.ask(member.replica, 'stage.open', this.#openBody(member), {
            deadlineMs: PROBE_MS,
            signal: this.options.signal,
          });
          if (config.mode === 'sync' && answer.body.step !== step)
            throw new MeshError(
              'stale',
              `it is at step ${answer.body.step}, the run at ${step}`,
              'It adopts the state of another replica.',
            );
        } catch (cause) {
          this.options.signal.throwIfAborted();
          roster.setOut(member);
          emit({
            kind: 'log',
            level: 'warn',
            message: `${run}: ${member.replica.uid} dropped out: ${toMeshError(cause).message}`,
          });
        }
      }),
    );
  }

  /** Waits until there is at least one pipeline of members that are in step. Rejects `no-replica` when that becomes hopeless. */
  async ready(step: number): Promise<void> {
    const { roster, config, plans, emit, run, signal } = this.options;
    const until = performance.now() + config.patienceMs;
    let lastMissing = '';
    for (;;) {
      signal.throwIfAborted();
      const bereft = await this.admit(step);
      const isMissing = (stage: number): boolean => roster.members('active', stage).length === 0;
      const missing = plans.filter((_, stage) => isMissing(stage)).map((plan) => plan.name);
      if (missing.length === 0) return;
      if (missing.join() !== lastMissing) emit({ kind: 'run.waiting', run, missing });
      lastMissing = missing.join();
      const hopeless = [...bereft].some(isMissing);
      if (hopeless || performance.now() > until)
        throw new MeshError(
          'no-replica',
          `No replica of ${missing.join(' or ')} is left${step > 0 ? `; step ${step} was reached, and its weights are gone with the last one` : ` after ${Math.round(config.patienceMs / 1_000)} s`}.`,
          step > 0
            ? 'Run with two or more replicas of every stage; start again.'
            : `Start one: node node/serve.ts --join URL --stage ${missing[0] ?? 'front'}.${config.version}.0.${config.subversion}`,
        );
      await roster.change(500);
    }
  }

  specOf(stage: number): StageSpec {
    const { config, plans } = this.options;
    const plan = plans[stage];
    if (!plan) throw new MeshError('internal', `There is no stage ${stage}.`, 'This is a defect: please report it.');
    return { model: config.model, from: plan.from, to: plan.to, seed: config.seed, optimizer: config.optimizer };
  }

  async #open(member: Member): Promise<void> {
    const { body } = await this.options.ask(member.replica, 'stage.open', this.#openBody(member), {
      deadlineMs: OPEN_MS,
      signal: this.options.signal,
    });
    this.#expectFit(member, body.info);
    if (body.step > 0 && this.options.config.mode === 'sync')
      throw new MeshError(
        'stale',
        `${member.replica.uid} is at step ${body.step} of this run already.`,
        'Give the run another name.',
      );
  }

  /** Whether it holds the run's state as of this step already; async members are at steps of their own. */
  async #holds(member: Member, step: number): Promise<boolean> {
    const { body } = await this.options.ask(member.replica, 'stage.open', this.#openBody(member), {
      deadlineMs: OPEN_MS,
      signal: this.options.signal,
    });
    this.#expectFit(member, body.info);
    return this.options.config.mode === 'sync' ? body.step === step : body.step > 0;
  }

  async #adopt(member: Member, source: Member): Promise<void> {
    const request = { ...this.#openBody(member), from: source.replica };
    const { body } = await this.options.ask(member.replica, 'stage.adopt', request, {
      deadlineMs: OPEN_MS,
      signal: this.options.signal,
    });
    this.#expectFit(member, body.info);
  }

  #openBody(member: Member): Request<'stage.open'> {
    const { run, config } = this.options;
    return {
      uid: member.replica.uid,
      run,
      spec: this.specOf(member.stage),
      mode: config.mode,
      accumulate: Math.ceil(config.batch / config.microbatch),
    };
  }

  /** What the replica built must begin where the stage before it ends. */
  #expectFit(member: Member, info: { inputShape: number[]; outputShape: number[]; isLast: boolean }): void {
    const { model } = this.options.config;
    const { from, to } = this.specOf(member.stage);
    const want = { input: [model.sizes[from] ?? 0], output: [model.sizes[to] ?? 0] };
    if (sameShape(info.inputShape, want.input) && sameShape(info.outputShape, want.output)) return;
    throw new MeshError(
      'stage-shapes',
      `${member.replica.uid} maps (${info.inputShape.join(', ')}) to (${info.outputShape.join(', ')}); its neighbours need (${want.input.join(', ')}) to (${want.output.join(', ')}).`,
      'Give every stage of this version the same model, split at the same layers.',
    );
  }

  /** A replica that cannot be used is left out for a while; one that fits nowhere stops the run, because waiting would not mend it. */
  #refuse(member: Member, error: MeshError): void {
    this.options.signal.throwIfAborted();
    if (error.code === 'stage-shapes' || error.code === 'usage') throw error;
    this.options.roster.setOut(member);
    this.options.emit({
      kind: 'log',
      level: 'warn',
      message: `${member.replica.uid} cannot join the run: ${error.message} ${error.fix}`,
    });
  }
}
