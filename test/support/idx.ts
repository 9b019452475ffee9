// Small IDX files, and the four of a data set like MNIST.
import { IDX_FILES } from '../../runtime/train/dataset-spec.ts';

/** The bytes of an IDX file of unsigned bytes. */
export function idxBytes(shape: readonly number[], data: Uint8Array): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(4 + 4 * shape.length + data.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, 0x0800 + shape.length);
  shape.forEach((size, i) => view.setUint32(4 + 4 * i, size));
  bytes.set(data, 4 + 4 * shape.length);
  return bytes;
}

/** By name: that many images of 28 × 28 for training, half as many to test with. */
export function idxSet(rows: number): Map<string, Uint8Array<ArrayBuffer>> {
  const images = (count: number) => Uint8Array.from({ length: count * 784 }, (_, i) => i % 251);
  const labels = (count: number) => Uint8Array.from({ length: count }, (_, i) => i % 10);
  const half = Math.ceil(rows / 2);
  return new Map([
    [IDX_FILES.train.images, idxBytes([rows, 28, 28], images(rows))],
    [IDX_FILES.train.labels, idxBytes([rows], labels(rows))],
    [IDX_FILES.test.images, idxBytes([half, 28, 28], images(half))],
    [IDX_FILES.test.labels, idxBytes([half], labels(half))],
  ]);
}
