// The chunk: what a pipe message is. A frame is cut into chunks so that small frames pass big ones and no message exceeds what a
// transport carries. Fixed header, little-endian; the rest of the message is payload.
//
//   offset 0      1      2         4           8             12      16           20
//          [ type ][ lane ][ 0 0 ][ frame id ][ index       ][ count ][ frame bytes ][ payload … ]
//                                             (credit: bytes granted; ping and pong: a nonce)
import { MeshError } from '../errors.ts';

export const CHUNK_HEADER_BYTES = 20;
const TYPES = ['data', 'credit', 'cancel', 'ping', 'pong', 'bye'] as const;
export type ChunkType = (typeof TYPES)[number];

/** Requests and replies have credits of their own, so that a backlog of requests never holds up the replies that drain it. */
export const LANES = ['request', 'reply'] as const;
export type Lane = (typeof LANES)[number];

export interface Chunk {
  type: ChunkType;
  lane: Lane;
  id: number;
  index: number;
  count: number;
  frameBytes: number;
  payload: Uint8Array<ArrayBuffer>;
}

const NOTHING = new Uint8Array(0);

export function encodeChunk(chunk: Partial<Chunk> & { type: ChunkType }): Uint8Array<ArrayBuffer> {
  const payload = chunk.payload ?? NOTHING;
  const out = new Uint8Array(CHUNK_HEADER_BYTES + payload.byteLength);
  writeChunkHeader(out, chunk);
  out.set(payload, CHUNK_HEADER_BYTES);
  return out;
}

export function writeChunkHeader(out: Uint8Array<ArrayBuffer>, chunk: Partial<Chunk> & { type: ChunkType }): void {
  const view = new DataView(out.buffer, out.byteOffset, CHUNK_HEADER_BYTES);
  view.setUint8(0, TYPES.indexOf(chunk.type));
  view.setUint8(1, LANES.indexOf(chunk.lane ?? 'request'));
  view.setUint32(4, chunk.id ?? 0, true);
  view.setUint32(8, chunk.index ?? 0, true);
  view.setUint32(12, chunk.count ?? 0, true);
  view.setUint32(16, chunk.frameBytes ?? 0, true);
}

/** Throws `malformed`. The payload is a view into `bytes`. */
export function decodeChunk(bytes: Uint8Array<ArrayBuffer>): Chunk {
  if (bytes.byteLength < CHUNK_HEADER_BYTES) throw malformed(`a chunk of ${bytes.byteLength} bytes has no header`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, CHUNK_HEADER_BYTES);
  const type = TYPES[view.getUint8(0)];
  const lane = LANES[view.getUint8(1)];
  if (!type) throw malformed(`unknown chunk type ${view.getUint8(0)}`);
  if (!lane || view.getUint16(2) !== 0) throw malformed('the reserved bytes of a chunk are not zero');
  const chunk = {
    type,
    lane,
    id: view.getUint32(4, true),
    index: view.getUint32(8, true),
    count: view.getUint32(12, true),
    frameBytes: view.getUint32(16, true),
    payload: bytes.subarray(CHUNK_HEADER_BYTES),
  };
  if (type === 'data' && (chunk.index >= chunk.count || chunk.payload.byteLength > chunk.frameBytes))
    throw malformed(
      `chunk ${chunk.index} of ${chunk.count} with ${chunk.payload.byteLength} of ${chunk.frameBytes} bytes`,
    );
  return chunk;
}

export const malformed = (what: string, cause?: unknown): MeshError =>
  new MeshError(
    'malformed',
    `Malformed message: ${what}.`,
    'The other end is broken, hostile or of another version; the link was closed.',
    { cause },
  );
