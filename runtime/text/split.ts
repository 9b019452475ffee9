// Pre-tokenisation: a text cut into the words within which BPE merges. What `pre_tokenizer` of a tokenizer.json may say for byte-level
// vocabularies, and nothing that changes the text.
import { refuse, stepsOf, type Part, type TokenizerJson } from './tokenizer-json.ts';

/** Pieces that together are the text. */
export type Splitter = (text: string) => Iterable<string>;

/** GPT-2's, as in Hugging Face's ByteLevel: white space is Unicode's, which is not quite that of JavaScript's \s. */
const GPT2_PATTERN = String.raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`;

/** Every match is a piece, and so is what lies between matches. */
function isolated(pattern: RegExp): Splitter {
  return function* pieces(text) {
    let from = 0;
    for (const match of text.matchAll(pattern)) {
      if (match[0] === '') continue;
      if (match.index > from) yield text.slice(from, match.index);
      yield match[0];
      from = match.index + match[0].length;
    }
    if (from < text.length) yield text.slice(from);
  };
}

const unicodeSpace = (source: string): string =>
  source.replace(/\\([\s\S])/g, (escape, letter: string) =>
    letter === 's' ? String.raw`\p{White_Space}` : letter === 'S' ? String.raw`\P{White_Space}` : escape,
  );

/** `(?i:…)` around plain letters, as Llama 3 has it, without the modifier that not every engine knows. */
const withoutModifiers = (source: string): string =>
  source.replace(/\(\?i:([^()[\]\\]*)\)/g, (_, body: string) => {
    const either = body.replace(/[a-z]/gi, (letter) => `[${letter.toLowerCase()}${letter.toUpperCase()}]`);
    return `(?:${either})`;
  });

const literally = (text: string): string => text.replace(/[\\^$.*+?()[\]{}|/]/g, String.raw`\$&`);

function regular(source: string, name: string): RegExp {
  try {
    return new RegExp(unicodeSpace(withoutModifiers(source)), 'gu');
  } catch {
    return refuse(name, `the split pattern ${JSON.stringify(source.slice(0, 100))}`);
  }
}

export const gpt2Splitter: Splitter = isolated(new RegExp(unicodeSpace(GPT2_PATTERN), 'gu'));

/** Throws `bad-file` for what is not supported, and where no ByteLevel step is. */
export function splitterOf(json: TokenizerJson, name: string): Splitter {
  const steps = stepsOf(json.pre_tokenizer, 'pretokenizers', name);
  if (!steps.some((step) => step.type === 'ByteLevel')) refuse(name, `BPE without the pre_tokenizer ByteLevel`);
  const splitters = steps.flatMap((step, i) => {
    // After ByteLevel the text is in its stand-ins, and patterns would mean something else.
    if (step.type === 'ByteLevel' && i < steps.length - 1) refuse(name, 'a pre_tokenizer after ByteLevel');
    const splitter = splitterOfStep(step, name);
    return splitter ? [splitter] : [];
  });
  const [first, ...rest] = splitters;
  if (!first) return (text) => [text];
  return rest.reduce<Splitter>(
    (before, after) =>
      function* pieces(text) {
        for (const piece of before(text)) yield* after(piece);
      },
    first,
  );
}

function splitterOfStep(step: Part, name: string): Splitter | null {
  switch (step.type) {
    case 'ByteLevel':
      if (step.add_prefix_space === true) refuse(name, 'ByteLevel with add_prefix_space');
      return step.use_regex === false ? null : gpt2Splitter;
    case 'Digits':
      return isolated(step.individual_digits === true ? /\p{N}/gu : /\p{N}+/gu);
    case 'Split': {
      const { pattern, behavior, invert } = step;
      if (behavior !== 'Isolated' || invert === true) refuse(name, `Split with behavior ${String(behavior)}`);
      if (typeof pattern !== 'object' || pattern === null) return refuse(name, 'Split without a pattern');
      const { Regex: source, String: literal } = pattern as { Regex?: unknown; String?: unknown };
      if (typeof source === 'string') return isolated(regular(source, name));
      if (typeof literal === 'string') return isolated(new RegExp(literally(literal), 'gu'));
      return refuse(name, 'Split without a pattern');
    }
    default:
      return refuse(name, `the pre_tokenizer ${step.type}`);
  }
}
