// Text as rows of tokens: windows and labels, epochs that differ and repeat themselves, and the corpus that the PyTorch reference uses.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import fc from '../support/fast-check.ts';
import { loadText, readTexts, sotuCorpus, textRun, type LoadedText } from '../../node/text-data.ts';
import { writeTokenizer } from '../../node/tokenizer-files.ts';
import { i32Of } from '../../runtime/tensor.ts';
import { charTokenizer } from '../../runtime/text/char.ts';
import { textSpecSchema, type TextSpec } from '../../runtime/text/text-spec.ts';
import { tokenData } from '../../runtime/text/token-data.ts';

/** What test/golden/sotu_reference.py computes of the same addresses. */
const SOTU_SHA256 = '68e627301feb23608457129bd6fe01c896b4bad56f25096d4dbae425bf431bb2';

const spec = (given: object): TextSpec => textSpecSchema.parse(given);

/** Tokens 0, 1, 2, …, so that a token tells its place. */
function counted(train: number, heldOut: number): LoadedText {
  const data = (from: number, count: number) =>
    tokenData(
      Int32Array.from({ length: count }, (_, i) => from + i),
      100_000,
    );
  const info = { files: [], characters: 0, trainCharacters: 0, trainTokens: train, heldOutTokens: heldOut };
  return { train: data(0, train), heldOut: data(train, heldOut), tokenizer: charTokenizer('x'), info };
}

describe('rows of tokens', () => {
  const lengths = fc.record({
    context: fc.integer({ min: 1, max: 9 }),
    train: fc.integer({ min: 1, max: 80 }),
    heldOut: fc.integer({ min: 1, max: 80 }),
    seed: fc.nat(),
    epoch: fc.nat(1000),
  });

  it('are windows inside the text, side by side, each once an epoch', () => {
    fc.assert(
      fc.property(lengths, ({ context, train, heldOut, seed, epoch }) => {
        fc.pre(train > context && heldOut > context);
        const run = textRun(counted(train, heldOut), context, seed);
        const order = run.train.order(epoch);
        assert.equal(order.length, run.train.rows);
        assert.deepEqual(run.train.order(epoch), order);
        const starts = order.toSorted();
        for (const [i, start] of starts.entries()) assert.equal(start, (starts[0] ?? 0) + i * context);
        const { x, y } = run.train.batch(order);
        assert.deepEqual(
          [x.shape, y.shape],
          [
            [order.length, context],
            [order.length, context],
          ],
        );
        const expected = [...order].flatMap((start) => Array.from({ length: context }, (_, t) => start + t));
        assert.deepEqual([...i32Of(x)], expected);
        assert.deepEqual(
          [...i32Of(y)],
          expected.map((token) => token + 1),
        );
        assert.ok(Math.max(...i32Of(y)) < train);
      }),
    );
  });

  it('of the held-out part begin at its first token and leave out less than a window', () => {
    fc.assert(
      fc.property(lengths, ({ context, train, heldOut, seed }) => {
        fc.pre(train > context && heldOut > context);
        const { test } = textRun(counted(train, heldOut), context, seed);
        const { x, y } = test.batch(Uint32Array.from({ length: test.rows }, (_, i) => i));
        const all = Array.from({ length: test.rows * context }, (_, i) => train + i);
        assert.deepEqual([...i32Of(x)], all);
        assert.deepEqual(
          [...i32Of(y)],
          all.map((token) => token + 1),
        );
        assert.ok(heldOut - 1 - all.length < context);
        assert.throws(() => test.batch(Uint32Array.of(test.rows)), { code: 'usage' });
      }),
    );
  });

  it('differ between epochs and seeds, in offset too, and have not changed: runs that resume rely on it', () => {
    const run = textRun(counted(50, 20), 4, 7);
    const offsets = new Set(Array.from({ length: 40 }, (_, epoch) => Math.min(...run.train.order(epoch)) % 4));
    assert.deepEqual([...offsets].sort(), [0, 1, 2, 3]);
    assert.notDeepEqual(textRun(counted(50, 20), 4, 8).train.order(0), run.train.order(0));
    assert.deepEqual([...run.train.order(0)], [38, 2, 6, 42, 22, 34, 14, 10, 18, 26, 30]);
  });

  it('take two bytes a token where they can', () => {
    assert.ok(tokenData(Int32Array.of(65_535), 65_536).tokens instanceof Uint16Array);
    assert.ok(tokenData(Int32Array.of(65_536), 65_537).tokens instanceof Int32Array);
  });

  it('refuse a text shorter than a window, and rows beyond it', () => {
    assert.throws(() => textRun(counted(4, 20), 4, 0), { code: 'bad-file', message: /training text has 4 tokens/ });
    assert.throws(() => textRun(counted(20, 4), 4, 0), { code: 'bad-file', message: /held-out text has 4 tokens/ });
    const { train } = textRun(counted(20, 20), 4, 0);
    assert.throws(() => train.batch(Uint32Array.of(16)), { code: 'usage', message: /row 16/ });
  });
});

describe('the State of the Union addresses', () => {
  it('are the text of the PyTorch reference, and read in less than a second', async (t) => {
    const started = performance.now();
    const { text, files } = await sotuCorpus();
    const ms = performance.now() - started;
    t.diagnostic(`${ms.toFixed(0)} ms`);
    assert.equal(createHash('sha256').update(text).digest('hex'), SOTU_SHA256);
    assert.deepEqual([text.length, files.length, files[0]], [2_031_101, 59, '1963_john_f_kennedy_d.txt']);
    assert.ok(/^[\n\x20-\x7e]*$/.test(text));
  });

  it('load with a tokenizer of their characters, the last tenth held out', async () => {
    const { info, tokenizer, train, heldOut } = await loadText(spec({ text: 'sotu' }));
    assert.deepEqual([info.trainTokens, info.heldOutTokens], [1_827_990, 203_111]);
    const { text } = await sotuCorpus();
    assert.equal(
      tokenizer.decode([...train.tokens.slice(-50), ...heldOut.tokens.slice(0, 50)]),
      text.slice(1_827_940, 1_828_040),
    );
  });
});

describe('text from files', () => {
  let folder = '';
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'skein-text-'));
    await mkdir(join(folder, 'more'));
    await writeFile(join(folder, 'b.txt'), 'second 😀😀');
    await writeFile(join(folder, 'a.txt'), 'first');
    await writeFile(join(folder, 'more', 'latin1.bin'), Uint8Array.of(0x66, 0xfc, 0x72));
  });
  after(() => rm(folder, { recursive: true, force: true }));

  it('is joined in the order given, globs by name', async () => {
    assert.equal((await readTexts(join(folder, '*.txt'))).text, 'first\n\nsecond 😀😀');
    assert.equal((await readTexts([join(folder, 'b.txt'), join(folder, 'a.txt')])).text, 'second 😀😀\n\nfirst');
  });

  it('is tokenized as the spec says, and never cut through a character', async () => {
    const text = join(folder, '*.txt');
    for (const heldOut of [0.1, 0.15, 0.2, 0.5]) {
      const { train, heldOut: held, tokenizer } = await loadText(spec({ text, heldOut }));
      assert.equal(tokenizer.decode([...train.tokens, ...held.tokens]), 'first\n\nsecond 😀😀');
    }
    const trained = await loadText(spec({ text, tokenizer: { train: 256 } }));
    assert.equal(trained.tokenizer.vocabularySize, 256);
    const gpt2 = await loadText(spec({ text, tokenizer: 'gpt2' }));
    assert.equal(gpt2.train.tokens[0], 11085);
    const file = await writeTokenizer(join(folder, 'own', 'tokenizer.json'), charTokenizer('first\n secondx😀'));
    for (const tokenizer of [file, join(folder, 'own')])
      assert.equal((await loadText(spec({ text, tokenizer }))).tokenizer.vocabularySize, 14);
  });

  it('is refused by the name of what is wrong', async () => {
    const bad = (given: object): Promise<unknown> => loadText(spec(given));
    await assert.rejects(bad({ text: join(folder, 'none.txt') }), { code: 'bad-file', message: /none\.txt/ });
    await assert.rejects(bad({ text: join(folder, '*.md') }), { code: 'bad-file', message: /\*\.md/ });
    await assert.rejects(bad({ text: join(folder, 'more', 'latin1.bin') }), { code: 'bad-file', message: /UTF-8/ });
    await assert.rejects(bad({ text: 'sotu', tokenizer: folder }), { code: 'bad-file', message: /tokenizer\.json/ });
  });

  it('has a spec that says what it takes', () => {
    const issue = (given: object): string => textSpecSchema.safeParse(given).error?.issues[0]?.message ?? 'none';
    assert.match(issue({ text: 3 }), /path or glob/);
    assert.match(issue({ text: [] }), />=1/);
    assert.match(issue({ text: 'sotu', tokenizer: { train: 100 } }), /256/);
    assert.match(issue({ text: 'sotu', tokenizer: 3 }), /N from 256/);
    assert.match(issue({ text: 'sotu', heldOut: 1 }), /0\.9/);
    assert.match(issue({ text: 'sotu', contexLength: 3 }), /contexLength/);
  });
});
