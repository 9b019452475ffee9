// Keeps gradients inside the range of f16: the loss is multiplied by a power of two, the gradient divided by it again before the
// step. The factor halves where a gradient was not finite, and doubles after many that were.

export const INITIAL_SCALE = 2 ** 12;
const MAX_SCALE = 2 ** 24;
const GROW_AFTER = 200;

export interface LossScaleState {
  scale: number;
  /** Steps since the scale changed. */
  goodSteps: number;
}

export class LossScale {
  readonly #isDynamic: boolean;
  #scale: number;
  #goodSteps: number;

  constructor(config: 'dynamic' | number, state?: LossScaleState | null) {
    this.#isDynamic = config === 'dynamic';
    this.#scale = this.#isDynamic ? (state?.scale ?? INITIAL_SCALE) : (config as number);
    this.#goodSteps = this.#isDynamic ? (state?.goodSteps ?? 0) : 0;
  }

  get value(): number {
    return this.#scale;
  }

  get state(): LossScaleState {
    return { scale: this.#scale, goodSteps: this.#goodSteps };
  }

  /** A step was taken. */
  good(): void {
    if (!this.#isDynamic) return;
    this.#goodSteps += 1;
    if (this.#goodSteps < GROW_AFTER) return;
    this.#goodSteps = 0;
    this.#scale = Math.min(this.#scale * 2, MAX_SCALE);
  }

  /** A gradient was not finite: false if a smaller scale cannot help. */
  lower(): boolean {
    if (!this.#isDynamic || this.#scale <= 1) return false;
    this.#scale /= 2;
    this.#goodSteps = 0;
    return true;
  }
}
