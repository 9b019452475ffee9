// dq of attention.wgsl: with p[t, s] = exp(scale · q[t] · k[s] - lse[t]) and dp[t, s] = dy[t] · v[s] (0 where dropped, times gain
// where not), dq[t] = scale · Σ_{s ≤ t} p[t, s] (dp[t, s] - delta[t]) k[s]. For any D, stride and offset;
// attention-backward-query-subgroup.wgsl is faster where it can run.
//
// Grid: one invocation per 4 rows and block of 16 columns of a head, 64 a workgroup, workgroups folded into x and y. Every
// block sums the scores again: registers hold no more. Later rows, which are longer, come first.
// Workgroup memory: none.

struct Sizes {
  B: u32, T: u32, H: u32, G: u32, D: u32,
  qStride: u32, kStride: u32, vStride: u32, qOffset: u32, kOffset: u32, vOffset: u32,
  scale: f32, seed: u32, threshold: u32, gain: f32,
}

@group(0) @binding(0) var<storage, read_write> dq: array<f32>;  // (B, T, qStride)
@group(0) @binding(1) var<storage, read> dy: array<f32>;        // (B, T, H, D)
@group(0) @binding(2) var<storage, read> lse: array<f32>;       // (B, H, T)
@group(0) @binding(3) var<storage, read> delta: array<f32>;     // (B, H, T)
@group(0) @binding(4) var<storage, read> q: array<f32>;         // (B, T, qStride)
@group(0) @binding(5) var<storage, read> k: array<f32>;         // (B, T, kStride)
@group(0) @binding(6) var<storage, read> v: array<f32>;         // (B, T, vStride)
@group(0) @binding(7) var<uniform> sizes: Sizes;

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

/** p (dp - delta) of a row at four keys, 0 beyond the row. A softmax over one key has no slope: row 0 is 0 to the last bit. */
fn slope(score: vec4f, dp: vec4f, lse: f32, delta: f32, row: u32, keys: vec4u) -> vec4f {
  let p = select(vec4f(0), exp(score * sizes.scale - lse), (keys <= vec4u(row)) & vec4<bool>(row > 0));
  return p * (dp - delta);
}

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
  let dyAt = ((b * T + rows) * sizes.H + h) * D;
  let rowAt = headRow * T + rows;
  let column = block * 16;
  let c0 = min(column + vec4u(0, 1, 2, 3), vec4u(D - 1));
  let c1 = min(column + vec4u(4, 5, 6, 7), vec4u(D - 1));
  let c2 = min(column + vec4u(8, 9, 10, 11), vec4u(D - 1));
  let c3 = min(column + vec4u(12, 13, 14, 15), vec4u(D - 1));

  var dq0a = vec4f(0); var dq0b = vec4f(0); var dq0c = vec4f(0); var dq0d = vec4f(0);
  var dq1a = vec4f(0); var dq1b = vec4f(0); var dq1c = vec4f(0); var dq1d = vec4f(0);
  var dq2a = vec4f(0); var dq2b = vec4f(0); var dq2c = vec4f(0); var dq2d = vec4f(0);
  var dq3a = vec4f(0); var dq3b = vec4f(0); var dq3c = vec4f(0); var dq3d = vec4f(0);
  let end = min(row + 4, T);
  for (var first = 0u; first < end; first += 4) {
    let keys = first + vec4u(0, 1, 2, 3);
    let inside = min(keys, vec4u(T - 1));
    let kAt = kHead + inside * sizes.kStride;
    let vAt = vHead + inside * sizes.vStride;
    var s0 = vec4f(0);
    var s1 = vec4f(0);
    var s2 = vec4f(0);
    var s3 = vec4f(0);
    var dp0 = vec4f(0);
    var dp1 = vec4f(0);
    var dp2 = vec4f(0);
    var dp3 = vec4f(0);
    for (var d = 0u; d < D; d++) {
      let kd = vec4f(k[kAt.x + d], k[kAt.y + d], k[kAt.z + d], k[kAt.w + d]);
      s0 += q[qAt.x + d] * kd;
      s1 += q[qAt.y + d] * kd;
      s2 += q[qAt.z + d] * kd;
      s3 += q[qAt.w + d] * kd;
      let vd = vec4f(v[vAt.x + d], v[vAt.y + d], v[vAt.z + d], v[vAt.w + d]);
      dp0 += dy[dyAt.x + d] * vd;
      dp1 += dy[dyAt.y + d] * vd;
      dp2 += dy[dyAt.z + d] * vd;
      dp3 += dy[dyAt.w + d] * vd;
    }
    let mask = headRow * T + row;
    s0 = slope(s0, dp0 * kept(mask, keys), lse[rowAt.x], delta[rowAt.x], row, keys);
    s1 = slope(s1, dp1 * kept(mask + 1, keys), lse[rowAt.y], delta[rowAt.y], row + 1, keys);
    s2 = slope(s2, dp2 * kept(mask + 2, keys), lse[rowAt.z], delta[rowAt.z], row + 2, keys);
    s3 = slope(s3, dp3 * kept(mask + 3, keys), lse[rowAt.w], delta[rowAt.w], row + 3, keys);
    for (var key = first; key < min(first + 4, end); key++) {
      let at = kHead + key * sizes.kStride;
      let a = vec4f(k[at + c0.x], k[at + c0.y], k[at + c0.z], k[at + c0.w]);
      let b = vec4f(k[at + c1.x], k[at + c1.y], k[at + c1.z], k[at + c1.w]);
      let c = vec4f(k[at + c2.x], k[at + c2.y], k[at + c2.z], k[at + c2.w]);
      let d = vec4f(k[at + c3.x], k[at + c3.y], k[at + c3.z], k[at + c3.w]);
      dq0a += s0.x * a;
      dq0b += s0.x * b;
      dq0c += s0.x * c;
      dq0d += s0.x * d;
      dq1a += s1.x * a;
      dq1b += s1.x * b;
      dq1c += s1.x * c;
      dq1d += s1.x * d;
      dq2a += s2.x * a;
      dq2b += s2.x * b;
      dq2c += s2.x * c;
      dq2d += s2.x * d;
      dq3a += s3.x * a;
      dq3b += s3.x * b;
      dq3c += s3.x * c;
      dq3d += s3.x * d;
      s0 = s0.yzwx;
      s1 = s1.yzwx;
      s2 = s2.yzwx;
      s3 = s3.yzwx;
    }
  }

  // Loops over what is stored keep the stores few: each is compiled into many blocks on software drivers.
  for (var m = 0u; m < end - row; m++) {
    var foura = dq0a;
    var fourb = dq0b;
    var fourc = dq0c;
    var fourd = dq0d;
    if (m == 1) { foura = dq1a; fourb = dq1b; fourc = dq1c; fourd = dq1d; }
    if (m == 2) { foura = dq2a; fourb = dq2b; fourc = dq2c; fourd = dq2d; }
    if (m == 3) { foura = dq3a; fourb = dq3b; fourc = dq3c; fourd = dq3d; }
    for (var n = 0u; n < min(column + 16, D) - column; n++) {
      var four = foura;
      if (n / 4 == 1) { four = fourb; }
      if (n / 4 == 2) { four = fourc; }
      if (n / 4 == 3) { four = fourd; }
      dq[qAt[m] + column + n] = four[n % 4] * sizes.scale;
    }
  }
}
