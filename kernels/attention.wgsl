// Causal self-attention: y[t] = Σ_{s ≤ t} softmax_s(scale · q[t] · k[s]) v[s], and lse[t] = log Σ_{s ≤ t} exp(scale · q[t] · k[s]),
// per head, in one pass over the keys with a running maximum and sum; no (T, T) matrix. Query head h reads key/value head
// h / (H / G). For any D, stride and offset; attention-subgroup.wgsl is faster where it can run.
// DROPOUT: a weight is dropped where its hash is below `threshold`, and the others are multiplied by `gain`.
//
// Grid: one invocation per 4 rows and block of 16 columns of a head, 64 a workgroup, workgroups folded into x and y. Every
// block sums the scores again: registers hold no more. Later rows, which are longer, come first.
// Workgroup memory: none.

struct Sizes {
  B: u32, T: u32, H: u32, G: u32, D: u32,
  qStride: u32, kStride: u32, vStride: u32, qOffset: u32, kOffset: u32, vOffset: u32,
  scale: f32, seed: u32, threshold: u32, gain: f32,
}

@group(0) @binding(0) var<storage, read_write> y: array<f32>;   // (B, T, H, D)
@group(0) @binding(1) var<storage, read_write> lse: array<f32>; // (B, H, T)
@group(0) @binding(2) var<storage, read> q: array<f32>;         // (B, T, qStride)
@group(0) @binding(3) var<storage, read> k: array<f32>;         // (B, T, kStride)
@group(0) @binding(4) var<storage, read> v: array<f32>;         // (B, T, vStride)
@group(0) @binding(5) var<uniform> sizes: Sizes;

const MASKED = -1e30;

override DROPOUT = false;

fn hash(x: vec4u) -> vec4u {
  var h = x;
  h = (h ^ (h >> vec4u(16))) * 0x7feb352du;
  h = (h ^ (h >> vec4u(15))) * 0x846ca68bu;
  return h ^ (h >> vec4u(16));
}

/** What dropout multiplies by: 0 or gain for four keys of a row. */
fn kept(row: u32, keys: vec4u) -> vec4f {
  if (!DROPOUT) { return vec4f(1); }
  let h = hash(hash(vec4u(row ^ sizes.seed)) + keys * 0x9e3779b9u);
  return select(vec4f(0), vec4f(sizes.gain), h >= vec4u(sizes.threshold));
}

fn largest(x: vec4f) -> f32 { return max(max(x.x, x.y), max(x.z, x.w)); }

fn sum(x: vec4f) -> f32 { return (x.x + x.y) + (x.z + x.w); }

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let T = sizes.T;
  let D = sizes.D;
  let blocks = (D + 15) / 16;
  let units = sizes.B * sizes.H * blocks;
  let tiles = (T + 3) / 4;
  let place = (group.x + group.y * groups.x) * 64 + local;
  if (place >= units * tiles) { return; }
  let row = (tiles - 1 - place / units) * 4;
  let block = place % units % blocks;
  let headRow = place % units / blocks;
  let b = headRow / sizes.H;
  let h = headRow % sizes.H;
  let g = h / (sizes.H / sizes.G);

  // Rows, keys and columns beyond the edge repeat the last one; their results are masked or not stored.
  let rows = min(row + vec4u(0, 1, 2, 3), vec4u(T - 1));
  let qHead = sizes.qOffset + h * D + b * T * sizes.qStride;
  let kHead = sizes.kOffset + g * D + b * T * sizes.kStride;
  let vHead = sizes.vOffset + g * D + b * T * sizes.vStride;
  let qAt = qHead + rows * sizes.qStride;
  let column = block * 16;
  let c0 = min(column + vec4u(0, 1, 2, 3), vec4u(D - 1));
  let c1 = min(column + vec4u(4, 5, 6, 7), vec4u(D - 1));
  let c2 = min(column + vec4u(8, 9, 10, 11), vec4u(D - 1));
  let c3 = min(column + vec4u(12, 13, 14, 15), vec4u(D - 1));

  var top = vec4f(MASKED); // largest score so far of each row
  var total = vec4f(0);
  var y0a = vec4f(0); var y0b = vec4f(0); var y0c = vec4f(0); var y0d = vec4f(0);
  var y1a = vec4f(0); var y1b = vec4f(0); var y1c = vec4f(0); var y1d = vec4f(0);
  var y2a = vec4f(0); var y2b = vec4f(0); var y2c = vec4f(0); var y2d = vec4f(0);
  var y3a = vec4f(0); var y3b = vec4f(0); var y3c = vec4f(0); var y3d = vec4f(0);
  let end = min(row + 4, T);
  for (var first = 0u; first < end; first += 4) {
    let keys = first + vec4u(0, 1, 2, 3);
    let inside = min(keys, vec4u(T - 1));
    let kAt = kHead + inside * sizes.kStride;
    var s0 = vec4f(0);
    var s1 = vec4f(0);
    var s2 = vec4f(0);
    var s3 = vec4f(0);
    for (var d = 0u; d < D; d++) {
      let kd = vec4f(k[kAt.x + d], k[kAt.y + d], k[kAt.z + d], k[kAt.w + d]);
      s0 += q[qAt.x + d] * kd;
      s1 += q[qAt.y + d] * kd;
      s2 += q[qAt.z + d] * kd;
      s3 += q[qAt.w + d] * kd;
    }
    s0 = select(vec4f(MASKED), s0 * sizes.scale, keys <= vec4u(row));
    s1 = select(vec4f(MASKED), s1 * sizes.scale, keys <= vec4u(row + 1));
    s2 = select(vec4f(MASKED), s2 * sizes.scale, keys <= vec4u(row + 2));
    s3 = select(vec4f(MASKED), s3 * sizes.scale, keys <= vec4u(row + 3));
    let next = max(top, vec4f(largest(s0), largest(s1), largest(s2), largest(s3)));
    let shrink = exp(top - next);
    top = next;
    s0 = exp(s0 - next.x);
    s1 = exp(s1 - next.y);
    s2 = exp(s2 - next.z);
    s3 = exp(s3 - next.w);
    total = total * shrink + vec4f(sum(s0), sum(s1), sum(s2), sum(s3));
    y0a *= shrink.x;
    y0b *= shrink.x;
    y0c *= shrink.x;
    y0d *= shrink.x;
    y1a *= shrink.y;
    y1b *= shrink.y;
    y1c *= shrink.y;
    y1d *= shrink.y;
    y2a *= shrink.z;
    y2b *= shrink.z;
    y2c *= shrink.z;
    y2d *= shrink.z;
    y3a *= shrink.w;
    y3b *= shrink.w;
    y3c *= shrink.w;
    y3d *= shrink.w;
    let mask = headRow * T + row;
    s0 *= kept(mask, keys);
    s1 *= kept(mask + 1, keys);
    s2 *= kept(mask + 2, keys);
    s3 *= kept(mask + 3, keys);
    for (var key = first; key < min(first + 4, end); key++) {
      let vAt = vHead + key * sizes.vStride;
      let a = vec4f(v[vAt + c0.x], v[vAt + c0.y], v[vAt + c0.z], v[vAt + c0.w]);
      let b = vec4f(v[vAt + c1.x], v[vAt + c1.y], v[vAt + c1.z], v[vAt + c1.w]);
      let c = vec4f(v[vAt + c2.x], v[vAt + c2.y], v[vAt + c2.z], v[vAt + c2.w]);
      let d = vec4f(v[vAt + c3.x], v[vAt + c3.y], v[vAt + c3.z], v[vAt + c3.w]);
      y0a += s0.x * a;
      y0b += s0.x * b;
      y0c += s0.x * c;
      y0d += s0.x * d;
      y1a += s1.x * a;
      y1b += s1.x * b;
      y1c += s1.x * c;
      y1d += s1.x * d;
      y2a += s2.x * a;
      y2b += s2.x * b;
      y2c += s2.x * c;
      y2d += s2.x * d;
      y3a += s3.x * a;
      y3b += s3.x * b;
      y3c += s3.x * c;
      y3d += s3.x * d;
      s0 = s0.yzwx;
      s1 = s1.yzwx;
      s2 = s2.yzwx;
      s3 = s3.yzwx;
    }
  }

  // Loops over what is stored keep the stores few: each is compiled into many blocks on software drivers.
  for (var m = 0u; m < end - row; m++) {
    var foura = y0a;
    var fourb = y0b;
    var fourc = y0c;
    var fourd = y0d;
    if (m == 1) { foura = y1a; fourb = y1b; fourc = y1c; fourd = y1d; }
    if (m == 2) { foura = y2a; fourb = y2b; fourc = y2c; fourd = y2d; }
    if (m == 3) { foura = y3a; fourb = y3b; fourc = y3c; fourd = y3d; }
    let yAt = ((b * T + row + m) * sizes.H + h) * D + column;
    for (var n = 0u; n < min(column + 16, D) - column; n++) {
      var four = foura;
      if (n / 4 == 1) { four = fourb; }
      if (n / 4 == 2) { four = fourc; }
      if (n / 4 == 3) { four = fourd; }
      y[yAt + n] = four[n % 4] / total[m];
    }
    if (block == 0) { lse[headRow * T + row + m] = top[m] + log(total[m]); }
  }
}
