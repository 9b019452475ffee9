// The codecs of the wire, for all inputs: what goes in comes out, and bytes of any kind do no worse than `malformed` or `too-large`.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from '../support/fast-check.ts';
import { MeshError } from '../../runtime/errors.ts';
import { decode, encode } from '../../runtime/safetensors.ts';
import type { Tensor } from '../../runtime/tensor.ts';
import { CHUNK_HEADER_BYTES, decodeChunk, encodeChunk, LANES, type Chunk } from '../../runtime/wire/chunk.ts';
import { decodeFrame, encodeFrame, type Envelope } from '../../runtime/wire/frame.ts';
import { formatUid, parseUid } from '../../runtime/wire/ids.ts';
import { Reassembly } from '../../runtime/wire/reassembly.ts';

fc.configureGlobal({ seed: 20_260 });
type Bytes = Uint8Array<ArrayBuffer>;
const LIMITS = { maxFrameBytes: 1 << 20, maxOpenBytes: 4 << 20, maxOpenFrames: 64 };
const bytes = (maxLength: number) => fc.uint8Array({ maxLength }).map((array): Bytes => new Uint8Array(array));
const u32 = fc.nat(0xffffffff);

/** Runs it; only the two codes of hostile input may come out. True if it was taken. */
function accepts(run: () => unknown): boolean {
  try {
    run();
    return true;
  } catch (cause) {
    if (cause instanceof MeshError && (cause.code === 'malformed' || cause.code === 'too-large')) return false;
    throw cause;
  }
}

test('a chunk survives its encoding', () => {
  const chunk = fc.record({
    type: fc.constantFrom('data' as const, 'credit' as const, 'cancel' as const, 'ping' as const, 'bye' as const),
    lane: fc.constantFrom(...LANES),
    id: u32,
    index: u32,
    count: u32,
    frameBytes: u32,
    payload: bytes(100),
  });
  const isSound = (c: Chunk) => c.type !== 'data' || (c.index < c.count && c.payload.byteLength <= c.frameBytes);
  fc.assert(
    fc.property(chunk, (sent) => {
      const encoded = encodeChunk(sent);
      assert.equal(encoded.byteLength, CHUNK_HEADER_BYTES + sent.payload.byteLength);
      if (isSound(sent)) assert.deepEqual(decodeChunk(encoded), { ...sent });
      else assert.throws(() => decodeChunk(encoded), { code: 'malformed' });
    }),
    { numRuns: 1_000 },
  );
});

const cut = (id: number, frame: Bytes, size: number, lane: Chunk['lane']): Chunk[] => {
  const count = Math.max(1, Math.ceil(frame.byteLength / size));
  return Array.from({ length: count }, (_, index) => ({
    type: 'data' as const,
    lane,
    id,
    index,
    count,
    frameBytes: frame.byteLength,
    payload: frame.slice(index * size, (index + 1) * size),
  }));
};

test('frames come out whole, however their chunks interleave, and dropped ones leave nothing', () => {
  const frame = fc.record({
    body: bytes(200),
    size: fc.integer({ min: 1, max: 50 }),
    lane: fc.constantFrom(...LANES),
    dropAfter: fc.option(fc.nat(5), { freq: 4 }),
  });
  fc.assert(
    fc.property(
      fc.array(frame, { minLength: 1, maxLength: 8 }),
      fc.array(fc.nat(), { maxLength: 400 }),
      (frames, turns) => {
        const reassembly = new Reassembly({ maxFrameBytes: 200, maxOpenBytes: 200 * 8, maxOpenFrames: 8 });
        for (let round = 0; round < 3; round += 1) {
          // The same ids again: what a round left open would break the next.
          const waiting = frames.map(({ body, size, lane, dropAfter }, id) => ({
            id,
            body,
            chunks: cut(id, body, size, lane),
            left: dropAfter ?? Infinity,
          }));
          for (let turn = 0; waiting.length > 0; turn += 1) {
            const at = (turns[turn] ?? 0) % waiting.length;
            const one = waiting[at];
            const chunk = one?.chunks.shift();
            if (!one || !chunk) throw new Error('no chunk');
            const isDropped = one.left === 0;
            one.left -= 1;
            const whole = isDropped ? (reassembly.drop(one.id), null) : reassembly.add(chunk);
            if (one.chunks.length === 0 && !isDropped) assert.deepEqual(whole, one.body);
            else assert.equal(whole, null);
            if (one.chunks.length === 0 || isDropped) waiting.splice(at, 1);
          }
          assert.equal(reassembly.openFrames, 0);
        }
      },
    ),
    { numRuns: 300 },
  );
});

test('what frames claim is refused before memory is taken', () => {
  const claim = (frameBytes: number, id = 1) =>
    decodeChunk(encodeChunk({ type: 'data', id, count: 3, frameBytes, payload: new Uint8Array(10) }));
  const reassembly = new Reassembly(LIMITS);
  const before = process.memoryUsage().arrayBuffers;
  assert.throws(() => reassembly.add(claim(0xffffffff)), { code: 'too-large' });
  assert.throws(() => reassembly.add(claim(LIMITS.maxFrameBytes + 1)), { code: 'too-large' });
  assert.ok(process.memoryUsage().arrayBuffers - before < 1 << 20);
  for (let id = 0; id < 4; id += 1) reassembly.add(claim(LIMITS.maxFrameBytes, id));
  assert.throws(() => reassembly.add(claim(20, 9)), { code: 'too-large' });
  reassembly.drop(2);
  reassembly.add(claim(20, 9));
  reassembly.drop(77); // never seen
});

const tensors: ReadonlyMap<string, Tensor> = new Map([
  ['x', { dtype: 'f32', shape: [2, 3], data: new Uint8Array(24).fill(7) }],
  ['y', { dtype: 'i32', shape: [2], data: new Uint8Array(8) }],
  ['empty', { dtype: 'u8', shape: [0, 4], data: new Uint8Array(0) }],
]);
const ENVELOPES: Envelope[] = [
  { type: 'request', id: 1, kind: 'stage.infer', deadlineMs: 1_000, body: { uid: 'front.0.0.0', run: 'r', route: [] } },
  { type: 'reply', id: 2, body: { loss: 0.5, correct: 1, rows: 2, staleness: 0, path: ['front.0.0.0'] } },
  { type: 'error', id: 3, error: { code: 'busy', message: 'It is busy.', fix: 'Wait.' } },
  { type: 'cancel', id: 4 },
];
const GOLDEN = ENVELOPES.map((envelope): Bytes => new Uint8Array(Buffer.concat(encodeFrame(envelope, tensors))));

test('a frame survives its encoding', () => {
  for (const [i, golden] of GOLDEN.entries()) {
    const { envelope, tensors: got } = decodeFrame(golden);
    assert.deepEqual(envelope, ENVELOPES[i]);
    assert.deepEqual(new Map(got), new Map(tensors));
  }
});

test('30,000 mutated frames and chunks: taken, or refused by a typed error, in bounded time and memory', () => {
  const edit = fc.oneof(
    fc.record({ kind: fc.constant('set' as const), at: fc.nat(), value: fc.nat(255) }),
    fc.record({ kind: fc.constant('cut' as const), at: fc.nat(), value: fc.nat(255) }),
    fc.record({
      kind: fc.constant('insert' as const),
      at: fc.nat(),
      value: fc.constantFrom(0x5b, 0x22, 0x7b, 0x2d, 0x39, 0),
    }),
    fc.record({ kind: fc.constant('number' as const), at: fc.nat(), value: u32 }),
  );
  const mutate = (golden: Bytes, edits: { kind: string; at: number; value: number }[]): Bytes => {
    let out = golden.slice();
    for (const { kind, at: where, value } of edits) {
      const at = where % (out.byteLength + 1);
      if (kind === 'cut') out = out.slice(0, at);
      else if (kind === 'insert') out = new Uint8Array([...out.subarray(0, at), value, ...out.subarray(at)]);
      else if (kind === 'set' && at < out.byteLength) out[at] = value;
      else if (kind === 'number' && at + 4 <= out.byteLength) new DataView(out.buffer).setUint32(at, value, true);
    }
    return out;
  };
  const plain = encode(tensors, { note: 'a' });
  let taken = 0;
  let cases = 0;
  let slowestMs = 0;
  const started = performance.now();
  const before = process.memoryUsage().arrayBuffers;
  fc.assert(
    fc.property(
      fc.nat(GOLDEN.length - 1),
      fc.array(edit, { minLength: 1, maxLength: 4 }),
      fc.nat(),
      (which, edits, turn) => {
        const golden = GOLDEN[which] ?? plain;
        const from = performance.now();
        const reassembly = new Reassembly(LIMITS);
        const chunks = cut(5, golden, 64, 'request').map(encodeChunk);
        const [hit] = chunks.splice(turn % chunks.length, 1, mutate(chunks[turn % chunks.length] ?? plain, edits));
        const outcomes = [
          accepts(() => decodeFrame(mutate(golden, edits))),
          accepts(() => decode(mutate(plain, edits))),
          accepts(() => chunks.map((chunk) => reassembly.add(decodeChunk(chunk)))),
        ];
        assert.ok(hit);
        taken += outcomes.filter(Boolean).length;
        cases += outcomes.length;
        slowestMs = Math.max(slowestMs, performance.now() - from);
      },
    ),
    { numRuns: 10_000 },
  );
  const grown = process.memoryUsage().arrayBuffers - before;
  assert.equal(cases, 30_000);
  assert.ok(taken > 100 && taken < cases - 10_000, `${taken} of ${cases} were taken`);
  assert.ok(performance.now() - started < 30_000);
  assert.ok(slowestMs < 500, `one took ${slowestMs} ms`);
  assert.ok(grown < 256 << 20, `${grown} bytes`);
});

test('JSON of strangers as the safetensors header', () => {
  const json = fc.jsonValue({ maxDepth: 4 });
  const entry = fc.record(
    { dtype: fc.oneof(fc.constantFrom('F32', 'f32', 'U8', 'BOOL'), json), shape: json, data_offsets: json },
    { requiredKeys: [] },
  );
  const header = fc.dictionary(
    fc.constantFrom('__metadata__', '__proto__', 'constructor', 'x', 'y', ''),
    fc.oneof(entry, json),
  );
  fc.assert(
    fc.property(fc.oneof(header, json), bytes(16), (value, body) => {
      const text = new TextEncoder().encode(JSON.stringify(value));
      const out = new Uint8Array(8 + text.byteLength + body.byteLength);
      new DataView(out.buffer).setBigUint64(0, BigInt(text.byteLength), true);
      out.set(text, 8);
      out.set(body, 8 + text.byteLength);
      accepts(() => decode(out));
      accepts(() => decodeFrame(out));
    }),
    { numRuns: 3_000 },
  );
});

test('a UID is read back as it was written, and nothing else is one', () => {
  const number = fc.oneof(fc.nat(999_999), fc.constantFrom(0, 1, 999_999));
  const parts = fc.record({
    stage: fc.stringMatching(/^[a-z][a-z0-9_-]{0,31}$/),
    version: number,
    expertIndex: number,
    subversion: number,
  });
  fc.assert(
    fc.property(parts, (given) => {
      const uid = formatUid(given);
      const { uid: again, ...read } = parseUid(uid);
      assert.deepEqual(read, { ...given });
      assert.equal(again, uid);
    }),
  );
  const almost = fc.oneof(
    fc.string(),
    fc.string({ unit: fc.constantFrom('a', 'A', '0', '1', '.', '-', '_', ' ', '\n') }),
    fc.tuple(parts, fc.nat(20), fc.constantFrom('.', ' ', '\n', '00', '+', 'Z', '\u0661')).map(([given, at, what]) => {
      const uid = formatUid(given);
      return uid.slice(0, at) + what + uid.slice(at);
    }),
  );
  fc.assert(
    fc.property(almost, (text) => {
      try {
        const read = parseUid(text);
        assert.equal(formatUid(read), text);
      } catch (cause) {
        assert.ok(cause instanceof MeshError && cause.code === 'bad-uid', String(cause));
      }
    }),
    { numRuns: 2_000 },
  );
  for (const bad of [
    'front',
    'front.0.0',
    'front.0.0.0.0',
    'Front.0.0.0',
    'front.00.0.0',
    'front.0.0.1000000',
    'front.0.0.0\n',
  ])
    assert.throws(() => parseUid(bad), { code: 'bad-uid', fix: /front\.0\.1\.0/ }, bad);
});
