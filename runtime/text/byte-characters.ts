// GPT-2's printable stand-ins for the 256 bytes, in which byte-level vocabularies write their tokens: a printable byte is its own
// Latin-1 character, the n-th of the others is U+0100 + n.

const isPrintable = (byte: number): boolean =>
  (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || (byte >= 0xae && byte <= 0xff);

const CHARACTERS: readonly string[] = (() => {
  let others = 0;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(isPrintable(byte) ? byte : 0x100 + others++));
})();
const BYTES: ReadonlyMap<string, number> = new Map(CHARACTERS.map((character, byte) => [character, byte]));

/** The 256 stand-ins in the order of their code points, which is the order of GPT-2's first 256 tokens. */
export const BYTE_ALPHABET: readonly string[] = [...CHARACTERS].sort((a, b) => a.charCodeAt(0) - b.charCodeAt(0));

export const charactersOf = (bytes: Iterable<number>): string => {
  let text = '';
  for (const byte of bytes) text += CHARACTERS[byte] ?? '';
  return text;
};

/** The bytes that a token's name stands for, or null where it is not written in stand-ins. */
export function bytesOf(characters: string): Uint8Array<ArrayBuffer> | null {
  const bytes = new Uint8Array(characters.length);
  for (let i = 0; i < characters.length; i += 1) {
    const byte = BYTES.get(characters.charAt(i));
    if (byte === undefined) return null;
    bytes[i] = byte;
  }
  return bytes;
}
