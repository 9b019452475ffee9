// dk and dv of attention.wgsl: with p and dp as in attention-backward-query.wgsl, summed over the H / G query heads that read this
// key/value head, dv[s] = Σ_{t ≥ s} p[t, s] dy[t] (0 where dropped, times gain where not) and
// dk[s] = scale · Σ_{t ≥ s} p[t, s] (dp[t, s] - delta[t]) q[t]. For any D, stride and offset;
// attention-backward-key-value-subgroup.wgsl is faster where it can run.
//
// Grid: one invocation per 2 keys and block of 16 columns of a head, 64 a workgroup, workgroups folded into x and y. Every
// block sums the scores again: registers hold no more. Earlier keys, which more rows see, come first.
// Workgroup memory: none.

struct Sizes {
  B: u32, T: u32, H: u32, G: u32, D: u32,
  qStride: u32, kStride: u32, vStride: u32, qOffset: u32, kOffset: u32, vOffset: u32,
  scale: f32, seed: u32, threshold: u32, gain: f32,
}

@group(0) @binding(0) var<storage, read_write> dkv: array<f32>; // dk (B, T, kStride) and dv (B, T, vStride)
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

/** What dropout multiplies by: 0 or gain for a key of four rows. */
fn kept(rows: vec4u, key: u32) -> vec4f {
  if (!DROPOUT) { return vec4f(1); }
  let h = hash(hash(rows ^ vec4u(sizes.seed)) + key * 0x9e3779b9u);
  return select(vec4f(0), vec4f(sizes.gain), h >= vec4u(sizes.threshold));
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
  let units = sizes.B * sizes.G * blocks;
  let tiles = (T + 1) / 2;
  let place = (group.x + group.y * groups.x) * 64 + local;
  if (place >= units * tiles) { return; }
  let key = place / units * 2;
  let block = place % units % blocks;
  let headPair = place % units / blocks;
  let b = headPair / sizes.G;
  let g = headPair % sizes.G;
  let readers = sizes.H / sizes.G; // query heads that read this head

  // Rows, keys and columns beyond the edge repeat the last one; their results are masked or not stored.
  let keys = min(key + vec2u(0, 1), vec2u(T - 1));
  let kAt = sizes.kOffset + g * D + (b * T + keys) * sizes.kStride;
  let vAt = sizes.vOffset + g * D + (b * T + keys) * sizes.vStride;
  let column = block * 16;
  let c0 = min(column + vec4u(0, 1, 2, 3), vec4u(D - 1));
  let c1 = min(column + vec4u(4, 5, 6, 7), vec4u(D - 1));
  let c2 = min(column + vec4u(8, 9, 10, 11), vec4u(D - 1));
  let c3 = min(column + vec4u(12, 13, 14, 15), vec4u(D - 1));

  var dk0a = vec4f(0); var dk0b = vec4f(0); var dk0c = vec4f(0); var dk0d = vec4f(0);
  var dk1a = vec4f(0); var dk1b = vec4f(0); var dk1c = vec4f(0); var dk1d = vec4f(0);
  var dv0a = vec4f(0); var dv0b = vec4f(0); var dv0c = vec4f(0); var dv0d = vec4f(0);
  var dv1a = vec4f(0); var dv1b = vec4f(0); var dv1c = vec4f(0); var dv1d = vec4f(0);
  for (var h = g * readers; h < (g + 1) * readers; h++) {
    let headRow = (b * sizes.H + h) * T;
    let qHead = sizes.qOffset + h * D + b * T * sizes.qStride;
    let dyHead = (b * T * sizes.H + h) * D;
    for (var first = key; first < T; first += 4) {
      let rows = first + vec4u(0, 1, 2, 3);
      let inside = min(rows, vec4u(T - 1));
      let qAt = qHead + inside * sizes.qStride;
      let dyAt = dyHead + inside * sizes.H * D;
      var s0 = vec4f(0);
      var s1 = vec4f(0);
      var dp0 = vec4f(0);
      var dp1 = vec4f(0);
      for (var d = 0u; d < D; d++) {
        let qd = vec4f(q[qAt.x + d], q[qAt.y + d], q[qAt.z + d], q[qAt.w + d]);
        s0 += k[kAt.x + d] * qd;
        s1 += k[kAt.y + d] * qd;
        let dyd = vec4f(dy[dyAt.x + d], dy[dyAt.y + d], dy[dyAt.z + d], dy[dyAt.w + d]);
        dp0 += v[vAt.x + d] * dyd;
        dp1 += v[vAt.y + d] * dyd;
      }
      let kept0 = kept(headRow + rows, key);
      let kept1 = kept(headRow + rows, key + 1);
      for (var j = 0u; j < min(4, T - first); j++) {
        let rowLse = lse[headRow + first + j];
        let rowDelta = delta[headRow + first + j];
        let p0 = exp(s0[j] * sizes.scale - rowLse);
        let p1 = select(0, exp(s1[j] * sizes.scale - rowLse), first + j > key);
        // A softmax over one key has no slope: row 0 adds nothing, to the last bit.
        let ds0 = select(0, p0 * (dp0[j] * kept0[j] - rowDelta), first + j > 0);
        let ds1 = p1 * (dp1[j] * kept1[j] - rowDelta);
        let qa = vec4f(q[qAt[j] + c0.x], q[qAt[j] + c0.y], q[qAt[j] + c0.z], q[qAt[j] + c0.w]);
        let qb = vec4f(q[qAt[j] + c1.x], q[qAt[j] + c1.y], q[qAt[j] + c1.z], q[qAt[j] + c1.w]);
        let qc = vec4f(q[qAt[j] + c2.x], q[qAt[j] + c2.y], q[qAt[j] + c2.z], q[qAt[j] + c2.w]);
        let qd = vec4f(q[qAt[j] + c3.x], q[qAt[j] + c3.y], q[qAt[j] + c3.z], q[qAt[j] + c3.w]);
        dk0a += ds0 * qa;
        dk0b += ds0 * qb;
        dk0c += ds0 * qc;
        dk0d += ds0 * qd;
        dk1a += ds1 * qa;
        dk1b += ds1 * qb;
        dk1c += ds1 * qc;
        dk1d += ds1 * qd;
        let used0 = p0 * kept0[j];
        let used1 = p1 * kept1[j];
        let dya = vec4f(dy[dyAt[j] + c0.x], dy[dyAt[j] + c0.y], dy[dyAt[j] + c0.z], dy[dyAt[j] + c0.w]);
        let dyb = vec4f(dy[dyAt[j] + c1.x], dy[dyAt[j] + c1.y], dy[dyAt[j] + c1.z], dy[dyAt[j] + c1.w]);
        let dyc = vec4f(dy[dyAt[j] + c2.x], dy[dyAt[j] + c2.y], dy[dyAt[j] + c2.z], dy[dyAt[j] + c2.w]);
        let dyd = vec4f(dy[dyAt[j] + c3.x], dy[dyAt[j] + c3.y], dy[dyAt[j] + c3.z], dy[dyAt[j] + c3.w]);
        dv0a += used0 * dya;
        dv0b += used0 * dyb;
        dv0c += used0 * dyc;
        dv0d += used0 * dyd;
        dv1a += used1 * dya;
        dv1b += used1 * dyb;
        dv1c += used1 * dyc;
        dv1d += used1 * dyd;
      }
    }
  }

  // Loops over what is stored keep the stores few: each is compiled into many blocks on software drivers.
  for (var m = 0u; m < min(key + 2, T) - key; m++) {
    var fourKa = dk0a;
    var fourKb = dk0b;
    var fourKc = dk0c;
    var fourKd = dk0d;
    if (m == 1) { fourKa = dk1a; fourKb = dk1b; fourKc = dk1c; fourKd = dk1d; }
    var fourVa = dv0a;
    var fourVb = dv0b;
    var fourVc = dv0c;
    var fourVd = dv0d;
    if (m == 1) { fourVa = dv1a; fourVb = dv1b; fourVc = dv1c; fourVd = dv1d; }
    for (var n = 0u; n < min(column + 16, D) - column; n++) {
      var fourK = fourKa;
      if (n / 4 == 1) { fourK = fourKb; }
      if (n / 4 == 2) { fourK = fourKc; }
      if (n / 4 == 3) { fourK = fourKd; }
      var fourV = fourVa;
      if (n / 4 == 1) { fourV = fourVb; }
      if (n / 4 == 2) { fourV = fourVc; }
      if (n / 4 == 3) { fourV = fourVd; }
      dkv[kAt[m] + column + n] = fourK[n % 4] * sizes.scale;
      dkv[vAt[m] + column + n] = fourV[n % 4];
    }
  }
}
