// TensorBoard's event files: scalars by tag and step, as protobuf in TFRecord frames. Only what that needs is encoded; nothing is read.
//
//   record:  [ length: u64 ][ masked crc32c of these 8 bytes: u32 ][ event ][ masked crc32c of the event: u32 ]   little-endian
//   event:   1 wall_time: double   2 step: int64   3 file_version: string   5 summary { 1 value { 1 tag: string, 2 simple_value: float } }
import { createWriteStream, type WriteStream } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { once } from 'node:events';
import { hostname } from 'node:os';
import path from 'node:path';
import { unwritable } from './files.ts';

export interface Scalar {
  tag: string;
  value: number;
}

export interface ScalarEvent {
  /** Seconds since the epoch. */
  wallTime: number;
  step: number;
  scalars: readonly Scalar[];
}

export const FILE_VERSION = 'brain.Event:2';

const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit += 1) crc = (crc >>> 1) ^ (crc & 1 ? 0x82f63b78 : 0);
  return crc;
});

/** CRC-32C (Castagnoli), RFC 3720 B.4. */
export function crc32c(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = (crc >>> 8) ^ (TABLE[(crc ^ byte) & 0xff] ?? 0);
  return ~crc >>> 0;
}

/** A CRC over bytes that hold CRCs themselves would be weak, so TFRecord turns and shifts it. */
export function maskedCrc(bytes: Uint8Array): number {
  const crc = crc32c(bytes);
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0;
}

export function record(data: Uint8Array): Uint8Array<ArrayBuffer> {
  const out = new Uint8Array(12 + data.byteLength + 4);
  const view = new DataView(out.buffer);
  view.setBigUint64(0, BigInt(data.byteLength), true);
  view.setUint32(8, maskedCrc(out.subarray(0, 8)), true);
  out.set(data, 12);
  view.setUint32(12 + data.byteLength, maskedCrc(data), true);
  return out;
}

/** The first record of a file. */
export const versionEvent = (wallTime: number): Uint8Array<ArrayBuffer> =>
  joined([double(1, wallTime), field(3, new TextEncoder().encode(FILE_VERSION))]);

export function scalarEvent({ wallTime, step, scalars }: ScalarEvent): Uint8Array<ArrayBuffer> {
  const values = scalars.map(({ tag, value }) =>
    field(1, joined([field(1, new TextEncoder().encode(tag)), float(2, value)])),
  );
  return joined([double(1, wallTime), joined([varint((2 << 3) | 0), varint(step)]), field(5, joined(values))]);
}

/** A field of bytes: string or message. */
const field = (number: number, data: Uint8Array): Uint8Array<ArrayBuffer> =>
  joined([varint((number << 3) | 2), varint(data.byteLength), data]);

function double(number: number, value: number): Uint8Array<ArrayBuffer> {
  const data = new Uint8Array(8);
  new DataView(data.buffer).setFloat64(0, value, true);
  return joined([varint((number << 3) | 1), data]);
}

function float(number: number, value: number): Uint8Array<ArrayBuffer> {
  const data = new Uint8Array(4);
  new DataView(data.buffer).setFloat32(0, value, true);
  return joined([varint((number << 3) | 5), data]);
}

/** Of a whole number from 0 on. */
function varint(value: number): Uint8Array<ArrayBuffer> {
  const bytes: number[] = [];
  let rest = value;
  for (; rest >= 128; rest = Math.floor(rest / 128)) bytes.push((rest % 128) | 128);
  return Uint8Array.from([...bytes, rest]);
}

function joined(parts: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const out = new Uint8Array(parts.reduce((sum, part) => sum + part.byteLength, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.byteLength;
  }
  return out;
}

/** One run's event file in its folder. */
export class EventFile {
  readonly path: string;
  readonly #stream: WriteStream;

  private constructor(file: string, stream: WriteStream) {
    this.path = file;
    this.#stream = stream;
  }

  /** Makes the folder and the file. Throws `bad-file` where that fails. `onError`: a disk that fills up later. */
  static async create(folder: string, now: number, onError: (cause: Error) => void): Promise<EventFile> {
    const seconds = String(Math.floor(now / 1_000)).padStart(10, '0');
    const file = path.join(folder, `events.out.tfevents.${seconds}.${hostname()}.${process.pid}`);
    const stream = await openForWriting(file, onError);
    stream.write(record(versionEvent(now / 1_000)));
    return new EventFile(file, stream);
  }

  /** TensorBoard reads the file as it grows; a record is written in one piece. */
  write(event: ScalarEvent): void {
    this.#stream.write(record(scalarEvent(event)));
  }

  close(): Promise<void> {
    return new Promise((resolve) => this.#stream.end(() => resolve()));
  }
}

/** Makes its folder. Throws `bad-file`; what fails later goes to `onError`, and ends the file, not the run. */
export async function openForWriting(file: string, onError: (cause: Error) => void): Promise<WriteStream> {
  try {
    await mkdir(path.dirname(path.resolve(file)), { recursive: true });
    const stream = createWriteStream(file);
    await once(stream, 'open');
    stream.on('error', onError);
    return stream;
  } catch (cause) {
    throw unwritable(file, cause);
  }
}
