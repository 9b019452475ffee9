// The trainer agrees with one that counts everything anew at each merge, gives the same for the same text, and can be stopped.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from '../support/fast-check.ts';
import { sotuCorpus } from '../../node/text-data.ts';
import { trainBpe } from '../../runtime/text/bpe-train.ts';
import { BYTE_ALPHABET, charactersOf } from '../../runtime/text/byte-characters.ts';

const mergesOf = (tokenizer: { toJson(): { model: { merges?: unknown } } }): string[] =>
  tokenizer.toJson().model.merges as string[];

/** The definition, word by word and without any cleverness. */
function slowMerges(text: string, count: number): string[] {
  const pattern = /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu;
  const words = (text.match(pattern) ?? []).map((word) => Array.from(charactersOf(new TextEncoder().encode(word))));
  const order = [...BYTE_ALPHABET];
  const merges: string[] = [];
  while (merges.length < count) {
    const counts = new Map<string, number>();
    for (const word of words)
      for (let i = 0; i + 1 < word.length; i += 1) {
        const pair = `${word[i]} ${word[i + 1]}`;
        counts.set(pair, (counts.get(pair) ?? 0) + 1);
      }
    const rank = (pair: string): [number, number] => {
      const [left = '', right = ''] = pair.split(' ');
      return [order.indexOf(left), order.indexOf(right)];
    };
    const [best] = [...counts].sort(([p, a], [q, b]) => b - a || rank(p)[0] - rank(q)[0] || rank(p)[1] - rank(q)[1]);
    if (!best || best[1] < 2) break;
    const [left = '', right = ''] = best[0].split(' ');
    for (const word of words)
      for (let i = 0; i + 1 < word.length; i += 1)
        if (word[i] === left && word[i + 1] === right) word.splice(i, 2, left + right);
    order.push(left + right);
    merges.push(best[0]);
  }
  return merges;
}

describe('training', () => {
  it('agrees with the definition', async () => {
    const word = fc.string({ unit: fc.constantFrom('a', 'b', 'c', 'ä'), minLength: 1, maxLength: 8 });
    const texts = fc.array(word, { minLength: 1, maxLength: 40 }).map((words) => words.join(' '));
    await fc.assert(
      fc.asyncProperty(texts, fc.integer({ min: 0, max: 30 }), async (text, merges) => {
        assert.deepEqual(mergesOf(await trainBpe(text, 256 + merges)), slowMerges(text, merges));
      }),
    );
  });

  it('counts pairs that overlap as the definition does', async () => {
    for (const text of ['aaaaaaa aaaa aaa', 'ababababa babab', 'abcabcabc bcabca'])
      assert.deepEqual(mergesOf(await trainBpe(text, 270)), slowMerges(text, 14), text);
  });

  it('gives the same for the same text, in one piece or in several', async () => {
    const { text } = await sotuCorpus();
    const sample = text.slice(0, 200_000);
    const half = sample.lastIndexOf(' ', 100_000);
    const whole = mergesOf(await trainBpe(sample, 512));
    assert.equal(whole.length, 256);
    assert.deepEqual(mergesOf(await trainBpe([sample.slice(0, half), sample.slice(half)], 512)), whole);
    assert.deepEqual(whole.slice(0, 5), ['Ġ t', 'Ġ a', 'Ġt h', 'r e', 'i n']);
  });

  it('makes 1,024 tokens of 2 MB in seconds', async (t) => {
    const { text } = await sotuCorpus();
    const seen: number[] = [];
    const started = performance.now();
    const tokenizer = await trainBpe(text, 1024, { onProgress: (merges) => seen.push(merges) });
    const ms = performance.now() - started;
    t.diagnostic(`${ms.toFixed(0)} ms`);
    assert.equal(tokenizer.vocabularySize, 1024);
    assert.deepEqual(
      seen,
      seen.toSorted((a, b) => a - b),
    );
    assert.equal(seen.at(-1), 768);
    assert.ok(ms < 10_000, `${ms} ms`);
    const tokens = tokenizer.encode(text);
    assert.ok(tokens.length < text.length / 2.5, `${text.length / tokens.length} characters to a token`);
  });

  it('gives fewer tokens where no pair occurs twice, and none are too few', async () => {
    assert.equal((await trainBpe('abc', 300)).vocabularySize, 256);
    assert.equal((await trainBpe('', 300, { specialTokens: ['<|endoftext|>'] })).endOfText, 256);
    await assert.rejects(trainBpe('abc', 256, { specialTokens: ['<x>'] }), { code: 'usage', message: /256 tokens/ });
    await assert.rejects(trainBpe('abc', 300.5), { code: 'usage' });
  });

  it('stops when it is told to', async () => {
    const { text } = await sotuCorpus();
    const stop = new AbortController();
    const training = trainBpe(text, 2048, { signal: stop.signal, onProgress: () => stop.abort() });
    await assert.rejects(training, { name: 'AbortError' });
  });
});
