// IDX, the file format of MNIST and its descendants: parsed strictly, from bytes. Reading the files is the host's work.
//
//   offset 0  u16  zero
//          2  u8   element type (8: unsigned byte)
//          3  u8   number of dimensions D
//          4  u32  D sizes, big-endian
//      4 + 4D      elements, row-major
import { MeshError } from '../errors.ts';

export interface IdxFile {
  shape: readonly number[];
  /** A view of the given bytes, not a copy; `shape`'s product many. */
  data: Uint8Array<ArrayBuffer>;
}

const UNSIGNED_BYTE = 8;
const MAX_DIMENSIONS = 8;

/** Throws `bad-file` unless the bytes are exactly one IDX file of unsigned bytes. `name` stands in the message. */
export function parseIdx(bytes: Uint8Array<ArrayBuffer>, name = 'The data'): IdxFile {
  if (bytes.byteLength < 4) throw badFile(`${name} has ${bytes.byteLength} bytes, too few for an IDX header.`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const magic = view.getUint32(0);
  const dimensions = magic & 0xff;
  if (magic >>> 8 !== UNSIGNED_BYTE || dimensions < 1 || dimensions > MAX_DIMENSIONS)
    throw badFile(
      `${name} is no IDX file of bytes: it begins with 0x${magic.toString(16).padStart(8, '0')}, not 0x000008 and 1 to ${MAX_DIMENSIONS} dimensions.`,
    );
  const headerBytes = 4 + 4 * dimensions;
  if (bytes.byteLength < headerBytes)
    throw badFile(`${name} ends inside its header (${bytes.byteLength} of ${headerBytes} bytes).`);
  const shape = Array.from({ length: dimensions }, (_, i) => view.getUint32(4 + 4 * i));
  // A product beyond 2^53 is not exact, but then it is not the file's length either.
  const wantedBytes = shape.reduce((product, size) => product * size, 1);
  if (wantedBytes !== bytes.byteLength - headerBytes)
    throw badFile(
      `${name} declares (${shape.join(', ')}), ${wantedBytes} bytes of data, and holds ${bytes.byteLength - headerBytes}.`,
    );
  return { shape, data: bytes.subarray(headerBytes) };
}

/**
 * How long the whole file is, as its first bytes declare; null where they are too few, or no IDX header. Beyond 2^53 not exact.
 */
export function declaredBytes(start: Uint8Array): number | null {
  if (start.byteLength < 4) return null;
  const view = new DataView(start.buffer, start.byteOffset, start.byteLength);
  const dimensions = view.getUint8(3);
  const headerBytes = 4 + 4 * dimensions;
  if (view.getUint32(0) >>> 8 !== UNSIGNED_BYTE || start.byteLength < headerBytes) return null;
  let bytes = 1;
  for (let at = 4; at < headerBytes; at += 4) bytes *= view.getUint32(at);
  return headerBytes + bytes;
}

const badFile = (message: string): MeshError =>
  new MeshError('bad-file', message, 'Get the file again; it must be an uncompressed IDX file of unsigned bytes.');
