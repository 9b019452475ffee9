// TensorBoard's event files, read back by a reader of the test's own that checks every CRC; and the rows that a run's events make.
import assert from 'node:assert/strict';
import { mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import fc from '../support/fast-check.ts';
import { crc32c, record, scalarEvent, versionEvent } from '../../node/tensorboard.ts';
import { MetricsRows, openMetrics, type MetricsRow } from '../../node/run-metrics.ts';
import type { MeshEvent } from '../../runtime/events.ts';
import { withCode } from '../server/stages.ts';

/** Bit by bit, as the polynomial is written: x^32 + x^28 + x^27 + … reflected. */
function slowCrc(bytes: Uint8Array): number {
  let crc = 0xffffffffn;
  for (const byte of bytes) {
    crc ^= BigInt(byte);
    for (let bit = 0; bit < 8; bit += 1) crc = crc & 1n ? (crc >> 1n) ^ 0x82f63b78n : crc >> 1n;
  }
  return Number(crc ^ 0xffffffffn);
}

const unmasked = (masked: number): number => {
  const rotated = (masked - 0xa282ead8) >>> 0;
  return ((rotated >>> 17) | (rotated << 15)) >>> 0;
};

type Field = { number: number; value: bigint | Uint8Array };

/** Any protobuf message as its fields; 8 and 4 bytes come as bytes. */
function fieldsOf(bytes: Uint8Array): Field[] {
  const fields: Field[] = [];
  let at = 0;
  const varint = (): bigint => {
    let value = 0n;
    for (let shift = 0n; ; shift += 7n) {
      const byte = bytes[at++] ?? 0;
      value |= BigInt(byte & 127) << shift;
      if (byte < 128) return value;
    }
  };
  const take = (count: number): Uint8Array => bytes.slice(at, (at += count));
  while (at < bytes.length) {
    const key = Number(varint());
    const number = key >>> 3;
    if ((key & 7) === 0) fields.push({ number, value: varint() });
    else fields.push({ number, value: take((key & 7) === 1 ? 8 : (key & 7) === 5 ? 4 : Number(varint())) });
  }
  return fields;
}

interface Read {
  wallTime: number;
  step: number;
  version: string | null;
  scalars: [string, number][];
}

const bytesOf = (value: Field['value'] | undefined): Uint8Array =>
  value instanceof Uint8Array ? value : assert.fail('not bytes');
const textOf = (value: Field['value'] | undefined): string => new TextDecoder().decode(bytesOf(value));
const viewOf = (value: Field['value'] | undefined): DataView => new DataView(bytesOf(value).slice().buffer);

function eventOf(bytes: Uint8Array): Read {
  const fields = fieldsOf(bytes);
  const get = (number: number): Field['value'] | undefined => fields.find((field) => field.number === number)?.value;
  const summary = get(5);
  const values = summary === undefined ? [] : fieldsOf(bytesOf(summary));
  return {
    wallTime: viewOf(get(1)).getFloat64(0, true),
    step: Number(get(2) ?? 0n),
    version: get(3) === undefined ? null : textOf(get(3)),
    scalars: values.map(({ value }) => {
      const [tag, simple] = fieldsOf(bytesOf(value));
      return [textOf(tag?.value), viewOf(simple?.value).getFloat32(0, true)];
    }),
  };
}

function readEvents(bytes: Uint8Array): Read[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const events: Read[] = [];
  for (let at = 0; at < bytes.length;) {
    const length = Number(view.getBigUint64(at, true));
    assert.equal(unmasked(view.getUint32(at + 8, true)), slowCrc(bytes.subarray(at, at + 8)), 'CRC of the length');
    const data = bytes.subarray(at + 12, at + 12 + length);
    assert.equal(unmasked(view.getUint32(at + 12 + length, true)), slowCrc(data), 'CRC of the data');
    events.push(eventOf(data));
    at += 16 + length;
  }
  return events;
}

test('CRC-32C is that of RFC 3720', () => {
  assert.equal(crc32c(new TextEncoder().encode('123456789')), 0xe3069283);
  assert.equal(crc32c(new Uint8Array(32)), 0x8a9136aa);
  assert.equal(crc32c(new Uint8Array(32).fill(255)), 0x62a8ab43);
});

test('the bytes of a record are what they were', () => {
  const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');
  assert.equal(
    hex(record(versionEvent(1_700_000_000))),
    '1800000000000000a37f4b22' + '0900000040fc54d9411a0d627261696e2e4576656e743a32' + 'eced8f9d',
  );
  assert.equal(
    hex(scalarEvent({ wallTime: 1_700_000_000.5, step: 300, scalars: [{ tag: 'loss', value: 1.5 }] })),
    '09 000020 40fc54d941 10ac02 2a0d 0a0b 0a046c6f7373 150000c03f'.replaceAll(' ', ''),
  );
});

test('whatever is written is read back', () => {
  const scalar = fc.record({ tag: fc.string({ unit: 'grapheme', maxLength: 200 }), value: fc.float({ noNaN: true }) });
  const event = fc.record({
    wallTime: fc.double({ min: 0, max: 1e10, noNaN: true }),
    step: fc.nat(2 ** 40),
    scalars: fc.array(scalar, { maxLength: 20 }),
  });
  fc.assert(
    fc.property(fc.array(event, { maxLength: 5 }), (events) => {
      const bytes = Uint8Array.from(
        Buffer.concat([record(versionEvent(3)), ...events.map((one) => record(scalarEvent(one)))]),
      );
      const [first, ...rest] = readEvents(bytes);
      assert.deepEqual(first, { wallTime: 3, step: 0, version: 'brain.Event:2', scalars: [] });
      assert.deepEqual(
        rest,
        events.map((one) => ({
          ...{ wallTime: one.wallTime, step: one.step, version: null },
          scalars: one.scalars.map(({ tag, value }) => [
            new TextDecoder().decode(new TextEncoder().encode(tag)),
            value,
          ]),
        })),
      );
    }),
    { numRuns: 50 },
  );
});

const applied = (step: number, more: object = {}): MeshEvent => ({ kind: 'step.applied', run: 'r', step, loss: 3 - step, stages: {}, ...more }); // prettier-ignore
const progress = (step: number): MeshEvent => ({ kind: 'run.progress', run: 'r', epoch: 1, epochs: 1, step, steps: 9, loss: 9, samplesPerSecond: 2, tokensPerSecond: 128, peers: 2, trainers: 1, etaSeconds: 1 }); // prettier-ignore
const evaluated = (step: number): MeshEvent => ({ kind: 'run.evaluated', run: 'r', epoch: 1, step, accuracy: 0.25, perClassAccuracy: [], samples: 4, heldOutLoss: 1, perplexity: Math.E }); // prettier-ignore

test('a row for each step, with all that was said of it', () => {
  const rows: MetricsRow[] = [];
  const maker = new MetricsRows((row) => rows.push(row));
  const events = [applied(0, { lr: 0.1, gradientNorm: 2 }), progress(1), applied(1), progress(2), evaluated(2)];
  for (const [i, event] of events.entries()) maker.add(event, i);
  maker.flush();
  maker.flush();
  const rates = { samplesPerSecond: 2, tokensPerSecond: 128 };
  assert.deepEqual(rows, [
    { step: 1, time: 0, loss: 3, lr: 0.1, gradientNorm: 2, ...rates },
    { step: 2, time: 2, loss: 2, ...rates, heldOutLoss: 1, perplexity: Math.E, accuracy: 0.25 },
  ]);
});

test('an async run reports no steps: its mean loss stands in', () => {
  const rows: MetricsRow[] = [];
  const maker = new MetricsRows((row) => rows.push(row));
  maker.add(progress(4), 1);
  maker.flush();
  assert.deepEqual(rows, [{ step: 4, time: 1, loss: 9, samplesPerSecond: 2, tokensPerSecond: 128 }]);
});

test('both files of a run say the same', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'skein-metrics-'));
  t.after(() => rm(folder, { recursive: true, force: true }));
  assert.equal(await openMetrics({}, assert.fail), null);
  const file = join(folder, 'new', 'metrics.jsonl');
  const metrics = await openMetrics({ tensorboard: join(folder, 'board'), metrics: file }, assert.fail);
  assert.ok(metrics);
  for (const event of [applied(0), progress(1), applied(1), evaluated(2)]) metrics.add(event);
  await metrics.close();
  const rows = (await readFile(file, 'utf8')).trim().split('\n').map((line) => JSON.parse(line) as MetricsRow); // prettier-ignore
  const [name = ''] = await readdir(join(folder, 'board'));
  assert.match(name, /^events\.out\.tfevents\.\d{10}\..+\.\d+$/);
  const [version, ...events] = readEvents(new Uint8Array(await readFile(join(folder, 'board', name))));
  assert.equal(version?.version, 'brain.Event:2');
  assert.deepEqual(
    events.map(({ step, wallTime, scalars }) => [step, Math.round(wallTime * 1_000), scalars.map(([tag]) => tag)]),
    [
      [1, rows[0]?.time, ['train/loss', 'train/samples_per_second', 'train/tokens_per_second']],
      [2, rows[1]?.time, ['train/loss', 'eval/loss', 'eval/perplexity', 'eval/accuracy']],
    ],
  );
  assert.deepEqual(rows.map(({ loss }) => loss), [3, 2]); // prettier-ignore
});

test('a place that cannot be written is told before the run', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'skein-metrics-'));
  t.after(() => rm(folder, { recursive: true, force: true }));
  const file = join(folder, 'file');
  await writeFile(file, '');
  await assert.rejects(openMetrics({ tensorboard: file }, assert.fail), withCode('bad-file'));
  await assert.rejects(openMetrics({ metrics: join(file, 'below') }, assert.fail), withCode('bad-file'));
});
