// All stages that a peer hosts: their handlers, their records in the directory, their figures once a second.
import { MeshError } from '../errors.ts';
import type { OwnData } from '../average/averaging.ts';
import type { Compute, GpuDescription } from '../compute.ts';
import type { ModelSpec } from '../model-spec.ts';
import type { Emit } from '../events.ts';
import type { Monitor } from '../mesh/monitor-client.ts';
import type { Ask } from '../mesh/ask.ts';
import type { Handlers } from '../wire/channel.ts';
import type { PeerId, Uid } from '../wire/ids.ts';
import { RECORD_TTL_MS, type Address, type StageRecord } from '../wire/records.ts';
import { HostedStage } from './hosted-stage.ts';
import { Turns } from './turns.ts';
import * as commit from './commit.ts';
import * as exchange from './exchange.ts';
import * as layers from './layers.ts';
import * as microbatch from './microbatch.ts';

export interface StageHostOptions {
  self: PeerId;
  host: 'node' | 'browser';
  compute: Compute;
  gpu: GpuDescription;
  ask: Ask;
  emit: Emit;
  isConnected: (peer: PeerId) => boolean;
  addresses: () => Address[];
  traffic: () => { bytesIn: number; bytesOut: number };
  now?: () => number;
}

export class StageHost {
  readonly #options: StageHostOptions;
  readonly #stages = new Map<Uid, HostedStage>();
  readonly #turns = new Turns();
  readonly #timer: ReturnType<typeof setInterval>;
  readonly handlers: Handlers;
  #memoryBytes: number | undefined;

  constructor(options: StageHostOptions) {
    this.#options = options;
    this.handlers = this.#makeHandlers();
    this.#timer = setInterval(() => this.#report(), 1_000);
  }

  get stages(): readonly HostedStage[] {
    return [...this.#stages.values()];
  }

  add(uid: Uid, pinned?: { model: ModelSpec; from: number; to: number }, own?: OwnData): HostedStage {
    if (this.#stages.has(uid))
      throw new MeshError('usage', `This process already hosts ${uid}.`, 'Name each UID once.');
    const { compute, ask, emit, isConnected, self } = this.#options;
    const now = this.#options.now ?? (() => performance.now());
    const turns = this.#turns;
    const stage = new HostedStage({
      ...{ uid, self, compute, turns, ask, emit, isConnected, now },
      ...(pinned ? { pinned } : {}),
      ...(own ? { own } : {}),
    });
    this.#stages.set(uid, stage);
    return stage;
  }

  /** The stage's record as it is now. */
  record(stage: HostedStage): StageRecord {
    const { self, host, gpu } = this.#options;
    const issuedAt = Date.now();
    return {
      kind: 'stage',
      name: stage.uid,
      peer: self,
      addresses: this.#options.addresses(),
      host,
      device: (gpu.description || `${gpu.vendor} ${gpu.architecture}`).slice(0, 200),
      isSoftware: gpu.isSoftware,
      samplesPerSecond: Math.round(stage.meter.rate * 10) / 10,
      ...(gpu.gflops === undefined ? {} : { gflops: gpu.gflops }),
      ...(this.#memoryBytes === undefined ? {} : { memoryBytes: this.#memoryBytes }),
      load: stage.load,
      isPaused: stage.isPaused,
      run: stage.run?.run ?? null,
      ...(stage.federation === undefined ? {} : { federation: stage.federation }),
      issuedAt,
      expiresAt: issuedAt + RECORD_TTL_MS,
    };
  }

  async announce(monitor: Monitor): Promise<void> {
    for (const stage of this.#stages.values()) await monitor.announce(stage.uid, () => this.record(stage));
  }

  async withdraw(monitor: Monitor): Promise<void> {
    await Promise.all([...this.#stages.keys()].map((uid) => monitor.withdraw(uid)));
  }

  /** Turns new work away and waits (bounded) until what was begun is done. */
  async drain(limitMs: number): Promise<void> {
    for (const stage of this.#stages.values()) stage.pause(true);
    const until = performance.now() + limitMs;
    while (this.stages.some((stage) => stage.load > 0) && performance.now() < until)
      await new Promise((resolve) => setTimeout(resolve, 20));
  }

  close(): void {
    clearInterval(this.#timer);
  }

  #makeHandlers(): Handlers {
    const at = (uid: Uid): HostedStage => {
      const stage = this.#stages.get(uid);
      if (!stage)
        throw new MeshError(
          'no-stage',
          `This peer does not host ${uid}; it hosts ${[...this.#stages.keys()].join(', ') || 'nothing'}.`,
          'Check the UID.',
        );
      return stage;
    };
    return {
      'stage.open': ({ uid, ...body }, tensors, context) => exchange.open(at(uid), body, tensors, context.peer),
      'stage.adopt': (body, _tensors, context) => exchange.adopt(at(body.uid), body, context.peer, context),
      'stage.forward': (body, tensors, context) => microbatch.forward(at(body.uid), body, tensors, context),
      'stage.infer': (body, tensors, context) => microbatch.infer(at(body.uid), body, tensors, context),
      'stage.reduce': (body, _tensors, context) => exchange.reduce(at(body.uid), body, context),
      'stage.gradients': (body) => exchange.gradients(at(body.uid), body),
      'stage.tie': (body, _tensors, context) => commit.tie(at(body.uid), body, context),
      'stage.tied': (body) => commit.tied(at(body.uid), body),
      'stage.norm': (body) => commit.norm(at(body.uid), body),
      'stage.apply': (body) => commit.apply(at(body.uid), body),
      'stage.flush': (body) => exchange.flush(at(body.uid), body),
      'stage.average': (body, _tensors, context) => exchange.average(at(body.uid), body, context),
      'stage.pull': (body) => exchange.pull(at(body.uid), body),
      'layers.offer': (body) => layers.offer(at(body.uid), body),
      'layers.pull': (body, tensors, context) => layers.pull(at(body.uid), body, tensors, context),
      'stage.close': async ({ uid, run }) => {
        await at(uid).close(run);
        return { body: {} };
      },
    };
  }

  async #weigh(): Promise<void> {
    try {
      this.#memoryBytes = (await this.#options.compute.describe()).stats.allocatedBytes;
    } catch {
      this.#memoryBytes = undefined; // a lost device tells whoever works with it
    }
  }

  #report(): void {
    if (this.stages.some((stage) => stage.run !== null)) void this.#weigh();
    for (const stage of this.#stages.values()) {
      const samplesPerSecond = stage.meter.sample();
      if (stage.run)
        this.#options.emit({
          kind: 'stage.stats',
          uid: stage.uid,
          samplesPerSecond,
          samples: stage.meter.samples,
          loss: stage.meter.loss,
          idleShare: stage.meter.idleShare,
          ...this.#options.traffic(),
        });
    }
  }
}
