// A counter-based generator: Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"). Keyed by seed and
// name, so that a parameter's initial values depend on nothing else: not on the split, the order, or the host.

const M0 = 0xd2511f53;
const M1 = 0xcd9e8d57;
const W0 = 0x9e3779b9;
const W1 = 0xbb67ae85;

/** High 32 bits of the product of two u32. */
function high(a: number, b: number): number {
  const aLow = a & 0xffff;
  const aHigh = a >>> 16;
  const bLow = b & 0xffff;
  const bHigh = b >>> 16;
  const middle = aHigh * bLow + ((aLow * bLow) >>> 16);
  const carry = (middle % 0x10000) + aLow * bHigh;
  return (aHigh * bHigh + Math.floor(middle / 0x10000) + Math.floor(carry / 0x10000)) >>> 0;
}

/** Ten rounds on `counter` (4 × u32) with `key` (2 × u32), into `out` (4 × u32). */
export function philox(counter: Uint32Array, key: Uint32Array, out: Uint32Array): void {
  let [c0 = 0, c1 = 0, c2 = 0, c3 = 0] = counter;
  let [k0 = 0, k1 = 0] = key;
  for (let round = 0; round < 10; round++) {
    const high0 = high(M0, c0);
    const low0 = Math.imul(M0, c0) >>> 0;
    const high1 = high(M1, c2);
    const low1 = Math.imul(M1, c2) >>> 0;
    c0 = (high1 ^ c1 ^ k0) >>> 0;
    c1 = low1;
    c2 = (high0 ^ c3 ^ k1) >>> 0;
    c3 = low0;
    k0 = (k0 + W0) >>> 0;
    k1 = (k1 + W1) >>> 0;
  }
  out[0] = c0;
  out[1] = c1;
  out[2] = c2;
  out[3] = c3;
}

/** `count` values of U(-bound, bound), multiples of bound / 2²³, for this seed and name. */
export function uniform(seed: number, name: string, count: number, bound: number): Float32Array<ArrayBuffer> {
  const key = new Uint32Array([seed % 2 ** 32, Math.floor(seed / 2 ** 32)]);
  const [nameLow, nameHigh] = hash64(name);
  const counter = new Uint32Array([0, 0, nameLow, nameHigh]);
  const block = new Uint32Array(4);
  const values = new Float32Array(count);
  for (let i = 0; i < count; i++) {
    const lane = i % 4;
    if (lane === 0) {
      counter[0] = (i / 4) % 2 ** 32;
      counter[1] = Math.floor(i / 2 ** 34);
      philox(counter, key, block);
    }
    values[i] = bound * (((block[lane] ?? 0) >>> 8) * 2 ** -23 - 1);
  }
  return values;
}

/** `count` values of N(0, deviation²) for this seed and name: Box and Muller's transform of the same stream. */
export function normal(seed: number, name: string, count: number, deviation: number): Float32Array<ArrayBuffer> {
  const flat = uniform(seed, name, count + (count % 2), 1);
  const values = new Float32Array(count);
  for (let i = 0; i < count; i += 2) {
    // (0, 1] and [0, 2π), of values in [-1, 1)
    const radius = deviation * Math.sqrt(-2 * Math.log((1 - (flat[i] ?? 0)) / 2));
    const angle = Math.PI * ((flat[i + 1] ?? 0) + 1);
    values[i] = radius * Math.cos(angle);
    if (i + 1 < count) values[i + 1] = radius * Math.sin(angle);
  }
  return values;
}

/** FNV-1a over UTF-8, 64 bits as two halves. */
function hash64(text: string): [number, number] {
  let hash = 0xcbf29ce484222325n;
  for (const byte of new TextEncoder().encode(text)) hash = BigInt.asUintN(64, (hash ^ BigInt(byte)) * 0x100000001b3n);
  return [Number(hash & 0xffffffffn), Number(hash >> 32n)];
}
