// Merges sets of tensors on the GPU into one that is there: all of it, or nothing where a part or the result is not finite.
import { Borrowed } from '../gpu/buffers.ts';
import type { Gpu } from '../gpu/gpu.ts';
import { finiteCheck, weightedSum } from '../gpu/ops.ts';
import type { Tensors } from '../tensor.ts';
import { notFinite, TensorSet, type Entry } from './weights.ts';

/** Parts of a merge that lie on the GPU at once. */
const MERGE_BYTES = 32 * 2 ** 20;

interface Piece {
  entry: Entry;
  /** Elements of the tensor: the first, and how many. */
  start: number;
  count: number;
}

/** Tensors in pieces, and pieces in batches whose parts can lie on the GPU together. */
function batchesOf(entries: readonly Entry[], parts: number): Piece[][] {
  const most = Math.max(64, Math.floor(MERGE_BYTES / 4 / parts / 64) * 64); // elements of a batch; pieces begin at 256 bytes
  const batches: Piece[][] = [];
  let room = 0;
  for (const entry of entries) {
    const total = entry.bytes / 4;
    for (let start = 0; start < total; start += most) {
      const count = Math.min(most, total - start);
      if (count > room) {
        batches.push([]);
        room = most;
      }
      batches.at(-1)?.push({ entry, start, count });
      room -= count;
    }
  }
  return batches;
}

/** set = [set +] Σ c[p] · parts[p], or nothing where a part or the result is not finite. A tensor that no part has stays as it is. */
export async function combineInto(
  gpu: Gpu,
  set: TensorSet,
  parts: readonly Tensors[],
  coefficients: readonly number[],
  isAdding: boolean,
): Promise<void> {
  const entries = set.layout.entries.filter(({ name }) => parts.some((part) => part.has(name)));
  const borrowed = new Borrowed(gpu.pool);
  try {
    const flag = borrowed.take(4);
    const factors = borrowed.take(parts.length * 4);
    const next = new TensorSet(
      set.layout,
      set.slabs.map((slab) => borrowed.take(slab.bytes, true)),
    );
    await gpu.submit((recorder) => {
      recorder.write(factors, new Uint8Array(Float32Array.from(coefficients).buffer));
      recorder.clear(flag);
      if (isAdding) for (const entry of entries) recorder.copy(set.at(entry), next.at(entry), entry.bytes);
    });
    for (const batch of batchesOf(entries, parts.length)) {
      const packed = batch.map(({ count }) => borrowed.take(count * parts.length * 4));
      const merged = gpu.submit((recorder) => {
        // All uploads first: they then go straight to their buffers.
        batch.forEach(({ entry, start, count }, i) => {
          const to = packed[i];
          parts.forEach((part, p) => {
            const data = part.get(entry.name)?.data.subarray(start * 4, (start + count) * 4);
            if (data !== undefined && to !== undefined) recorder.write({ ...to, offset: p * count * 4 }, data);
          });
        });
        batch.forEach(({ entry, start, count }, i) => {
          const from = packed[i];
          if (from === undefined) return;
          const whole = next.at(entry);
          const target = { ...whole, offset: whole.offset + start * 4, bytes: count * 4 };
          finiteCheck(recorder, flag, from, count * parts.length);
          weightedSum(recorder, isAdding, target, from, factors, { count, parts: parts.length, stride: count });
          finiteCheck(recorder, flag, target, count);
        });
      });
      for (const slice of packed) borrowed.give(slice);
      await merged;
    }
    const [found] = await gpu.submit((recorder) => recorder.read(flag));
    if (found?.[0] !== 0) throw notFinite('The parts of this merge, or its result,');
    await gpu.submit((recorder) => {
      for (const entry of entries) recorder.copy(next.at(entry), set.at(entry), entry.bytes);
    });
  } finally {
    borrowed.release();
  }
}
