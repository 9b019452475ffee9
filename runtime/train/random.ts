// Draws that depend on a seed, a stream and a position only, so that every host draws the same ones. Not for keys or tokens.
import { philox } from '../model/random.ts';

/** Word 3 of the counter: keeps these draws apart from those of other uses of the same seed. */
const PURPOSE = 0x44524157;

/** Draws of one stream: unsigned 32-bit integers, the n-th of them a function of (seed, stream, n) alone. */
export function randomWords(seed: number, stream: number): () => number {
  const key = new Uint32Array([seed % 2 ** 32, Math.floor(seed / 2 ** 32)]);
  const counter = new Uint32Array([0, stream % 2 ** 32, Math.floor(stream / 2 ** 32), PURPOSE]);
  const block = new Uint32Array(4);
  let drawn = 0;
  return () => {
    const lane = drawn % 4;
    if (lane === 0) {
      counter[0] = drawn / 4;
      philox(counter, key, block);
    }
    drawn++;
    return block[lane] ?? 0;
  };
}

/** A uniform integer in [0, bound), without bias: words beyond the last whole multiple of `bound` are drawn again. */
export function randomBelow(bound: number, words: () => number): number {
  const limit = 2 ** 32 - (2 ** 32 % bound);
  for (;;) {
    const word = words();
    if (word < limit) return word % bound;
  }
}

/** Streams from here on are those of steps; below are those of epochs. */
const STEP_STREAMS = 2 ** 40;
/** And from here on those of what is drawn once, before a run: who gets which data. */
export const ONCE_STREAMS = 2 ** 52;

/** A seed for what is random in one microbatch of one step, whoever drives it and however often. */
export function microbatchSeed(seed: number, step: number, microbatch: number): number {
  const words = randomWords(seed, STEP_STREAMS + step);
  for (let i = 0; i < microbatch; i += 1) words();
  return words();
}
