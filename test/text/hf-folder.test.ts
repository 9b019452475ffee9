// Model folders as Hugging Face has them: whole and in shards, f32 from any width, nothing half written, and every broken file refused
// by its name.
import assert from 'node:assert/strict';
import { mkdir, mkdtemp, readdir, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import fc from '../support/fast-check.ts';
import { readHfFolder } from '../../node/hf-folder.ts';
import { writeHfFolder } from '../../node/hf-write.ts';
import { MeshError } from '../../runtime/errors.ts';
import { decode, encode, headerSize, readHeader } from '../../runtime/safetensors.ts';
import { f32Of, f32Tensor, i32Tensor, type Tensor } from '../../runtime/tensor.ts';
import { charTokenizer } from '../../runtime/text/char.ts';
import { widened } from '../../runtime/widen.ts';

let scratch = '';
let folders = 0;
before(async () => {
  scratch = await mkdtemp(join(tmpdir(), 'skein-hf-'));
});
after(() => rm(scratch, { recursive: true, force: true }));
const freshFolder = (): string => join(scratch, String((folders += 1)));

const config = { model_type: 'gpt2', architectures: ['GPT2LMHeadModel'], n_embd: 4 };
const tensors = new Map<string, Tensor>([
  ['h.10.weight', f32Tensor([2, 3], Float32Array.of(1, 2, 3, 4, 5, 6))],
  ['h.2.weight', f32Tensor([3], Float32Array.of(-1, 0.5, 1e-30))],
  ['ids', i32Tensor([2], Int32Array.of(7, -7))],
  ['scalar', f32Tensor([], Float32Array.of(9))],
]);
const tokenizer = charTokenizer('hello');
const words = (...values: number[]): Uint8Array<ArrayBuffer> => new Uint8Array(Uint16Array.from(values).buffer);

describe('model folders', () => {
  for (const [name, maxShardBytes] of [
    ['in one file', undefined],
    ['in shards', 20],
    ['a tensor to a shard', 1],
  ] as const)
    it(`come back ${name}`, async () => {
      const folder = freshFolder();
      const limit = maxShardBytes === undefined ? {} : { maxShardBytes };
      assert.equal(await writeHfFolder(folder, { config, tensors, tokenizer, ...limit }), folder);
      const read = await readHfFolder(folder);
      assert.deepEqual(read.config, config);
      assert.deepEqual([...read.tensors.keys()], ['h.2.weight', 'h.10.weight', 'ids', 'scalar']);
      for (const [key, tensor] of tensors) {
        assert.deepEqual(read.tensors.get(key)?.shape, tensor.shape);
        assert.deepEqual(await read.tensor(key), tensor);
      }
      assert.equal((await read.tokenizer())?.vocabularySize, 4);
      await assert.rejects(read.tensor('h.3.weight'), { code: 'bad-file', message: /h\.3\.weight/ });
    });

  it('say in their files what others look for', async () => {
    const folder = freshFolder();
    await writeHfFolder(folder, { config, tensors, maxShardBytes: 24 });
    assert.deepEqual((await readdir(folder)).sort(), [
      'config.json',
      'model-00001-of-00003.safetensors',
      'model-00002-of-00003.safetensors',
      'model-00003-of-00003.safetensors',
      'model.safetensors.index.json',
    ]);
    const index: unknown = JSON.parse(await readFile(join(folder, 'model.safetensors.index.json'), 'utf8'));
    assert.deepEqual(index, {
      metadata: { total_size: 48 },
      weight_map: {
        'h.2.weight': 'model-00001-of-00003.safetensors',
        'h.10.weight': 'model-00002-of-00003.safetensors',
        ids: 'model-00003-of-00003.safetensors',
        scalar: 'model-00003-of-00003.safetensors',
      },
    });
    const shard = await readFile(join(folder, 'model-00001-of-00003.safetensors'));
    assert.deepEqual({ ...decode(new Uint8Array(shard)).metadata }, { format: 'pt' });
    assert.equal(await (await readHfFolder(folder)).tokenizer(), null);
  });

  it('are replaced whole, without touching what is no part of a model', async () => {
    const folder = freshFolder();
    await writeHfFolder(folder, { config, tensors, maxShardBytes: 1 });
    await writeFile(join(folder, 'notes.txt'), 'mine');
    const next = { ...config, n_embd: 5 };
    await writeHfFolder(folder, { config: next, tensors: new Map([['scalar', f32Tensor([1], Float32Array.of(3))]]) });
    assert.deepEqual((await readdir(folder)).sort(), ['config.json', 'model.safetensors', 'notes.txt']);
    const read = await readHfFolder(folder);
    assert.deepEqual([read.config, [...read.tensors.keys()]], [next, ['scalar']]);
  });

  it('leave nothing behind where they cannot be written', async () => {
    const file = freshFolder();
    await writeFile(file, 'a file');
    const before = await readdir(scratch);
    await assert.rejects(writeHfFolder(file, { config, tensors }), { code: 'bad-file', message: /no folder/ });
    await assert.rejects(writeHfFolder(join(file, 'below'), { config, tensors }), { code: 'bad-file' });
    const wrong = new Map([['x', { dtype: 'f32', shape: [3], data: new Uint8Array(4) } as const]]);
    await assert.rejects(writeHfFolder(freshFolder(), { config, tensors: wrong }), { code: 'bad-file', message: /12/ });
    assert.deepEqual(await readdir(scratch), before);
    await assert.rejects(writeHfFolder(freshFolder(), { config: {}, tensors }), {
      code: 'usage',
      message: /model_type/,
    });
  });
});

describe('other widths', () => {
  it('become f32 when they are read', async () => {
    const folder = freshFolder();
    const f64 = new Uint8Array(Float64Array.of(Math.PI, -1e300).buffer);
    await writeHfFolder(folder, {
      config,
      tensors: new Map<string, Tensor>([
        ['half', { dtype: 'f16', shape: [6], data: words(0x3c00, 0xc000, 0x0001, 0x7bff, 0xfc00, 0x3555) }],
        ['brain', { dtype: 'bf16', shape: [3], data: words(0x3f80, 0xc2f7, 0x0080) }],
        ['double', { dtype: 'f64', shape: [2], data: f64 }],
      ]),
    });
    const read = await readHfFolder(folder);
    const values = async (name: string): Promise<number[]> => [...f32Of(await read.tensor(name))];
    assert.deepEqual(await values('half'), [1, -2, 2 ** -24, 65504, -Infinity, 0.333251953125]);
    assert.deepEqual(await values('brain'), [1, -123.5, 2 ** -126]);
    assert.deepEqual(await values('double'), [Math.fround(Math.PI), -Infinity]);
    assert.equal(read.tensors.get('half')?.dtype, 'f16');
  });

  it('are exact for every half, few at a time or many, aligned or not', () => {
    const all = Uint16Array.from({ length: 2 ** 16 }, (_, i) => i);
    const bytes = new Uint8Array(2 ** 17 + 1);
    bytes.set(new Uint8Array(all.buffer), 1);
    const many = f32Of(widened({ dtype: 'f16', shape: [2 ** 16], data: bytes.subarray(1) }));
    const few = f32Of(widened({ dtype: 'f16', shape: [2 ** 15], data: new Uint8Array(all.buffer, 0, 2 ** 16) }));
    assert.deepEqual(many.subarray(0, 2 ** 15), few);
    const view = new DataView(all.buffer);
    for (let i = 0; i < 2 ** 16; i += 1) assert.ok(Object.is(many[i], view.getFloat16(2 * i, true)), String(i));
  });
});

describe('broken folders', () => {
  /** A good folder with one thing done to it. */
  async function broken(change: (folder: string) => Promise<void>, maxShardBytes = 1e9): Promise<string> {
    const folder = freshFolder();
    await writeHfFolder(folder, { config, tensors, maxShardBytes });
    await change(folder);
    return folder;
  }
  const index = 'model.safetensors.index.json';
  const shard = 'model-00002-of-00004.safetensors';
  const cases: [string, RegExp, number, (folder: string) => Promise<void>][] = [
    ['no config', /config\.json cannot be read/, 1e9, (f) => rm(join(f, 'config.json'))],
    [
      'a config that is no object',
      /config\.json is no JSON object/,
      1e9,
      (f) => writeFile(join(f, 'config.json'), '[1]'),
    ],
    ['a config that is cut', /config\.json is no JSON object/, 1e9, (f) => truncate(join(f, 'config.json'), 9)],
    ['no weights', /neither model\.safetensors/, 1e9, (f) => rm(join(f, 'model.safetensors'))],
    ['weights that are cut', /model\.safetensors: /, 1e9, (f) => truncate(join(f, 'model.safetensors'), 300)],
    ['empty weights', /model\.safetensors: /, 1e9, (f) => truncate(join(f, 'model.safetensors'), 0)],
    ['a shard that is missing', new RegExp(`${shard} cannot`), 1, (f) => rm(join(f, shard))],
    ['a shard that is cut', new RegExp(`${shard}: `), 1, (f) => truncate(join(f, shard), 60)],
    ['an index that is none', /no index of shards/, 1, (f) => writeFile(join(f, index), '{"weight_map":3}')],
    [
      'an index that leads out',
      /weight_map/,
      1,
      (f) => writeFile(join(f, index), '{"weight_map":{"a":"../a.safetensors"}}'),
    ],
    ['a shard of another model', /does not hold it/, 1, (f) => writeFile(join(f, shard), encode(new Map()))],
  ];
  for (const [name, message, limit, change] of cases)
    it(`are refused: ${name}`, async () => {
      await assert.rejects(readHfFolder(await broken(change, limit)), { code: 'bad-file', message });
    });

  it('are refused when the weights become shorter after they were opened', async () => {
    const folder = await broken(async () => undefined);
    const read = await readHfFolder(folder);
    await truncate(join(folder, 'model.safetensors'), 300);
    await assert.rejects(read.tensor('scalar'), { code: 'bad-file', message: /ends before/ });
  });

  it('are refused with bad-file, and nothing else, for any bytes', async () => {
    const folder = freshFolder();
    await mkdir(folder);
    await writeFile(join(folder, 'config.json'), '{}');
    const good = encode(tensors);
    const noise = fc.oneof(
      fc.uint8Array({ maxLength: 80 }),
      fc.tuple(fc.nat(good.length - 1), fc.nat(255)).map(([at, value]) => good.with(at, value)),
    );
    await fc.assert(
      fc.asyncProperty(noise, async (bytes) => {
        await writeFile(join(folder, 'model.safetensors'), bytes);
        try {
          const read = await readHfFolder(folder);
          for (const name of read.tensors.keys()) await read.tensor(name);
        } catch (error) {
          assert.ok(error instanceof MeshError && error.code === 'bad-file', String(error));
        }
      }),
    );
  });
});

it('a header alone says where the tensors lie', () => {
  const bytes = encode(tensors, { a: 'b' });
  const size = headerSize(bytes.subarray(0, 8), bytes.byteLength);
  const { places, metadata } = readHeader(bytes.subarray(0, size), bytes.byteLength);
  assert.deepEqual({ ...metadata }, { a: 'b' });
  for (const [name, { dtype, shape, begin, end }] of places)
    assert.deepEqual({ dtype, shape, data: bytes.slice(begin, end) }, tensors.get(name));
  assert.throws(() => headerSize(bytes.subarray(0, 8), size - 1), { code: 'malformed' });
  assert.throws(() => readHeader(bytes.subarray(0, size), bytes.byteLength - 1), { code: 'malformed' });
});
