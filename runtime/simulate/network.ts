// The network that workers meet: what links and access lines carry, how that changes, how long requests take, who is there. Everything is
// drawn from the seed alone, so that all systems meet the same. Times in virtual seconds.
import { bytesPerSecond, type SimulationConfig } from './config.ts';
import { Draws, expOf } from './draws.ts';
import type { Clock, Timer } from './events.ts';
import { Flows, type Flow, type Resource } from './flows.ts';
import type { Setup } from './setup.ts';

/** How much of its deviation a link keeps from one redraw to the next. */
const KEPT = 0.5;

interface Link {
  /** Bytes a second before the factor. */
  readonly base: number;
  readonly most: number;
  readonly rttSeconds: number;
  readonly fading: Draws;
  /** Logarithm of the factor. */
  deviation: number;
  /** One each way. */
  readonly ways: readonly [Resource, Resource];
}

export interface Outcome {
  onDone: (bytesPerSecond: number) => void;
  /** The other end is gone; so many bytes had come. */
  onFailed: (bytes: number) => void;
}

interface Transfer {
  readonly from: number;
  readonly to: number;
  readonly outcome: Outcome;
  /** The request on its way, then the answer. */
  timer: Timer;
  flow: Flow | null;
}

export interface Traffic {
  /** Bytes by worker. */
  readonly up: Float64Array;
  readonly down: Float64Array;
}

export class Network {
  readonly traffic: Traffic;
  readonly #clock: Clock;
  readonly #flows: Flows;
  readonly #links = new Map<number, Link>();
  readonly #lines: { up: Resource; down: Resource }[];
  readonly #transfers = new Set<Transfer>();
  readonly #isUp: boolean[];
  readonly #workers: number;

  /** `onPresence`: a worker has come back, or is gone; its transfers have failed by then. */
  constructor(
    clock: Clock,
    { config, neighbours, seed, network }: Pick<Setup, 'config' | 'neighbours' | 'seed' | 'network'>,
    onPresence: (worker: number, isUp: boolean) => void,
  ) {
    const { workers, links, access, churn } = config;
    this.#clock = clock;
    this.#workers = workers;
    this.#flows = new Flows(clock);
    this.#isUp = new Array<boolean>(workers).fill(true);
    this.traffic = { up: new Float64Array(workers), down: new Float64Array(workers) };
    const lines = new Draws(seed, 'links', workers * workers);
    this.#lines = Array.from({ length: workers }, () => {
      const up = bytesPerSecond(lines.between(...access.upMbitPerSecond));
      const down = bytesPerSecond(lines.between(...access.downMbitPerSecond));
      const isBound = network === 'access';
      return {
        up: this.#flows.resource(isBound ? up : Infinity),
        down: this.#flows.resource(isBound ? down : Infinity),
      };
    });
    for (const [i, others] of neighbours.entries())
      for (const m of others)
        if (m > i) this.#links.set(this.#pair(i, m), this.#makeLink(links, seed, this.#pair(i, m)));
    this.#redraw(links);
    if (churn !== false)
      for (let i = 0; i < workers; i += 1) this.#leave(i, churn, new Draws(seed, 'churn', i), onPresence);
  }

  isUp = (worker: number): boolean => this.#isUp[worker] ?? false;

  rttSeconds = (i: number, m: number): number => this.#links.get(this.#pair(i, m))?.rttSeconds ?? 0;

  /** A round trip for the request, then the bytes. Returns how it is given up; nothing more is heard of it then. */
  transfer(from: number, to: number, bytes: number, outcome: Outcome): () => number {
    const link = this.#links.get(this.#pair(from, to));
    const [up, down] = [this.#lines[from]?.up, this.#lines[to]?.down];
    if (!link || !up || !down) throw new RangeError(`${from} and ${to} are no neighbours.`);
    const begin = (): void => {
      if (!this.isUp(from)) {
        this.#transfers.delete(transfer);
        outcome.onFailed(0);
        return;
      }
      const way = link.ways[from < to ? 0 : 1];
      transfer.flow = this.#flows.start(bytes, [up, down, way], () => {
        this.#close(transfer);
        const seconds = this.#clock.now - (transfer.flow?.startedAt ?? 0);
        outcome.onDone(seconds > 0 ? bytes / seconds : Infinity);
      });
    };
    const transfer: Transfer = { from, to, outcome, flow: null, timer: this.#clock.after(link.rttSeconds, begin) };
    this.#transfers.add(transfer);
    return () => (this.#transfers.has(transfer) ? this.#close(transfer) : 0);
  }

  /** Small messages, which take no time of their own but count. */
  count(from: number, to: number, bytes: number): void {
    const { up, down } = this.traffic;
    up[from] = (up[from] ?? 0) + bytes;
    down[to] = (down[to] ?? 0) + bytes;
  }

  #close(transfer: Transfer): number {
    this.#transfers.delete(transfer);
    this.#clock.cancel(transfer.timer);
    const bytes = transfer.flow === null ? 0 : this.#flows.stop(transfer.flow);
    this.count(transfer.from, transfer.to, bytes);
    return bytes;
  }

  #makeLink(links: SimulationConfig['links'], seed: number, pair: number): Link {
    const draws = new Draws(seed, 'links', pair);
    const base = bytesPerSecond(draws.between(...links.mbitPerSecond));
    const rttSeconds = draws.between(...links.rttMs) / 1000;
    const most = links.windowBytes / rttSeconds;
    const capacity = Math.min(base, most);
    const fading = new Draws(seed, 'fading', pair);
    const ways = [this.#flows.resource(capacity), this.#flows.resource(capacity)] as const;
    return { base, most, rttSeconds, fading, deviation: 0, ways };
  }

  #redraw(links: SimulationConfig['links']): void {
    if (links.spread === 0) return;
    this.#clock.after(links.redrawSeconds, () => {
      for (const link of this.#links.values()) {
        const fresh = Math.sqrt(1 - KEPT * KEPT) * links.spread * link.fading.normal();
        link.deviation = KEPT * link.deviation + fresh;
        const capacity = Math.min(link.most, link.base * expOf(link.deviation));
        for (const way of link.ways) this.#flows.setCapacity(way, capacity);
      }
      this.#redraw(links);
    });
  }

  #leave(
    worker: number,
    churn: { onSeconds: number; offSeconds: number },
    draws: Draws,
    onPresence: (worker: number, isUp: boolean) => void,
  ): void {
    this.#clock.after(draws.exponential(churn.onSeconds), () => {
      this.#isUp[worker] = false;
      onPresence(worker, false);
      for (const transfer of this.#transfers)
        if (transfer.from === worker || transfer.to === worker) {
          const came = this.#close(transfer);
          if (transfer.to !== worker) transfer.outcome.onFailed(came);
        }
      this.#clock.after(draws.exponential(churn.offSeconds), () => {
        this.#isUp[worker] = true;
        this.#leave(worker, churn, draws, onPresence);
        onPresence(worker, true);
      });
    });
  }

  #pair(i: number, m: number): number {
    return Math.min(i, m) * this.#workers + Math.max(i, m);
  }
}
