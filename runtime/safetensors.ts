// The safetensors layout, the one codec of files, frames and golden tensors: 8 bytes of little-endian header length, a JSON
// header, raw bytes. Everything a stranger wrote is checked before a byte is allocated or believed.
//
//   offset  0        8              8 + n
//           [ n: u64 ][ JSON header ][ tensor bytes, contiguous, in header order ]
import { MeshError } from './errors.ts';
import { DTYPE_BYTES, byteLength, elements, type DType, type Tensor, type Tensors } from './tensor.ts';

/** The reference implementation's own limit. */
const MAX_HEADER_BYTES = 100_000_000;
const MAX_RANK = 8;

export interface Decoded {
  tensors: Map<string, Tensor>;
  metadata: Record<string, string>;
}

/** Header bytes (length field included), padded with spaces so that the data starts on a multiple of 8. */
export function encodeHeader(tensors: Tensors, metadata: Record<string, string> = {}): Uint8Array<ArrayBuffer> {
  const header: Record<string, unknown> = Object.create(null) as Record<string, unknown>;
  if (Object.keys(metadata).length > 0) header.__metadata__ = metadata;
  let offset = 0;
  for (const [name, tensor] of tensors) {
    const bytes = tensor.data.byteLength;
    if (bytes !== byteLength(tensor))
      throw malformed(`tensor "${name}" holds ${bytes} bytes, its shape needs ${byteLength(tensor)}`);
    header[name] = { dtype: tensor.dtype.toUpperCase(), shape: tensor.shape, data_offsets: [offset, offset + bytes] };
    offset += bytes;
  }
  const json = new TextEncoder().encode(JSON.stringify(header));
  const padded = Math.ceil(json.byteLength / 8) * 8;
  const out = new Uint8Array(8 + padded).fill(0x20, 8);
  new DataView(out.buffer).setBigUint64(0, BigInt(padded), true);
  out.set(json, 8);
  return out;
}

export function encode(tensors: Tensors, metadata: Record<string, string> = {}): Uint8Array<ArrayBuffer> {
  const header = encodeHeader(tensors, metadata);
  let size = header.byteLength;
  for (const tensor of tensors.values()) size += tensor.data.byteLength;
  const out = new Uint8Array(size);
  out.set(header, 0);
  let offset = header.byteLength;
  for (const tensor of tensors.values()) {
    out.set(tensor.data, offset);
    offset += tensor.data.byteLength;
  }
  return out;
}

/** Tensors are views into `bytes`. Throws `malformed` for anything that is not exactly a safetensors buffer. */
export function decode(bytes: Uint8Array<ArrayBuffer>, maxHeaderBytes = MAX_HEADER_BYTES): Decoded {
  const headerBytes = headerSize(bytes, bytes.byteLength, maxHeaderBytes);
  const { places, metadata } = readHeader(bytes.subarray(0, headerBytes), bytes.byteLength);
  const tensors = new Map<string, Tensor>();
  for (const [name, { dtype, shape, begin, end }] of places)
    tensors.set(name, { dtype, shape, data: bytes.subarray(begin, end) });
  return { tensors, metadata };
}

/** Where a tensor lies in its file: bytes `begin` (inclusive) to `end` (exclusive). */
export interface Place {
  dtype: DType;
  shape: number[];
  begin: number;
  end: number;
}

/** How many bytes the header has, its length field included, as the first 8 bytes of a file of `fileBytes` tell. Throws `malformed`. */
export function headerSize(
  start: Uint8Array<ArrayBuffer>,
  fileBytes: number,
  maxHeaderBytes = MAX_HEADER_BYTES,
): number {
  if (fileBytes < 8 || start.byteLength < 8) throw malformed(`${fileBytes} bytes are too few for a header`);
  const headerLength = new DataView(start.buffer, start.byteOffset, 8).getBigUint64(0, true);
  if (headerLength > BigInt(maxHeaderBytes)) throw malformed(`the header claims ${headerLength} bytes`);
  const size = 8 + Number(headerLength);
  if (size > fileBytes) throw malformed(`the header claims ${headerLength} bytes of ${fileBytes - 8}`);
  return size;
}

/** The header alone, `headerSize` bytes of it: for files of which not everything is wanted. Throws `malformed`. */
export function readHeader(
  start: Uint8Array<ArrayBuffer>,
  fileBytes: number,
): { places: Map<string, Place>; metadata: Record<string, string> } {
  const dataBytes = fileBytes - start.byteLength;
  const places = new Map<string, Place>();
  const spans: [number, number][] = [];
  let metadata: Record<string, string> = {};
  for (const [name, entry] of Object.entries(parseHeader(start.subarray(8)))) {
    if (name === '__metadata__') {
      metadata = parseMetadata(entry);
      continue;
    }
    const { dtype, shape, begin, end } = parseEntry(name, entry, dataBytes);
    spans.push([begin, end]);
    places.set(name, { dtype, shape, begin: start.byteLength + begin, end: start.byteLength + end });
  }
  checkContiguous(spans, dataBytes);
  return { places, metadata };
}

function parseHeader(bytes: Uint8Array<ArrayBuffer>): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch (cause) {
    throw malformed('the header is not JSON', cause);
  }
  if (!isRecord(value)) throw malformed('the header is not a JSON object');
  return value;
}

function parseMetadata(entry: unknown): Record<string, string> {
  if (!isRecord(entry)) throw malformed('__metadata__ is not an object');
  const metadata: Record<string, string> = Object.create(null) as Record<string, string>;
  for (const [key, value] of Object.entries(entry)) {
    if (typeof value !== 'string') throw malformed(`__metadata__.${key} is not a string`);
    metadata[key] = value;
  }
  return metadata;
}

/** Offsets count from the end of the header. */
function parseEntry(name: string, entry: unknown, dataBytes: number): Place {
  if (!isRecord(entry)) throw malformed(`entry "${name}" is not an object`);
  if (typeof entry.dtype !== 'string') throw malformed(`tensor "${name}" has no dtype`);
  const dtype = entry.dtype.toLowerCase();
  if (!isDType(dtype)) throw malformed(`tensor "${name}" has the unknown dtype ${entry.dtype}`);
  const { shape, data_offsets: offsets } = entry;
  if (!Array.isArray(shape) || shape.length > MAX_RANK || !shape.every(isSize))
    throw malformed(`tensor "${name}" has a bad shape`);
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isSize))
    throw malformed(`tensor "${name}" has bad offsets`);
  const [begin, end] = offsets as [number, number];
  if (begin > end || end > dataBytes)
    throw malformed(`tensor "${name}" lies at ${begin}..${end} of ${dataBytes} bytes`);
  const needed = elements(shape) * DTYPE_BYTES[dtype];
  if (end - begin !== needed)
    throw malformed(
      `tensor "${name}" claims shape (${shape.join(', ')}), which is ${needed} bytes, and holds ${end - begin}`,
    );
  return { dtype, shape, begin, end };
}

function checkContiguous(spans: [number, number][], dataBytes: number): void {
  spans.sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  let at = 0;
  for (const [begin, end] of spans) {
    if (begin !== at) throw malformed(`tensor bytes overlap or leave a gap at ${at}`);
    at = end;
  }
  if (at !== dataBytes) throw malformed(`${dataBytes - at} bytes belong to no tensor`);
}

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);
const isSize = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0;
const isDType = (value: string): value is DType => Object.hasOwn(DTYPE_BYTES, value);

const malformed = (what: string, cause?: unknown): MeshError =>
  new MeshError(
    'malformed',
    `Not a safetensors buffer: ${what.slice(0, 300)}.`, // names in it come from strangers, at any length
    'Check that the sender or the file is what it says it is.',
    { cause },
  );
