// WGSL that all families share: bindings, loads of four elements at any alignment, and the way from a sum to memory.
// Nothing here knows a tiling.
import type { FusedActivation, MatmulVariant, Product, WeightFormat } from './spec.ts';

const FORMULAS: Record<Product, string> = {
  nt: 'a (M, K) · bᵀ, b (N, K)',
  nn: 'a (M, K) · b (K, N)',
  tn: 'aᵀ · b, a (K, M), b (K, N)',
};

/** The first line of a kernel: what it computes. */
export function formula({ product, bias, activation, residual, accumulate }: MatmulVariant): string {
  const sum = `${FORMULAS[product]}${bias ? ' + bias (N)' : ''}`;
  const value = activation === null ? sum : `${activation}(${sum})`;
  return `// out (M, N) ${accumulate ? '+=' : '='} ${value}${residual ? ' + residual (M, N)' : ''}`;
}

const vectorOf = (aligned: boolean): string => (aligned ? 'vec4f' : 'f32');

const weightWords = (format: WeightFormat, aligned: boolean): string => {
  if (format === 'f32') return vectorOf(aligned);
  return aligned ? 'vec2u' : 'u32';
};

/** Sizes and bindings. */
export function bindings({ weights, bias, residual, alignment }: MatmulVariant): string {
  const out = vectorOf(alignment.out);
  const inputs = [
    `a: array<${vectorOf(alignment.a)}>`,
    `b: array<${weightWords(weights, alignment.b)}>`,
    ...(bias ? [`bias: array<${out}>`] : []),
    ...(residual ? [`residual: array<${out}>`] : []),
  ];
  return [
    'struct Sizes { M: u32, N: u32, K: u32, aStride: u32, aOffset: u32, outStride: u32, outOffset: u32 }',
    '',
    `@group(0) @binding(0) var<storage, read_write> out: array<${out}>;`,
    ...inputs.map((input, i) => `@group(0) @binding(${i + 1}) var<storage, read> ${input};`),
    `@group(0) @binding(${inputs.length + 1}) var<uniform> sizes: Sizes;`,
    '',
  ].join('\n');
}

/**
 * `aRow(row)` or, for tn, `aColumn(m)`: where a row (column) of a begins, clamped to the last. `loadA(base, k4)`: four of K
 * from 4 k4 on. For tn `loadA(base, k)`: four of M at step k. Zero beyond K, so that the last step of K may be ragged.
 */
export function loadA({ product, alignment }: MatmulVariant): string {
  if (product === 'tn')
    return alignment.a
      ? `
fn aColumn(m: u32) -> u32 { return (min(m, sizes.M - 4) + sizes.aOffset) / 4; }
fn loadA(base: u32, k: u32) -> vec4f {
  return select(vec4f(0), a[base + min(k, sizes.K - 1) * (sizes.aStride / 4)], k < sizes.K);
}
`
      : `
fn aColumn(m: u32) -> u32 { return m; }
fn loadA(base: u32, k: u32) -> vec4f {
  let at = sizes.aOffset + min(k, sizes.K - 1) * sizes.aStride;
  let m = at + min(vec4u(base, base + 1, base + 2, base + 3), vec4u(sizes.M - 1));
  return select(vec4f(0), vec4f(a[m.x], a[m.y], a[m.z], a[m.w]), k < sizes.K);
}
`;
  return alignment.a
    ? `
fn aRow(row: u32) -> u32 { return (min(row, sizes.M - 1) * sizes.aStride + sizes.aOffset) / 4; }
fn loadA(base: u32, k4: u32) -> vec4f { return a[base + k4]; }
`
    : `
fn aRow(row: u32) -> u32 { return min(row, sizes.M - 1) * sizes.aStride + sizes.aOffset; }
fn loadA(base: u32, k4: u32) -> vec4f {
  let k = k4 * 4 + vec4u(0, 1, 2, 3);
  let at = base + min(k, vec4u(sizes.K - 1));
  return select(vec4f(0), vec4f(a[at.x], a[at.y], a[at.z], a[at.w]), k < vec4u(sizes.K));
}
`;
}

/**
 * For nt `bRow(n)`: where a row of b begins, clamped to the last; `loadB(base, k4)`: four of K from 4 k4 on. For nn and tn
 * `bColumn(n)` and `loadB(base, k)`: four of N at step k. Beyond K: any element of b, for a is zero there.
 */
export function loadB({ product, weights, alignment }: MatmulVariant): string {
  const unpack = weights === 'f32' ? '' : unpackText(weights, alignment.b);
  const four = weights === 'f32' || !alignment.b ? 'b[at]' : 'four(b[at])';
  const gather = ['x', 'y', 'z', 'w'].map((c) => (weights === 'f32' ? `b[at.${c}]` : `one(at.${c})`)).join(', ');
  if (product === 'nt')
    return (
      unpack +
      (alignment.b
        ? `
fn bRow(n: u32) -> u32 { return min(n, sizes.N - 1) * (sizes.K / 4); }
fn loadB(base: u32, k4: u32) -> vec4f { let at = base + k4; return ${four}; }
`
        : `
fn bRow(n: u32) -> u32 { return min(n, sizes.N - 1) * sizes.K; }
fn loadB(base: u32, k4: u32) -> vec4f {
  let at = base + min(k4 * 4 + vec4u(0, 1, 2, 3), vec4u(sizes.K - 1));
  return vec4f(${gather});
}
`)
    );
  return (
    unpack +
    (alignment.b
      ? `
fn bColumn(n: u32) -> u32 { return min(n, sizes.N - 4) / 4; }
fn loadB(base: u32, k: u32) -> vec4f { let at = base + min(k, sizes.K - 1) * (sizes.N / 4); return ${four}; }
`
      : `
fn bColumn(n: u32) -> u32 { return n; }
fn loadB(base: u32, k: u32) -> vec4f {
  let n = min(vec4u(base, base + 1, base + 2, base + 3), vec4u(sizes.N - 1));
  let at = min(k, sizes.K - 1) * sizes.N + n;
  return vec4f(${gather});
}
`)
  );
}

function unpackText(weights: 'bf16' | 'f16', aligned: boolean): string {
  const two =
    weights === 'bf16'
      ? `fn two(word: u32) -> vec2f { return vec2f(bitcast<f32>(word << 16), bitcast<f32>(word & 0xffff0000)); }`
      : `fn two(word: u32) -> vec2f { return unpack2x16float(word); }`;
  return aligned
    ? `\n${two}\nfn four(words: vec2u) -> vec4f { return vec4f(two(words.x), two(words.y)); }\n`
    : `\n${two}\nfn one(at: u32) -> f32 { return two(b[at / 2])[at & 1]; }\n`;
}

/** `biasAt(col)`: four of the bias from column `col` on, a multiple of 4; only where the variant has one. */
function biasText({ bias, alignment }: MatmulVariant): string {
  if (!bias) return '';
  return alignment.out
    ? `\nfn biasAt(col: u32) -> vec4f { return bias[min(col, sizes.N - 4) / 4]; }\n`
    : `
fn biasAt(col: u32) -> vec4f {
  let n = min(col + vec4u(0, 1, 2, 3), vec4u(sizes.N - 1));
  return vec4f(bias[n.x], bias[n.y], bias[n.z], bias[n.w]);
}
`;
}

// The two forms of gelu are those of kernels/gelu.wgsl.
const ACTIVATIONS: Record<FusedActivation, string> = {
  relu: `
fn activation(v: vec4f) -> vec4f { return max(v, vec4f(0)); }
`,
  gelu: `
fn erf(v: vec4f) -> vec4f {
  let u = clamp(v, vec4f(-4), vec4f(4));
  let s = u * u;
  var p = s * -2.72614225801306e-10 + 2.77068142495902e-08;
  p = s * p - 2.10102402082508e-06;
  p = s * p - 5.69250639462346e-05;
  p = s * p - 7.34990630326855e-04;
  p = s * p - 2.95459980854025e-03;
  p = s * p - 1.60960333262415e-02;
  var q = s * -1.45660718464996e-05 - 2.13374055278905e-04;
  q = s * q - 1.68282697438203e-03;
  q = s * q - 7.37332916720468e-03;
  q = s * q - 1.42647390514189e-02;
  return u * p / q;
}
fn activation(v: vec4f) -> vec4f { return 0.5 * v * (1.0 + erf(v * 0.7071067811865476)); }
`,
  gelu_new: `
fn activation(v: vec4f) -> vec4f {
  let u = clamp(v, vec4f(-10), vec4f(10));
  let s = 1 / (1 + exp(u * (-1.5957691216057308 - 0.07135481282952302 * u * u)));
  return select(v * s, vec4f(0), v < vec4f(-10));
}
`,
};

/** `finish(row, col, sum)`: activation, residual and what is there already, then the store of up to four columns of a row below M. */
export function finish(variant: MatmulVariant): string {
  const { activation, residual, accumulate, alignment } = variant;
  const value = activation === null ? 'sum' : 'activation(sum)';
  const head = biasText(variant) + (activation === null ? '' : ACTIVATIONS[activation]);
  if (alignment.out)
    return `${head}
fn finish(row: u32, col: u32, sum: vec4f) {
  if (col >= sizes.N) { return; }
  let at = (row * sizes.outStride + sizes.outOffset + col) / 4;
  out[at] = ${accumulate ? 'out[at] + ' : ''}${value}${residual ? ' + residual[at]' : ''};
}
`;
  return `${head}
fn finish(row: u32, col: u32, sum: vec4f) {
  let v = ${value};
  let at = row * sizes.outStride + sizes.outOffset + col;
  if (col < sizes.N) { put(at, v.x); }
  if (col + 1 < sizes.N) { put(at + 1, v.y); }
  if (col + 2 < sizes.N) { put(at + 2, v.z); }
  if (col + 3 < sizes.N) { put(at + 3, v.w); }
}
fn put(at: u32, v: f32) { out[at] = ${accumulate ? 'out[at] + ' : ''}v${residual ? ' + residual[at]' : ''}; }
`;
}

/** `tileOf`: the first row and column of a workgroup's tile; the smaller operand is the one that is walked through again and again. */
export const tileOf = (tileM: number, tileN: number): string => `
fn tileOf(tile: u32) -> vec2u {
  let tiles = vec2u((sizes.M + ${tileM - 1}) / ${tileM}, (sizes.N + ${tileN - 1}) / ${tileN});
  let rowsFirst = sizes.M <= sizes.N;
  let run = select(tiles.y, tiles.x, rowsFirst);
  let slow = tile / run; // division is dear on software drivers: one is enough
  let fast = tile - slow * run;
  return select(vec2u(slow, fast), vec2u(fast, slow), rowsFirst) * vec2u(${tileM}, ${tileN});
}
`;
