// One stage that this peer hosts: whom it serves, and which run. What it does with a microbatch is microbatch.ts, what it does with
// other replicas exchange.ts.
import { MeshError, toMeshError } from '../errors.ts';
import { DEFAULT_AVERAGE } from '../average-spec.ts';
import { Averaging, REPLICA_AVERAGE, type OwnData } from '../average/averaging.ts';
import type { Compute, StageSpec } from '../compute.ts';
import type { ModelSpec } from '../model-spec.ts';
import type { Emit } from '../events.ts';
import type { Ask } from '../mesh/ask.ts';
import type { PeerId, RunId, Uid } from '../wire/ids.ts';
import type { Request } from '../wire/messages.ts';
import { StageRun } from './stage-run.ts';
import { Meter, metered } from './meter.ts';
import type { Turns } from './turns.ts';

export interface HostedStageOptions {
  uid: Uid;
  /** This peer. */
  self: PeerId;
  compute: Compute;
  /** One for all stages that share a GPU. */
  turns: Turns;
  ask: Ask;
  emit: Emit;
  /** Whether the client that opened a run still has a link here: only then a second run is turned away. */
  isConnected: (peer: PeerId) => boolean;
  /** What the operator decided that this stage is; a client that wants something else is turned away. */
  pinned?: { model: ModelSpec; from: number; to: number };
  /** Of a worker, which trains on data of its own. */
  own?: OwnData;
  now: () => number;
}

const NO_DATA: OwnData = { labels: [], degree: () => 0, isDone: () => false };

type OpenRequest = Omit<Request<'stage.open'>, 'uid'>;

export class HostedStage {
  readonly uid: Uid;
  readonly options: HostedStageOptions;
  readonly meter: Meter;
  #current: StageRun | null = null;
  #opening: Promise<unknown> = Promise.resolve();
  #isPaused = false;
  load = 0;

  constructor(options: HostedStageOptions) {
    this.uid = options.uid;
    this.meter = new Meter(options.now);
    this.options = { ...options, compute: metered(options.compute, this.meter) };
  }

  get run(): StageRun | null {
    return this.#current;
  }

  /** Of a federated worker: its configuration. */
  get federation(): string | undefined {
    return this.options.own?.federation;
  }

  get isPaused(): boolean {
    return this.#isPaused;
  }

  /** A paused stage turns new work away, so that other replicas take it; a step that was begun is committed all the same. */
  pause(isPaused: boolean): void {
    this.#isPaused = isPaused;
  }

  /** Two clients that open at once must not both win. */
  open(body: OpenRequest, owner: PeerId): Promise<StageRun> {
    return this.alone(() => this.openNow(body, owner));
  }

  /** One after the other: what builds or replaces the whole state of the stage. */
  alone<T>(work: () => Promise<T>): Promise<T> {
    const next = this.#opening.then(work);
    this.#opening = next.catch(() => undefined);
    return next;
  }

  async close(run: RunId): Promise<void> {
    const current = this.#current;
    if (current?.run !== run) return;
    this.#current = null;
    current.averaging?.close('the stage was closed');
    await this.options.compute.close(current.handle);
    this.options.emit({ kind: 'stage.closed', uid: this.uid, run });
  }

  expect(run: RunId): StageRun {
    if (this.#current?.run === run) {
      if (!this.#current.isAdopting) return this.#current;
      throw new MeshError(
        'no-stage',
        `${this.uid} is taking over the state of another replica.`,
        'Ask again in a moment.',
      );
    }
    throw new MeshError('no-stage', `${this.uid} does not serve run ${run}.`, 'Open the stage for that run first.');
  }

  /** Work for a run that others asked for: turned away while paused, counted as load, reported where it is refused for what it is. */
  async work<T>(runId: RunId, body: (run: StageRun) => Promise<T>): Promise<T> {
    this.#expectActive();
    const run = this.expect(runId);
    this.load += 1;
    try {
      return await body(run);
    } catch (cause) {
      throw this.#report(toMeshError(cause));
    } finally {
      this.load -= 1;
    }
  }

  /** Only within `alone`. */
  async openNow(body: OpenRequest, owner: PeerId): Promise<StageRun> {
    const { compute, emit, pinned } = this.options;
    this.#expectActive();
    if (pinned) expectPinned(this.uid, pinned, body.spec);
    const current = this.#current;
    if (current?.run === body.run && asked(current) === asked(body)) {
      current.owner = owner;
      if (await this.#isAlive(current)) return current;
    }
    if (current && current.run !== body.run && this.options.isConnected(current.owner))
      throw new MeshError(
        'busy',
        `${this.uid} serves run ${current.run}, whose client is still connected.`,
        'Wait until that run ends, or use another version or subversion.',
      );
    if (current) await this.close(current.run);
    const { stage: handle, info } = await compute.open(body.spec);
    const run = new StageRun({
      run: body.run,
      spec: body.spec,
      mode: body.mode,
      accumulate: body.accumulate,
      rate: body.rate,
      clip: body.clip,
      average: body.average,
      owner,
      handle,
      info,
      step: 0,
    });
    run.averaging = this.#averagingOf(run, body);
    this.#current = run;
    emit({
      kind: 'stage.opened',
      uid: this.uid,
      run: body.run,
      layers: [body.spec.from, body.spec.to],
      parameterBytes: info.parameterBytes,
    });
    return run;
  }

  #averagingOf(run: StageRun, { spec: stage, average }: OpenRequest): Averaging | null {
    if (!stage.store) return null;
    const { uid, self, compute, ask, emit, own = NO_DATA, now } = this.options;
    const spec = average ?? { ...DEFAULT_AVERAGE, ...REPLICA_AVERAGE };
    const { run: id, info, handle } = run;
    const steps = (): number => run.step;
    return new Averaging({ uid, self, run: id, stage, info, handle, spec, compute, ask, emit, own, steps, now });
  }

  /** A round trip to the worker: whoever asks learns of a lost device or a hung driver too. After a loss the stage is built anew. */
  async #isAlive(run: StageRun): Promise<boolean> {
    try {
      await this.options.compute.discard(run.handle, { keys: [] });
      return true;
    } catch (cause) {
      if (toMeshError(cause).code !== 'gpu-lost') throw cause;
      return false;
    }
  }

  #expectActive(): void {
    if (!this.#isPaused) return;
    const fix = 'Another replica takes over; resume it to use it again.';
    throw new MeshError('no-stage', `${this.uid} is paused.`, fix);
  }

  #report(error: MeshError): MeshError {
    if (error.code === 'not-finite' || error.code === 'stage-shapes' || error.code === 'malformed')
      this.options.emit({ kind: 'stage.rejected', uid: this.uid, reason: error.message });
    return error;
  }
}

/** All that a request to open says of a stage: where any of it differs, what is there serves another run of the same name. */
const asked = ({ spec, mode, accumulate, rate, clip, average }: Omit<OpenRequest, 'run'>): string =>
  JSON.stringify({ spec, mode, accumulate, rate, clip, average });

function expectPinned(uid: Uid, pinned: { model: ModelSpec; from: number; to: number }, spec: StageSpec): void {
  const same =
    JSON.stringify(pinned.model) === JSON.stringify(spec.model) && pinned.from === spec.from && pinned.to === spec.to;
  if (same) return;
  const show = (s: { model: ModelSpec; from: number; to: number }): string =>
    `${JSON.stringify(s.model)} layers ${s.from}..${s.to}`;
  throw new MeshError(
    'stage-shapes',
    `${uid} is set to ${show(pinned)}; the run wants ${show(spec)}.`,
    'Use the same model and split in the run and on the server, or another version number.',
  );
}
