// Rotary positions: the frequencies of Llama's families as Hugging Face computes them, and their table of cosines and sines, in
// double precision because a shader's sin and cos lose their places at large angles. The rotation itself is kernels/rope.wgsl.
import { MeshError } from '../errors.ts';
import type { RopeScaling } from '../model-spec.ts';

export interface RopeSpec {
  /** Head size, even. */
  D: number;
  theta: number;
  scaling: RopeScaling | null;
}

/** (D / 2): radians per position of each pair. */
export function ropeFrequencies({ D, theta, scaling }: RopeSpec): Float64Array<ArrayBuffer> {
  if (D % 2 !== 0 || D <= 0)
    throw new MeshError('usage', `Rotary positions need an even head size, not ${D}.`, 'Change the head size.');
  const plain = Float64Array.from({ length: D / 2 }, (_, i) => theta ** ((-2 * i) / D));
  return scaling === null ? plain : plain.map((frequency) => scaled(frequency, scaling));
}

function scaled(frequency: number, scaling: RopeScaling): number {
  switch (scaling.rope_type) {
    case 'linear':
      return frequency / scaling.factor;
    case 'llama3': {
      // Long waves are stretched, short ones left alone, those between blended.
      const { factor, low_freq_factor: low, high_freq_factor: high } = scaling;
      const turns = (scaling.original_max_position_embeddings * frequency) / (2 * Math.PI);
      if (turns < low) return frequency / factor;
      if (turns > high) return frequency;
      const smooth = (turns - low) / (high - low);
      return ((1 - smooth) * frequency) / factor + smooth * frequency;
    }
    default:
      return scaling satisfies never;
  }
}

/** (T, D / 2, 2): cosine and sine of position t for each frequency, times `attentionScaling`. */
export function ropeTable(T: number, frequencies: Float64Array, attentionScaling = 1): Float32Array<ArrayBuffer> {
  const table = new Float32Array(T * frequencies.length * 2);
  let at = 0;
  for (let t = 0; t < T; t++)
    for (const frequency of frequencies) {
      table[at] = Math.cos(t * frequency) * attentionScaling;
      table[at + 1] = Math.sin(t * frequency) * attentionScaling;
      at += 2;
    }
  return table;
}
