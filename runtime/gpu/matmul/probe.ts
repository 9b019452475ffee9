// One product on the device with operands whose result the CPU can tell: to time a tiling, and to see whether it is right.
import type { Slice } from '../buffers.ts';
import type { Gpu, Recorder } from '../gpu.ts';
import { generate } from './generate.ts';
import type { MatmulKernel, MatmulShape, MatmulVariant, Tiling } from './spec.ts';
import type { TuneBench } from './tune.ts';

/** Sixteenths of −½ … ½: exact in every format, so that only sums differ. */
const valueAt = (i: number): number => ((Math.imul(i + 1, 0x9e3779b1) >>> 16) % 17) / 16 - 0.5;

/** Exact for `valueAt`: multiples of 1/16 up to ½. */
function f16Bits(value: number): number {
  if (value === 0) return 0;
  const exponent = Math.floor(Math.log2(Math.abs(value)));
  return (value < 0 ? 0x8000 : 0) | ((exponent + 15) << 10) | Math.round((Math.abs(value) / 2 ** exponent - 1) * 1024);
}

const SAMPLES = 64;

/** The operands of one probe on the device. */
export class Probe implements TuneBench<Tiling> {
  readonly #gpu: Gpu;
  readonly #variant: MatmulVariant;
  readonly #shape: MatmulShape;
  readonly #kernels: Map<Tiling, MatmulKernel>;
  readonly #a: Slice;
  readonly #b: Slice;
  readonly #out: Slice;

  constructor(gpu: Gpu, variant: MatmulVariant, shape: MatmulShape, kernels = new Map<Tiling, MatmulKernel>()) {
    const { M, N, K } = shape;
    this.#gpu = gpu;
    this.#variant = variant;
    this.#shape = shape;
    this.#kernels = kernels;
    this.#a = gpu.pool.take(M * K * 4);
    this.#b = gpu.pool.take(N * K * (variant.weights === 'f32' ? 4 : 2));
    this.#out = gpu.pool.take(M * N * 4);
  }

  release(): void {
    for (const slice of [this.#a, this.#b, this.#out]) this.#gpu.pool.release(slice);
  }

  async fill(): Promise<void> {
    const { M, N, K } = this.#shape;
    const a = Float32Array.from({ length: M * K }, (_, i) => valueAt(i));
    const b =
      this.#variant.weights === 'f32'
        ? Float32Array.from({ length: N * K }, (_, i) => valueAt(i))
        : Uint16Array.from({ length: N * K }, (_, i) => f16Bits(valueAt(i)));
    await this.#gpu.submit((recorder) => {
      recorder.write(this.#a, new Uint8Array(a.buffer));
      recorder.write(this.#b, new Uint8Array(b.buffer));
    });
  }

  async prepare(tiling: Tiling): Promise<void> {
    await this.#gpu.warm([{ generated: this.#kernel(tiling) }]);
  }

  async run(tiling: Tiling, repeats: number): Promise<void> {
    await this.#gpu.submit((recorder) => {
      for (let i = 0; i < repeats; i++) this.#dispatch(recorder, tiling, this.#shape);
      recorder.read({ ...this.#out, bytes: 4 });
    });
  }

  /** On a part of the operands whose edges cut through tiles, at entries spread over the whole and at its corners. */
  async isRight(tiling: Tiling): Promise<boolean> {
    const { product } = this.#variant;
    const whole = this.#shape;
    const [M, N, K] = [whole.M - 4, whole.N - 4, whole.K - 4];
    const [bytes] = await this.#gpu.submit((recorder) => {
      recorder.clear(this.#out);
      this.#dispatch(recorder, tiling, { M, N, K });
      recorder.read({ ...this.#out, bytes: M * N * 4 });
    });
    if (bytes === undefined) return false;
    const got = new Float32Array(bytes.buffer);
    const last = M * N - 1;
    const places = [0, N - 1, last - N + 1, last];
    for (let i = 0; i < SAMPLES; i++) places.push(Math.floor((i * last) / SAMPLES));
    return places.every((place) => {
      const [row, col] = [Math.floor(place / N), place % N];
      let [sum, size] = [0, 0];
      for (let k = 0; k < K; k++) {
        // a keeps the stride of the whole; b has none, so its rows lie closer.
        const a = product === 'tn' ? k * whole.M + row : row * whole.K + k;
        const term = valueAt(a) * valueAt(product === 'nt' ? col * K + k : k * N + col);
        sum += term;
        size += Math.abs(term);
      }
      return Math.abs((got[place] ?? Number.NaN) - sum) <= 1e-5 * size;
    });
  }

  #dispatch(recorder: Recorder, tiling: Tiling, shape: MatmulShape): void {
    const kernel = this.#kernel(tiling);
    const aStride = this.#variant.product === 'tn' ? this.#shape.M : this.#shape.K;
    const sizes = { ...shape, aStride, aOffset: 0, outStride: shape.N, outOffset: 0 };
    recorder.dispatchGenerated(kernel, [this.#out, this.#a, this.#b], sizes, kernel.grid(shape));
  }

  #kernel(tiling: Tiling): MatmulKernel {
    let kernel = this.#kernels.get(tiling);
    if (kernel === undefined) {
      kernel = generate(this.#variant, tiling);
      this.#kernels.set(tiling, kernel);
    }
    return kernel;
  }
}
