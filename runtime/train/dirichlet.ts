// Proportions drawn from a symmetric Dirichlet distribution, to the same bits on every host: the standard lets engines differ in the
// last bits of Math.log and Math.exp, so both are made here of operations that IEEE 754 fixes. All in logarithms, for tiny α.
//
//   Dirichlet(α)   n draws of Gamma(α), divided by their sum
//   Gamma(α ≥ 1)   d v, with d = α − 1/3, v = (1 + x / √(9d))³, x ~ N(0, 1): Marsaglia and Tsang (2000), "A simple method for
//                  generating gamma variables"
//   Gamma(α < 1)   Gamma(α + 1) u^(1/α), u ~ U(0, 1): the same paper's boost

/** `count` shares that sum to 1, of draws from `words`. The smaller α (> 0), the more uneven; all alike in the limit. */
export function dirichlet(alpha: number, count: number, words: () => number): number[] {
  const logs = Array.from({ length: count }, () => logGamma(alpha, words));
  const largest = logs.reduce((a, b) => Math.max(a, b), -Infinity);
  const weights = logs.map((log) => exp(log - largest));
  const sum = weights.reduce((a, b) => a + b, 0);
  return weights.map((weight) => weight / sum);
}

/** The logarithm of a draw of Gamma(α). */
function logGamma(alpha: number, words: () => number): number {
  if (alpha < 1) return logGamma(alpha + 1, words) + ln(uniform(words)) / alpha;
  const d = alpha - 1 / 3;
  const c = 1 / Math.sqrt(9 * d);
  for (;;) {
    const x = standardNormal(words);
    const root = 1 + c * x;
    if (root <= 0) continue;
    const logV = 3 * ln(root);
    if (ln(uniform(words)) < (x * x) / 2 + d * (1 - root * root * root + logV)) return ln(d) + logV;
  }
}

/** Marsaglia's polar method; its second value is not used, so that a draw depends on the words alone. */
function standardNormal(words: () => number): number {
  for (;;) {
    const x = 2 * uniform(words) - 1;
    const y = 2 * uniform(words) - 1;
    const square = x * x + y * y;
    if (square < 1) return x * Math.sqrt((-2 * ln(square)) / square); // never 0: uniform is off the middle
  }
}

/** In (0, 1). */
const uniform = (words: () => number): number => (words() + 0.5) / 2 ** 32;

/** ln(m 2^k) = k ln 2 + 2 artanh((m − 1) / (m + 1)), m in [1/√2, √2], to a few units in the last place. For x > 0. */
export function ln(x: number): number {
  let power = 0;
  let mantissa = x;
  for (; mantissa > Math.SQRT2; mantissa /= 2) power += 1;
  for (; mantissa < Math.SQRT1_2; mantissa *= 2) power -= 1;
  const ratio = (mantissa - 1) / (mantissa + 1); // at most 0.172, so that the first term left out is below 2^-55
  let sum = 0;
  for (let odd = 21; odd > 0; odd -= 2) sum = sum * ratio * ratio + 1 / odd;
  return power * Math.LN2 + 2 * ratio * sum;
}

/** exp(k ln 2 + r) = 2^k exp(r), |r| ≤ ln 2 / 2, to about x units in the last place. For x ≤ 0. */
export function exp(x: number): number {
  if (x < -700) return 0; // about 1e-304
  const power = Math.round(x / Math.LN2);
  const rest = x - power * Math.LN2;
  let value = 1;
  for (let n = 16; n > 0; n -= 1) value = 1 + (value * rest) / n;
  for (let k = power; k < 0; k += 1) value /= 2;
  return value;
}
