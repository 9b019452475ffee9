// Workers that train, show, pull and merge as the product does, with small vectors in the place of models: what the tests of averaging's
// judgement look at. Everything is drawn from one seed.
import { Clipping } from '../../runtime/average/clipping.ts';
import { Judge } from '../../runtime/average/judge.ts';
import { Round, type Arrival } from '../../runtime/average/round.ts';
import type { Told } from '../../runtime/average/judge.ts';
import type { Verdict } from '../../runtime/average/trust.ts';
import { randomOf } from './inputs.ts';

export interface PopulationOptions {
  seed: number;
  workers: number;
  units: number;
  size: number;
  /** Of the way to the worker's own optimum that a step goes, and of its noise. */
  rate: number;
  noise: number;
  /** How far apart the optima are, in weights' sizes. */
  apart: number;
  /** Units whose gradient is nearly always zero: rows of an embedding that are seldom seen. */
  rare?: number;
  /** Steps between two rounds of each worker. */
  steps: (worker: number, round: number) => number;
}

interface Member {
  id: string;
  live: number[][];
  shown: number[][];
  goal: number[][];
  progress: number[];
  version: number;
  clipping: Clipping;
  judge: Judge;
  /** As its last snapshot told them. */
  offer: { version: number; progress: number[] };
}

const square = (a: readonly number[], b?: readonly number[]): number =>
  a.reduce((sum, value, i) => sum + (value - (b?.[i] ?? 0)) ** 2, 0);

const LABELS = [0.5, 0.5];

export class Population {
  readonly members: Member[];
  readonly #options: PopulationOptions;
  readonly #random: () => number;

  constructor(options: PopulationOptions) {
    const { seed, workers, units, size, apart } = options;
    this.#options = options;
    this.#random = randomOf(seed);
    const start = Array.from({ length: units }, () => this.#vector(size));
    this.members = Array.from({ length: workers }, (_, i) => {
      const clipping = new Clipping(units, { factor: 2 });
      return {
        id: `p${i}`,
        live: start.map((unit) => [...unit]),
        shown: start.map((unit) => [...unit]),
        goal: start.map((unit) => unit.map((value) => value + apart * this.#normal())),
        progress: start.map(() => 0),
        version: 0,
        clipping,
        judge: new Judge({ units, clipping, classes: LABELS.length }),
        offer: { version: 0, progress: start.map(() => 0) },
      };
    });
  }

  /** One worker trains, shows, pulls from some others and merges; what it thinks of them. */
  turn(
    index: number,
    round: number,
    tamper: (peer: string, unit: number, told: Told) => Told = (_, __, told) => told,
  ): Verdict[] {
    const own = this.members[index];
    if (!own) return [];
    for (let step = this.#options.steps(index, round); step > 0; step -= 1) this.#train(own);
    this.#show(own);
    const others = this.members.filter((member) => member !== own && this.#random() < 0.7);
    const claimed = own.judge.claims(
      others.map(({ id, offer }) => ({
        peer: id,
        version: offer.version,
        progress: [...offer.progress],
        labels: LABELS,
      })),
    );
    const plan = {
      pulls: others.map(({ id }) => ({
        peer: id,
        units: own.live.flatMap((_, unit) => (this.#random() < 0.6 ? [unit] : [])),
        etaSeconds: 1,
      })),
      mixing: { kind: 'uniform' as const },
    };
    const squaredNorm = own.shown.map((unit) => square(unit));
    const asked = new Round({ plan, squaredNorm, clipping: own.clipping, now: 0, rttMs: () => 0 });
    const told = new Map<string, Told>();
    const parts = new Map<string, number[]>();
    for (const request of asked.start()) {
      const peer = this.members.find(({ id }) => id === request.peer);
      if (!peer) continue;
      const arrivals: Arrival[] = request.units.map((unit) => {
        const values = peer.shown[unit] ?? [];
        parts.set(`${peer.id} ${unit}`, [...values]);
        told.set(
          `${peer.id} ${unit}`,
          tamper(peer.id, unit, { version: peer.version, progress: peer.progress[unit] ?? 0 }),
        );
        return { unit, isFinite: true, squaredDistance: square(values, own.shown[unit]), squaredNorm: square(values) };
      });
      asked.arrived(request, arrivals);
    }
    const verdicts = own.judge.arrivals(asked.arrivals, squaredNorm, own.progress, told);
    for (const { unit, from } of asked.mixes(() => false)) {
      const shown = own.shown[unit] ?? [];
      const moved = shown.map((value, i) =>
        from.reduce(
          (sum, { peer, coefficient }) => sum + coefficient * ((parts.get(`${peer} ${unit}`)?.[i] ?? NaN) - value),
          0,
        ),
      );
      for (const set of [own.shown, own.live])
        set[unit] = (set[unit] ?? []).map((value, i) => value + (moved[i] ?? NaN));
    }
    own.version += 1;
    return [...claimed, ...verdicts];
  }

  #train(own: Member): void {
    const { rate, noise, rare = 0 } = this.#options;
    own.live.forEach((unit, u) => {
      if (u < rare && this.#random() > 0.01) return;
      const goal = own.goal[u] ?? [];
      own.live[u] = unit.map((value, i) => value + rate * ((goal[i] ?? 0) - value) + noise * this.#normal());
    });
  }

  #show(own: Member): void {
    own.live.forEach((unit, u) => {
      own.progress[u] = (own.progress[u] ?? 0) + square(unit, own.shown[u]);
    });
    own.shown = own.live.map((unit) => [...unit]);
    own.version += 1;
    own.offer = { version: own.version, progress: [...own.progress] };
  }

  #vector(size: number): number[] {
    return Array.from({ length: size }, () => this.#normal());
  }

  #normal(): number {
    const u = Math.max(1e-12, this.#random());
    return Math.sqrt(-2 * Math.log(u)) * Math.cos(2 * Math.PI * this.#random());
  }
}
