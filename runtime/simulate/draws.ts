// Draws of the simulator: each quantity has a stream of its own, so that every system meets the same network and the same data, whatever
// it does with them. To the same bits on every host.
import { exp, ln } from '../train/dirichlet.ts';
import { ONCE_STREAMS, randomBelow, randomWords } from '../train/random.ts';

/** What is drawn; the streams of one purpose are told apart by an index. */
export const PURPOSES = [
  'topology',
  'links',
  'fading',
  'compute',
  'churn',
  'rejoin',
  'planner',
  'start',
  'plans',
] as const;
export type Purpose = (typeof PURPOSES)[number];

/** Above those of the partition of the data. */
const FIRST_STREAM = ONCE_STREAMS + 2 ** 20;
const INDICES = 2 ** 40;

export class Draws {
  readonly #words: () => number;

  constructor(seed: number, purpose: Purpose, index = 0) {
    this.#words = randomWords(seed, FIRST_STREAM + PURPOSES.indexOf(purpose) * INDICES + index);
  }

  /** In [0, 1), multiples of 2⁻³². */
  uniform = (): number => this.#words() / 2 ** 32;

  between(low: number, high: number): number {
    return low + (high - low) * this.uniform();
  }

  below(bound: number): number {
    return randomBelow(bound, this.#words);
  }

  exponential(mean: number): number {
    return -mean * ln(this.#positive());
  }

  /** exp(N(0, deviation²)). */
  logNormal(deviation: number): number {
    return expOf(deviation * this.normal());
  }

  /** Marsaglia's polar method; its second value is not used, so that a draw depends on the position alone. */
  normal(): number {
    for (;;) {
      const x = 2 * this.#positive() - 1;
      const y = 2 * this.#positive() - 1;
      const square = x * x + y * y;
      if (square > 0 && square < 1) return x * Math.sqrt((-2 * ln(square)) / square);
    }
  }

  /** In (0, 1). */
  #positive(): number {
    return (this.#words() + 0.5) / 2 ** 32;
  }
}

export const expOf = (x: number): number => (x <= 0 ? exp(x) : 1 / exp(-x));
