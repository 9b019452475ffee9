// What a broken or hostile peer may send after the handshake: each is a list of pipe messages, and ends the link.
import { encode } from '../../runtime/safetensors.ts';
import { encodeChunk, type Chunk } from '../../runtime/wire/chunk.ts';
import { encodeFrame } from '../../runtime/wire/frame.ts';
import { bytesTensor, MB, noise } from './channels.ts';

type Bytes = Uint8Array<ArrayBuffer>;
const text = (value: string): Bytes => new TextEncoder().encode(value);
const data = (chunk: Partial<Chunk>): Bytes => encodeChunk({ type: 'data', id: 1, index: 0, count: 1, ...chunk });
const whole = (payload: Bytes, lane: Chunk['lane'] = 'request'): Bytes =>
  data({ payload, frameBytes: payload.byteLength, lane });

function safetensors(header: string, body = 0): Bytes {
  const json = text(header);
  const out = new Uint8Array(8 + json.byteLength + body);
  new DataView(out.buffer).setBigUint64(0, BigInt(json.byteLength), true);
  out.set(json, 8);
  return out;
}

function poked(bytes: Bytes, at: number, value: number): Bytes {
  bytes[at] = value;
  return bytes;
}

const envelope = (value: unknown): Bytes => encode(new Map(), { skein: JSON.stringify(value) });
const request = { type: 'request', id: 7, kind: 'link.probe', deadlineMs: 60_000, body: {} } as const;
function requestBytes(id: number, size = 0): Bytes {
  return new Uint8Array(Buffer.concat(encodeFrame({ ...request, id }, bytesTensor(new Uint8Array(size)))));
}
const nested = '['.repeat(20_000) + ']'.repeat(20_000);

export const HOSTILE: Record<string, { code: 'malformed' | 'too-large'; messages: () => Bytes[] }> = {
  'half a header': { code: 'malformed', messages: () => [new Uint8Array(19)] },
  noise: { code: 'malformed', messages: () => [noise(1_000, 99)] },
  'an unknown chunk type': { code: 'malformed', messages: () => [poked(data({}), 0, 6)] },
  'an unknown lane': { code: 'malformed', messages: () => [poked(data({}), 1, 2)] },
  'reserved bytes': { code: 'malformed', messages: () => [poked(data({}), 3, 1)] },
  'an index beyond the count': { code: 'malformed', messages: () => [data({ index: 3, count: 3, frameBytes: 9 })] },
  'a frame that starts in its middle': {
    code: 'malformed',
    messages: () => [data({ index: 1, count: 3, frameBytes: 9 })],
  },
  'more bytes than claimed': { code: 'malformed', messages: () => [data({ frameBytes: 5, payload: noise(6) })] },
  'fewer bytes than claimed': { code: 'malformed', messages: () => [data({ frameBytes: 7, payload: noise(6) })] },
  'fewer bytes than claimed, in two chunks': {
    code: 'malformed',
    messages: () => [0, 1].map((index) => data({ index, count: 2, frameBytes: 30, payload: noise(10) })),
  },
  'more chunks than bytes': { code: 'malformed', messages: () => [data({ count: 1_000_000, frameBytes: 10 })] },
  'chunks out of order': {
    code: 'malformed',
    messages: () => [0, 2].map((index) => data({ index, count: 3, frameBytes: 30, payload: noise(10) })),
  },
  'a frame that changes its size': {
    code: 'malformed',
    messages: () => [30, 31].map((frameBytes, index) => data({ index, count: 3, frameBytes, payload: noise(10) })),
  },
  'a frame of 4 GB': {
    code: 'too-large',
    messages: () => [data({ count: 70_000, frameBytes: 0xffffffff, payload: noise(100) })],
  },
  'too many open frames': {
    code: 'too-large',
    messages: () => Array.from({ length: 300 }, (_, id) => data({ id, count: 2, frameBytes: 20, payload: noise(10) })),
  },
  'requests beyond the credit': {
    code: 'malformed',
    messages: () => Array.from({ length: 160 }, (_, i) => whole(requestBytes(i + 1, 60_000))),
  },
  'the same request twice': { code: 'malformed', messages: () => [whole(requestBytes(9)), whole(requestBytes(9))] },
  'credit for bytes that were never sent': {
    code: 'malformed',
    messages: () => [encodeChunk({ type: 'credit', index: 4 * MB })],
  },
  'a header that claims more than there is': {
    code: 'malformed',
    messages: () => [whole(poked(safetensors('{}'), 1, 1))],
  },
  'a header that claims 2^63 bytes': { code: 'malformed', messages: () => [whole(poked(safetensors('{}'), 7, 128))] },
  'a header that is no JSON': { code: 'malformed', messages: () => [whole(safetensors('{"a":'))] },
  'a header with a deep dtype': {
    code: 'malformed',
    messages: () => [whole(safetensors(`{"a":{"dtype":${nested},"shape":[1],"data_offsets":[0,4]}}`, 4))],
  },
  'a header with a dtype that cannot be text': {
    code: 'malformed',
    messages: () => [
      whole(safetensors('{"a":{"dtype":{"toString":1,"valueOf":1},"shape":[1],"data_offsets":[0,4]}}', 4)),
    ],
  },
  'a tensor larger than its bytes': {
    code: 'malformed',
    messages: () => [whole(safetensors('{"a":{"dtype":"F32","shape":[1000000],"data_offsets":[0,4]}}', 4))],
  },
  'a tensor whose size overflows': {
    code: 'malformed',
    messages: () => [
      whole(safetensors('{"a":{"dtype":"F32","shape":[9007199254740991,9007199254740991],"data_offsets":[0,4]}}', 4)),
    ],
  },
  'a frame without an envelope': { code: 'malformed', messages: () => [whole(encode(new Map()))] },
  'an unknown envelope': { code: 'malformed', messages: () => [whole(envelope({ type: 'command', id: 1 }))] },
  'a negative id': { code: 'malformed', messages: () => [whole(envelope({ ...request, id: -1 }))] },
  'an eternal deadline': { code: 'malformed', messages: () => [whole(envelope({ ...request, deadlineMs: 1e12 }))] },
  'a request in the reply lane': { code: 'malformed', messages: () => [whole(requestBytes(1), 'reply')] },
};
