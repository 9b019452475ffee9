// What is measured, the same for every contender, in a page and in Node: products and training steps, timed in batches that each
// end in one readback, and checked for being right. Knows no contender and no host.

export type Sizes = readonly [number, number, number];

export const MATMUL_SIZES = [512, 1024] as const;
export const MLP_CASES: readonly { name: string; sizes: Sizes; batch: number }[] = [
  { name: '784-64-10 b32', sizes: [784, 64, 10], batch: 32 },
  { name: '784-256-10 b128', sizes: [784, 256, 10], batch: 128 },
];

export const LEARNING_RATE = 1e-3;
/** A batch repeats a step until it takes about this long, so that submit and readback weigh little. */
export const BATCH_MS = 150;
export const MAX_STEPS = 50;
/** Batches of one case in one round go on for about this long. */
export const CASE_MS = 900;
const MAX_BATCHES = 6;
/** Entries of each product that are checked. */
const CHECKED = 32;
const TOLERANCE = 1e-4;

/** Square matrices a, b already on the device. */
export interface Product {
  /** Computes the product so often and waits until the last is there. */
  run(times: number): Promise<void>;
  /** The last product (size, size), row-major. */
  result(): Promise<ArrayLike<number>>;
  end(): void | Promise<void>;
}

export interface Training {
  /** Takes so many steps and resolves with the loss of the last one, as it was before that step. */
  run(steps: number): Promise<number>;
  end(): void | Promise<void>;
}

export interface Samples {
  /** (batch, features), in -0.5 … 0.5 */
  x: Float32Array<ArrayBuffer>;
  /** (batch) classes */
  y: Int32Array<ArrayBuffer>;
}

export interface Contender {
  /** The adapter, or what else computes. */
  readonly device: string;
  /** `matmul` computes a · bᵀ where true (b is stored as weights are), a · b where false. */
  readonly isTransposed: boolean;
  matmul(size: number, a: Float32Array<ArrayBuffer>, b: Float32Array<ArrayBuffer>): Promise<Product>;
  mlp?(sizes: Sizes, batch: number, samples: Samples): Promise<Training>;
  end(): void | Promise<void>;
}

/** Milliseconds a step, one figure for each batch. */
export interface Timing {
  msPerStep: number[];
}

export async function measureMatmul(contender: Contender, size: number): Promise<Timing> {
  const a = uniform(size * size, 1);
  const b = uniform(size * size, 2);
  const product = await contender.matmul(size, a, b);
  try {
    const timing = await timed((times) => product.run(times));
    checkProduct(size, a, b, contender.isTransposed, await product.result());
    return timing;
  } finally {
    await product.end();
  }
}

export async function measureMlp(contender: Contender, sizes: Sizes, batch: number): Promise<Timing> {
  if (contender.mlp === undefined) throw new Error('trains no models');
  const classes = sizes[2];
  const y = Int32Array.from(uniform(batch, 4), (value) => Math.min(classes - 1, Math.floor((value + 0.5) * classes)));
  const training = await contender.mlp(sizes, batch, { x: uniform(batch * sizes[0], 3), y });
  try {
    const losses: number[] = [];
    const timing = await timed(async (steps) => void losses.push(await training.run(steps)));
    const [first = NaN] = losses;
    const last = losses.at(-1) ?? NaN;
    // Small weights guess: every class is as likely as the others. A mean of anything else would start elsewhere.
    if (!(Math.abs(first - Math.log(classes)) < 0.3))
      throw new Error(`the first loss is ${first}, not about ${Math.log(classes)}: it computes something else`);
    // The same samples every time: a model of any use gets better at them.
    if (!(last < first)) throw new Error(`the loss went from ${first} to ${last}: it does not learn`);
    return timing;
  } finally {
    await training.end();
  }
}

/** One step to compile, one to warm up and to see how many make a batch, then batches. */
async function timed(run: (steps: number) => Promise<void>): Promise<Timing> {
  const batchMs = async (steps: number): Promise<number> => {
    const startMs = performance.now();
    await run(steps);
    return (performance.now() - startMs) / steps;
  };
  await batchMs(1);
  const oneMs = await batchMs(1);
  // A single step includes a whole readback, so the guess is on the low side; a second one with some steps is better.
  const guessMs = oneMs * 5 < BATCH_MS ? await batchMs(5) : oneMs;
  const steps = Math.max(1, Math.min(MAX_STEPS, Math.round(BATCH_MS / guessMs)));
  const msPerStep = steps === 1 ? [oneMs] : [];
  const untilMs = performance.now() + CASE_MS - (steps === 1 ? oneMs : 0);
  while (msPerStep.length === 0 || (performance.now() < untilMs && msPerStep.length < MAX_BATCHES))
    msPerStep.push(await batchMs(steps));
  return { msPerStep };
}

function checkProduct(
  size: number,
  a: Float32Array,
  b: Float32Array,
  isTransposed: boolean,
  y: ArrayLike<number>,
): void {
  if (y.length !== size * size) throw new Error(`the product has ${y.length} entries, not ${size * size}`);
  for (let i = 0; i < CHECKED; i++) {
    // Corners, and entries all over the matrix.
    const row = i === 0 ? size - 1 : (i * 7919) % size;
    const column = i === 0 ? size - 1 : (i * 104_729) % size;
    let wanted = 0;
    for (let k = 0; k < size; k++)
      wanted += (a[row * size + k] ?? NaN) * (b[isTransposed ? column * size + k : k * size + column] ?? NaN);
    const found = y[row * size + column] ?? NaN;
    if (!(Math.abs(found - wanted) <= TOLERANCE * Math.sqrt(size)))
      throw new Error(
        `entry (${row}, ${column}) of the product is ${found}, not ${wanted}: it computes something else`,
      );
  }
}

/** In -0.5 … 0.5, the same everywhere. */
export function uniform(count: number, seed: number): Float32Array<ArrayBuffer> {
  let state = (seed * 0x9e3779b9) >>> 0;
  return Float32Array.from({ length: count }, () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 2 ** 32 - 0.5;
  });
}

/** U(-1/√in, 1/√in) for weights of (in, out), the peers' layout. */
export function initialWeights(inputs: number, outputs: number, seed: number): Float32Array<ArrayBuffer> {
  return uniform(inputs * outputs, seed).map((value) => (2 * value) / Math.sqrt(inputs));
}
