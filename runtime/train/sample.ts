// Text that a model writes: token after token, each drawn from what the model expects next. Everything is computed again for each token.
import { MeshError } from '../errors.ts';
import { randomWords } from './random.ts';

export interface SampleOptions {
  /** How many tokens to write. */
  tokens: number;
  /** Logits are divided by it; 0 takes the likeliest token every time. */
  temperature: number;
  seed: number;
  /** What the model can look back on. */
  contextLength: number;
  /** Ends the text where it comes. */
  endOfText?: number | null;
}

/** `logitsOf`: those of the token that follows the given ones, (V). Returns the new tokens only. */
export async function sampleTokens(
  logitsOf: (ids: Int32Array<ArrayBuffer>) => Promise<Float32Array>,
  prompt: Iterable<number>,
  options: SampleOptions,
): Promise<number[]> {
  const { temperature, contextLength, endOfText = null } = options;
  const words = randomWords(options.seed, 0);
  const ids = [...prompt];
  const begin = ids.length;
  if (begin === 0)
    throw new MeshError('usage', 'The prompt has no tokens.', 'Give a prompt of at least one character.');
  while (ids.length - begin < options.tokens) {
    const logits = await logitsOf(Int32Array.from(ids.slice(-contextLength)));
    const next = drawFrom(logits, temperature, words() / 2 ** 32);
    if (next === endOfText) break;
    ids.push(next);
  }
  return ids.slice(begin);
}

/** The index at which the cumulative softmax of logits / temperature passes `uniform`, a number in [0, 1). */
export function drawFrom(logits: Float32Array, temperature: number, uniform: number): number {
  const best = logits.reduce((a, value, i) => (value > (logits[a] ?? -Infinity) ? i : a), 0);
  if (temperature === 0) return best;
  const largest = logits[best] ?? 0;
  const weights = Float64Array.from(logits, (logit) => Math.exp((logit - largest) / temperature));
  let left = uniform * weights.reduce((a, b) => a + b, 0);
  for (const [i, weight] of weights.entries()) {
    left -= weight;
    if (left < 0) return i;
  }
  return best;
}
