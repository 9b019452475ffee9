// A federated worker: a replica of a whole model that trains on its own data, with its averager beside it. It waits for its neighbours, takes
// over a full model where it comes late, trains, and serves until those that still train are done.
import { takesNothing } from '../average-spec.ts';
import type { Averager } from '../average/averager.ts';
import type { Averaging } from '../average/averaging.ts';
import { storeOf } from '../average/averaging.ts';
import type { Compute } from '../compute.ts';
import { MeshError } from '../errors.ts';
import type { Emit, EventOf } from '../events.ts';
import type { Peer } from '../mesh/peer.ts';
import { layerCount, stageInfo } from '../model/spec.ts';
import type { HostedStage } from '../server/hosted-stage.ts';
import type { StageHost } from '../server/host.ts';
import type { StageRun } from '../server/stage-run.ts';
import type { Tensor } from '../tensor.ts';
import type { Replica } from '../wire/messages.ts';
import { catchUp, type CaughtUp } from './catch-up.ts';
import { neighboursOf, uidOf, type WorkerConfig } from './config.ts';
import type { WorkerData } from './data.ts';
import { WorkerFigures } from './figures.ts';
import { evaluateWorker, type WorkerEvaluation } from './evaluate.ts';
import { LocalTraining, stepsOf, stepsPerEpoch, type LocalStep } from './local-training.ts';
import { Neighbours } from './neighbours.ts';
import { Slumber } from './slumber.ts';

export interface WorkerOptions {
  peer: Peer;
  host: StageHost;
  compute: Compute;
  config: WorkerConfig;
  data: WorkerData;
  emit: Emit;
  signal: AbortSignal;
  /** Keeps the trained model's bytes; returns where. */
  save?: ((tensors: ReadonlyMap<string, Tensor>) => Promise<string>) | undefined;
}

const LOOK_MS = 200;
/** After a sleep: models that could not be taken over, before this worker goes on with its own. */
const CATCH_UP_TRIES = 5;

/** Resolves when the worker is done. Rejects with the reason when it cannot go on. */
export async function runWorker(options: WorkerOptions): Promise<EventOf<'worker.done'>> {
  const worker = new Worker(options);
  try {
    return await worker.run();
  } finally {
    await worker.close();
  }
}

/** What a record can hold; a longer configuration must be handed on by hand. */
const MOST_CHARACTERS = 4_096;

/** All but the join link, which is nobody's business but its holder's. */
function federationOf(config: WorkerConfig): { federation?: string } {
  const federation = JSON.stringify({ ...config, join: undefined });
  return federation.length <= MOST_CHARACTERS ? { federation } : {};
}

class Worker {
  readonly #options: WorkerOptions;
  readonly #neighbours: Neighbours;
  readonly #stage: HostedStage;
  readonly #stop = new AbortController();
  readonly #trained = new AbortController();
  readonly #signal: AbortSignal;
  readonly #total: number;
  #isDone = false;
  #averaging: Averaging | null = null;
  readonly #slumber: Slumber;
  readonly #figures = new WorkerFigures(() => performance.now());

  constructor(options: WorkerOptions) {
    this.#options = options;
    const { host, config, data, peer, emit } = options;
    this.#neighbours = new Neighbours(neighboursOf(config), peer);
    const own = {
      ...federationOf(config),
      labels: data.labels,
      degree: () => this.#neighbours.wanted.length,
      isDone: () => this.#isDone,
    };
    this.#stage = host.add(uidOf(config, config.worker), undefined, own);
    this.#signal = AbortSignal.any([options.signal, this.#stop.signal]);
    this.#total = stepsOf(config, data.rowsOfAll);
    emit({
      kind: 'worker.ready',
      uid: this.#stage.uid,
      run: config.run,
      rows: data.run.train.rows,
      labels: data.labels,
      neighbours: [...this.#neighbours.wanted],
    });
    this.#slumber = new Slumber();
  }

  async run(): Promise<EventOf<'worker.done'>> {
    const { host, peer, config } = this.#options;
    const run = await this.#open();
    const averaging = run.averaging;
    if (!averaging) throw new MeshError('internal', 'A worker without a store.', 'This is a defect: please report it.');
    this.#averaging = averaging;
    peer.serve(host.handlers);
    if (peer.monitor) await host.announce(peer.monitor);
    await this.#neighbours.watch();
    await this.#gather();
    const takes = !takesNothing(config.average.planner);
    if (takes) await this.#catchUp(run, averaging);
    const beside = takes && averaging.averager?.isSynchronous === false ? averaging.averager : null;
    const rounds = beside ? this.#beside(run, averaging, beside) : Promise.resolve();
    try {
      const failed = rounds.then(() => new Promise<never>(() => {})); // it only ever ends this race by rejecting
      await Promise.race([this.#train(run, averaging), failed]);
      this.#isDone = true;
      this.#trained.abort(new DOMException('This worker has trained.', 'AbortError'));
      await rounds;
      if (beside) await averaging.shelf.snapshot(); // shown now: the last steps, and what the last round brought
      await this.#untilAllTrained(averaging);
      await beside?.lastRound(this.#neighbours.present(), this.#signal);
      // The others have time to fetch the same of this one.
      await this.#neighbours.rest(Math.min(2 * config.average.intervalMs, 2_000), this.#signal);
    } finally {
      this.#stop.abort(new DOMException('This worker ends.', 'AbortError'));
    }
    const evaluation = await this.#evaluate(run, run.step);
    return this.#done(run, evaluation, config);
  }

  async close(): Promise<void> {
    this.#stop.abort(new DOMException('This worker ends.', 'AbortError'));
    this.#neighbours.close();
    this.#slumber.close();
    const { run } = this.#stage;
    if (run) await this.#stage.close(run.run).catch(() => undefined); // a lost device has closed it already
  }

  async #open(): Promise<StageRun> {
    const { config, peer } = this.#options;
    const { model, seed, optimizer, precision, recompute, average, batch, data } = config;
    const layers = layerCount(model);
    const { parameterBytes, maxTokens } = stageInfo(model, 0, layers);
    const context = typeof data === 'object' && 'contextLength' in data ? (data.contextLength ?? maxTokens) : maxTokens;
    const spec = {
      ...{ model, from: 0, to: layers, seed, optimizer },
      ...(precision === undefined ? {} : { precision }),
      ...(recompute === undefined ? {} : { recompute }),
      load: { B: batch, T: context, kept: 1 },
      store: storeOf(parameterBytes, average),
    };
    return this.#stage.open({ run: config.run, spec, mode: 'async', accumulate: 1, average }, peer.id);
  }

  /** Until all neighbours are there, or patience has run out: then with those that are. */
  async #gather(): Promise<void> {
    const { config, emit, signal } = this.#options;
    const until = performance.now() + config.patienceMs;
    let told = '';
    for (;;) {
      const missing = this.#neighbours.missing();
      if (missing.length === 0 || performance.now() >= until) return;
      if (missing.join() !== told) emit({ kind: 'worker.waiting', uid: this.#stage.uid, run: config.run, missing });
      told = missing.join();
      await this.#neighbours.change(Math.min(LOOK_MS, until - performance.now()));
      signal.throwIfAborted();
    }
  }

  async #train(run: StageRun, averaging: Averaging): Promise<void> {
    const { compute, config, data } = this.#options;
    const { averager, outer } = averaging;
    const training = new LocalTraining({
      compute,
      handle: run.handle,
      config,
      train: data.run.train,
      steps: this.#total,
    });
    const evalEvery = config.evalEvery ?? stepsPerEpoch(data.run.train.rows, config.batch);
    const peers = (): Replica[] => this.#neighbours.present();
    let last: Promise<LocalStep> | null = null;
    this.#resume();
    const finish = async (): Promise<void> => {
      if (last) this.#took(await last);
      last = null;
    };
    try {
      for (let step = run.step; step < this.#total; step += 1) {
        this.#signal.throwIfAborted();
        while (this.#stage.isPaused) {
          this.#pause();
          await this.#neighbours.change(LOOK_MS);
          this.#signal.throwIfAborted();
        }
        this.#resume();
        const next = training.step(step);
        next.catch(() => undefined); // it is waited for below
        await finish();
        last = next;
        if (config.clip !== undefined) await finish();
        run.step = step + 1;
        if (outer) await outer.stepped(step + 1, peers, this.#signal);
        else if (averager?.isSynchronous && (step + 1) % config.average.steps === 0)
          await averager.round(peers(), this.#signal, (step + 1) / config.average.steps - 1);
        if ((step + 1) % evalEvery === 0 && step + 1 < this.#total) {
          await finish();
          this.#pause();
          await this.#evaluate(run, step + 1);
          this.#resume();
        }
        if (this.#figures.isDue) this.#show(step + 1);
      }
      await finish();
      await outer?.finish(run.step, peers, this.#signal);
      this.#show(this.#total);
    } finally {
      this.#pause();
      await finish().catch(() => undefined); // what ended the loop is the reason
    }
  }

  async #catchUp(run: StageRun, averaging: Averaging): Promise<CaughtUp> {
    const { peer, compute, emit } = this.#options;
    const replicas = this.#neighbours.present();
    const result = await catchUp({ run, averaging, replicas, ask: peer.ask, compute, emit, signal: this.#signal });
    if (typeof result === 'object') emit({ kind: 'worker.adopted', uid: this.#stage.uid, run: run.run, ...result });
    return result;
  }

  /**
   * Rounds beside training. Weights from before a long sleep are far away from the others', who would take them for an attack: they are left
   * behind for a neighbour's, as soon as one can be reached.
   */
  async #beside(run: StageRun, averaging: Averaging, averager: Averager): Promise<void> {
    const slumber = this.#slumber;
    const signal = AbortSignal.any([this.#signal, this.#trained.signal]);
    let failures = 0;
    const makeUp = async (): Promise<void> => {
      slumber.tick();
      if (!slumber.hasSlept || signal.aborted) return;
      try {
        const result = await this.#catchUp(run, averaging);
        failures = result === 'failed' ? failures + 1 : 0;
        if (result === 'nobody-there' || (failures > 0 && failures < CATCH_UP_TRIES)) return;
        slumber.madeUpFor();
        failures = 0;
      } catch (cause) {
        if (!this.#signal.aborted) throw cause;
      }
    };
    const rest = async (ms: number): Promise<void> => {
      await makeUp();
      const awake = new AbortController();
      slumber.onWake = () => awake.abort();
      await this.#neighbours.rest(ms, AbortSignal.any([signal, awake.signal]));
      await makeUp();
    };
    await averager.run(() => this.#neighbours.present(), signal, rest);
  }

  #resume(): void {
    this.#figures.resume();
    this.#slumber.resume();
  }

  #pause(): void {
    this.#figures.pause();
    this.#slumber.pause();
  }

  /**
   * Serves what it has until every neighbour that is still there has done its training too. Who averaged on without training would only follow
   * those that still train, away from its own data.
   */
  async #untilAllTrained({ shelf }: Averaging): Promise<void> {
    const { config, peer, signal } = this.#options;
    const until = performance.now() + config.patienceMs;
    for (;;) {
      const there = this.#neighbours.present();
      const done = await Promise.all(
        there.map(async (replica) => {
          const body = { uid: replica.uid, run: config.run, digest: shelf.digest };
          const offer = await peer.ask(replica, 'layers.offer', body, { signal, deadlineMs: 2_000 }).catch(() => null); // gone, or hung
          return offer === null || offer.body.isDone;
        }),
      );
      signal.throwIfAborted();
      if (done.every(Boolean) || performance.now() >= until) return;
      await this.#neighbours.change(LOOK_MS);
    }
  }

  async #evaluate(run: StageRun, step: number): Promise<WorkerEvaluation> {
    const { compute, data, config, emit } = this.#options;
    const evaluation = await evaluateWorker(compute, run.handle, data.run, config);
    emit({ kind: 'worker.evaluated', uid: this.#stage.uid, run: run.run, step, ...evaluation });
    return evaluation;
  }

  #took(step: LocalStep): void {
    this.#figures.took(step);
    this.#slumber.stepped();
    this.#stage.meter.count(step.rows, step.loss);
  }

  get #merged(): { rounds: number; bytes: number } {
    return { ...(this.#averaging?.merged ?? { rounds: 0, bytes: 0 }) };
  }

  #show(step: number): void {
    const { emit, config } = this.#options;
    const progress = this.#figures.progress(step, this.#total, config.batch);
    emit({ kind: 'worker.progress', uid: this.#stage.uid, run: config.run, ...progress, ...this.#merged });
  }

  async #done(run: StageRun, evaluation: WorkerEvaluation, config: WorkerConfig): Promise<EventOf<'worker.done'>> {
    const { save, compute, peer, emit } = this.#options;
    const model = save ? await save(await compute.read(run.handle, 'weights')) : '';
    const { accuracy, perClassAccuracy, heldOutLoss, perplexity } = evaluation;
    const done: EventOf<'worker.done'> = {
      kind: 'worker.done',
      uid: this.#stage.uid,
      run: config.run,
      worker: config.worker,
      ...{ accuracy, perClassAccuracy },
      ...(heldOutLoss === undefined || perplexity === undefined ? {} : { heldOutLoss, perplexity }),
      steps: run.step,
      ...this.#merged,
      ...peer.links.traffic(),
      samplesPerSecond: Math.round(this.#figures.samplesPerSecond),
      seconds: Math.round(this.#figures.seconds * 10) / 10,
      model,
    };
    emit(done);
    return done;
  }
}
