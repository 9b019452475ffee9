// What a hosted stage knows of the run that it serves: where it stands, and which microbatches its gradient holds. This is where
// "at most once" is decided; everything here is synchronous, so that a decision and the GPU work it stands for cannot be separated.
import { MeshError } from '../errors.ts';
import type { AverageSpec } from '../average-spec.ts';
import type { Averaging } from '../average/averaging.ts';
import type { StageInfo, StageSpec } from '../compute.ts';
import type { PeerId, RunId } from '../wire/ids.ts';
import type { Rate } from '../wire/messages.ts';
import type { Tensors } from '../tensor.ts';

export interface StageRunOptions {
  run: RunId;
  spec: StageSpec;
  mode: 'sync' | 'async';
  /** Async: microbatches to a step. */
  accumulate: number;
  /** Async: the learning rate by the plan's step, and the largest norm of a gradient. */
  rate?: Rate | undefined;
  clip?: number | undefined;
  /** Async: how it is averaged with other replicas. */
  average?: AverageSpec | undefined;
  /** The client that opened it. */
  owner: PeerId;
  handle: number;
  info: StageInfo;
  step: number;
}

/** How far back an async stage remembers what it applied: far more than can be in flight. */
const REMEMBERED = 100_000;

export class StageRun {
  readonly run: RunId;
  readonly spec: StageSpec;
  readonly mode: 'sync' | 'async';
  readonly accumulate: number;
  readonly rate: Rate | undefined;
  readonly clip: number | undefined;
  readonly average: AverageSpec | undefined;
  readonly handle: number;
  readonly info: StageInfo;
  owner: PeerId;
  /** Steps taken. */
  step: number;
  attempt = 0;
  /** Sync: the reduction has begun; the attempt takes no more. */
  isSealed = false;
  /** Sync: this replica's own gradient, read once for all who ask. */
  partial: Promise<Tensors> | null = null;
  isReduced = false;
  /** Sync: the reduced gradient of the parameter that both ends share, read before the other end's is added. */
  tied: Promise<Tensors> | null = null;
  isTied = false;
  lastGradientNorm = 0;
  /** Its state is being replaced by that of another replica: it takes no work. */
  isAdopting = false;
  /** Async: how it stays together with other replicas, where it was opened with a parameter store. */
  averaging: Averaging | null = null;
  /** Async: the average under way; whoever asks again waits for the same one. */
  round: Promise<number> | null = null;
  /** Sync: the optimizer step under way: whoever asks again waits for the same one, and nothing of this step may be touched. */
  applying: Promise<number> | null = null;
  /** Async: a clipped step under way, between whose norm and whose step nothing may be added. Never rejects. */
  stepping: Promise<void> | null = null;
  /** Async: microbatches in the gradient that no step has taken yet. */
  pending = 0;
  /** Async: the newest step of the plan of which it has a microbatch. */
  planned = 0;
  readonly #held = new Set<string>();

  constructor(options: StageRunOptions) {
    this.run = options.run;
    this.spec = options.spec;
    this.mode = options.mode;
    this.accumulate = options.accumulate;
    this.rate = options.rate;
    this.clip = options.clip;
    this.average = options.average;
    this.handle = options.handle;
    this.info = options.info;
    this.owner = options.owner;
    this.step = options.step;
  }

  /** Sync: true if a newer attempt has just begun, and what the last one gathered must be thrown away. Throws `stale` for an old one. */
  enter(step: number, attempt: number): boolean {
    if (this.mode === 'async') return false;
    if (step !== this.step) throw this.#stale(step, attempt);
    if (attempt < this.attempt || this.applying) throw this.#stale(step, attempt);
    if (attempt === this.attempt) return false;
    this.attempt = attempt;
    this.#clear();
    return true;
  }

  /** To be called in the same turn as the GPU work that adds the gradient: true if it may add, false if it already did. */
  claim(key: string, step: number, attempt: number): boolean {
    if (this.mode === 'sync' && (step !== this.step || attempt !== this.attempt || this.isSealed))
      throw this.#stale(step, attempt);
    if (this.#held.has(key)) return false;
    this.#held.add(key);
    if (this.mode === 'async' && this.#held.size > REMEMBERED)
      this.#held.delete(this.#held.values().next().value ?? '');
    return true;
  }

  /** The worker refused it: nothing was added, or the gradient is of no use any more (not finite, device lost) and is dropped whole. */
  unclaim(key: string, step: number, attempt: number): void {
    // The refusal may come when a newer attempt has claimed the same microbatch for itself.
    if (this.mode === 'sync' && (step !== this.step || attempt !== this.attempt)) return;
    this.#held.delete(key);
  }

  /** Sync: throws `conflict` unless the gradient holds exactly these microbatches. */
  expectHeld(step: number, attempt: number, microbatches: readonly number[]): void {
    if (step !== this.step || attempt !== this.attempt || this.applying) throw this.#stale(step, attempt);
    const held = [...this.#held].map(Number).sort((a, b) => a - b);
    const wanted = [...microbatches].sort((a, b) => a - b);
    if (held.length === wanted.length && held.every((m, i) => m === wanted[i])) return;
    throw new MeshError(
      'conflict',
      `Step ${step}: the gradient holds microbatches [${held.join(', ')}], the plan says [${wanted.join(', ')}].`,
      'The step is tried again from its start.',
    );
  }

  /** Sync: throws `stale` unless the gradient is the sum over all replicas. */
  expectReduced(step: number, attempt: number): void {
    if (step !== this.step || attempt !== this.attempt || this.applying || !this.isReduced)
      throw this.#stale(step, attempt);
  }

  /** Sync: the step was taken. */
  advance(gradientNorm: number): number {
    const contributions = this.#held.size;
    this.step += 1;
    this.attempt = 0;
    this.lastGradientNorm = gradientNorm;
    this.#clear();
    return contributions;
  }

  /** It took over the state of a replica that is at `step`. */
  jump(step: number): void {
    this.step = step;
    this.attempt = 0;
    this.pending = 0;
    this.#clear();
  }

  #clear(): void {
    this.#held.clear();
    this.isSealed = false;
    this.partial = null;
    this.isReduced = false;
    this.tied = null;
    this.isTied = false;
  }

  #stale(step: number, attempt: number): MeshError {
    return new MeshError(
      'stale',
      `Step ${step} attempt ${attempt} was asked for; this replica is at step ${this.step} attempt ${this.attempt}${this.isSealed ? ' and reduces it' : ''}.`,
      'Nothing to do: a newer attempt is under way, or this replica must first adopt the state of another one.',
    );
  }
}
