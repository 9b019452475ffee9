// dk and dv of attention.wgsl: with p and dp as in attention-backward-query-subgroup.wgsl, summed over the H / G query heads
// that read this key/value head, dv[s] = Σ_{t ≥ s} p[t, s] dy[t] (0 where dropped, times gain where not) and
// dk[s] = scale · Σ_{t ≥ s} p[t, s] (dp[t, s] - delta[t]) q[t]. D, strides and offsets are multiples of 4.
//
// Grid: clusters of LANES invocations, 32 / LANES clusters a workgroup, workgroups folded into x and y. A cluster computes
// 8 keys × 4·LANES columns (8·LANES if WIDE) of one head's dk and dv: its lanes divide the rows among them for the scores, then
// the columns. Earlier keys, which more rows see, come first. Workgroup memory: none; what lanes share goes by shuffle.

enable subgroups;
// The lanes of a cluster, which follow one another in a subgroup, never part, and no cluster reads another's: that is all that
// the shuffles need.
diagnostic(off, subgroup_uniformity);

struct Sizes {
  B: u32, T: u32, H: u32, G: u32, D: u32,
  qStride: u32, kStride: u32, vStride: u32, qOffset: u32, kOffset: u32, vOffset: u32,
  scale: f32, seed: u32, threshold: u32, gain: f32,
}

@group(0) @binding(0) var<storage, read_write> dkv: array<vec4f>; // dk (B, T, kStride / 4) and dv (B, T, vStride / 4)
@group(0) @binding(1) var<storage, read> dy: array<vec4f>;        // (B, T, H, D / 4)
@group(0) @binding(2) var<storage, read> lse: array<f32>;         // (B, H, T)
@group(0) @binding(3) var<storage, read> delta: array<f32>;       // (B, H, T)
@group(0) @binding(4) var<storage, read> q: array<vec4f>;         // (B, T, qStride / 4)
@group(0) @binding(5) var<storage, read> k: array<vec4f>;         // (B, T, kStride / 4)
@group(0) @binding(6) var<storage, read> v: array<vec4f>;         // (B, T, vStride / 4)
@group(0) @binding(7) var<uniform> sizes: Sizes;

override LANES = 8u; // 4 or 8, at most a subgroup
override WIDE = true;
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

@compute @workgroup_size(32)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
  @builtin(subgroup_invocation_id) invocation: u32,
) {
  let T = sizes.T;
  let D = sizes.D / 4;
  let columns = select(LANES, LANES * 2, WIDE); // of four
  let blocks = (D + columns - 1) / columns;
  let units = sizes.B * sizes.G * blocks;
  let perGroup = 32 / LANES;
  let groupsPerTile = (units + perGroup - 1) / perGroup;
  let tiles = (T + 7) / 8;
  let place = group.x + group.y * groups.x;
  let unit = place % groupsPerTile * perGroup + local / LANES;
  if (place / groupsPerTile >= tiles || unit >= units) { return; }
  let key = place / groupsPerTile * 8;
  let headPair = unit / blocks; // b · G + g
  let b = headPair / sizes.G;
  let g = headPair % sizes.G;
  let readers = sizes.H / sizes.G; // query heads that read this head
  let lane = invocation % LANES;
  let lane0 = invocation - lane;
  let lane4 = select(lane0, lane0 + 4, LANES == 8);

  // Rows, keys and columns beyond the edge repeat the last one; their results are masked or not stored.
  let kHead = (sizes.kOffset + g * sizes.D + b * T * sizes.kStride) / 4;
  let vHead = (sizes.vOffset + g * sizes.D + b * T * sizes.vStride) / 4;
  let qStride = sizes.qStride / 4;
  let dyStride = sizes.H * D;
  let own0 = min(key + lane, T - 1);
  let own4 = min(key + 4 + lane, T - 1);
  let kAt0 = kHead + own0 * (sizes.kStride / 4);
  let kAt4 = kHead + own4 * (sizes.kStride / 4);
  let vAt0 = vHead + own0 * (sizes.vStride / 4);
  let vAt4 = vHead + own4 * (sizes.vStride / 4);
  let column = unit % blocks * columns + lane;
  let columnA = min(column, D - 1);
  let columnB = min(column + LANES, D - 1);

  // Columns of this lane, and if WIDE those LANES further.
  var dk0a = vec4f(0); var dk0b = vec4f(0);
  var dk1a = vec4f(0); var dk1b = vec4f(0);
  var dk2a = vec4f(0); var dk2b = vec4f(0);
  var dk3a = vec4f(0); var dk3b = vec4f(0);
  var dk4a = vec4f(0); var dk4b = vec4f(0);
  var dk5a = vec4f(0); var dk5b = vec4f(0);
  var dk6a = vec4f(0); var dk6b = vec4f(0);
  var dk7a = vec4f(0); var dk7b = vec4f(0);
  var dv0a = vec4f(0); var dv0b = vec4f(0);
  var dv1a = vec4f(0); var dv1b = vec4f(0);
  var dv2a = vec4f(0); var dv2b = vec4f(0);
  var dv3a = vec4f(0); var dv3b = vec4f(0);
  var dv4a = vec4f(0); var dv4b = vec4f(0);
  var dv5a = vec4f(0); var dv5b = vec4f(0);
  var dv6a = vec4f(0); var dv6b = vec4f(0);
  var dv7a = vec4f(0); var dv7b = vec4f(0);

  for (var h = g * readers; h < (g + 1) * readers; h++) {
    let headRow = (b * sizes.H + h) * T;
    let qHead = (sizes.qOffset + h * sizes.D + b * T * sizes.qStride) / 4;
    let dyHead = (b * T * sizes.H + h) * D;
    for (var first = key; first < T; first += LANES * 4) {
      let rows = first + lane * 4 + vec4u(0, 1, 2, 3);
      let inside = min(rows, vec4u(T - 1));
      let qAt = qHead + inside * qStride;
      let dyAt = dyHead + inside * dyStride;
      var s0 = vec4f(0); // key 0, four rows of this lane
      var s1 = vec4f(0);
      var s2 = vec4f(0);
      var s3 = vec4f(0);
      var s4 = vec4f(0);
      var s5 = vec4f(0);
      var s6 = vec4f(0);
      var s7 = vec4f(0);
      var dp0 = vec4f(0);
      var dp1 = vec4f(0);
      var dp2 = vec4f(0);
      var dp3 = vec4f(0);
      var dp4 = vec4f(0);
      var dp5 = vec4f(0);
      var dp6 = vec4f(0);
      var dp7 = vec4f(0);
      for (var d = 0u; d < D; d++) {
        let k0 = k[kAt0 + d];
        let v0 = v[vAt0 + d];
        var k4 = k0;
        var v4 = v0;
        if (LANES == 4) {
          k4 = k[kAt4 + d];
          v4 = v[vAt4 + d];
        }
        let qd = mat4x4f(q[qAt.x + d], q[qAt.y + d], q[qAt.z + d], q[qAt.w + d]);
        s0 += subgroupShuffle(k0, lane0) * qd;
        s1 += subgroupShuffle(k0, lane0 + 1) * qd;
        s2 += subgroupShuffle(k0, lane0 + 2) * qd;
        s3 += subgroupShuffle(k0, lane0 + 3) * qd;
        s4 += subgroupShuffle(k4, lane4) * qd;
        s5 += subgroupShuffle(k4, lane4 + 1) * qd;
        s6 += subgroupShuffle(k4, lane4 + 2) * qd;
        s7 += subgroupShuffle(k4, lane4 + 3) * qd;
        let dyd = mat4x4f(dy[dyAt.x + d], dy[dyAt.y + d], dy[dyAt.z + d], dy[dyAt.w + d]);
        dp0 += subgroupShuffle(v0, lane0) * dyd;
        dp1 += subgroupShuffle(v0, lane0 + 1) * dyd;
        dp2 += subgroupShuffle(v0, lane0 + 2) * dyd;
        dp3 += subgroupShuffle(v0, lane0 + 3) * dyd;
        dp4 += subgroupShuffle(v4, lane4) * dyd;
        dp5 += subgroupShuffle(v4, lane4 + 1) * dyd;
        dp6 += subgroupShuffle(v4, lane4 + 2) * dyd;
        dp7 += subgroupShuffle(v4, lane4 + 3) * dyd;
      }

      let at4 = headRow + inside;
      let lse4 = vec4f(lse[at4.x], lse[at4.y], lse[at4.z], lse[at4.w]);
      let delta4 = vec4f(delta[at4.x], delta[at4.y], delta[at4.z], delta[at4.w]);
      let live = rows < vec4u(T);
      s0 = select(vec4f(0), exp(s0 * sizes.scale - lse4), live & (rows >= vec4u(key)));
      s1 = select(vec4f(0), exp(s1 * sizes.scale - lse4), live & (rows >= vec4u(key + 1)));
      s2 = select(vec4f(0), exp(s2 * sizes.scale - lse4), live & (rows >= vec4u(key + 2)));
      s3 = select(vec4f(0), exp(s3 * sizes.scale - lse4), live & (rows >= vec4u(key + 3)));
      s4 = select(vec4f(0), exp(s4 * sizes.scale - lse4), live & (rows >= vec4u(key + 4)));
      s5 = select(vec4f(0), exp(s5 * sizes.scale - lse4), live & (rows >= vec4u(key + 5)));
      s6 = select(vec4f(0), exp(s6 * sizes.scale - lse4), live & (rows >= vec4u(key + 6)));
      s7 = select(vec4f(0), exp(s7 * sizes.scale - lse4), live & (rows >= vec4u(key + 7)));
      // From here on dp holds the slope of the score and s the weight as it was used.
      let kept0 = kept(headRow + rows, key);
      // A softmax over one key has no slope: row 0 adds nothing, to the last bit.
      dp0 = select(vec4f(0), s0 * (dp0 * kept0 - delta4), rows > vec4u(0));
      s0 *= kept0;
      let kept1 = kept(headRow + rows, key + 1);
      dp1 = s1 * (dp1 * kept1 - delta4);
      s1 *= kept1;
      let kept2 = kept(headRow + rows, key + 2);
      dp2 = s2 * (dp2 * kept2 - delta4);
      s2 *= kept2;
      let kept3 = kept(headRow + rows, key + 3);
      dp3 = s3 * (dp3 * kept3 - delta4);
      s3 *= kept3;
      let kept4 = kept(headRow + rows, key + 4);
      dp4 = s4 * (dp4 * kept4 - delta4);
      s4 *= kept4;
      let kept5 = kept(headRow + rows, key + 5);
      dp5 = s5 * (dp5 * kept5 - delta4);
      s5 *= kept5;
      let kept6 = kept(headRow + rows, key + 6);
      dp6 = s6 * (dp6 * kept6 - delta4);
      s6 *= kept6;
      let kept7 = kept(headRow + rows, key + 7);
      dp7 = s7 * (dp7 * kept7 - delta4);
      s7 *= kept7;

      let quads = min(LANES, (T - first + 3) / 4); // lanes with a row that exists
      for (var j = 0u; j < quads; j++) {
        let near = min(vec4u(first + j * 4) + vec4u(0, 1, 2, 3), vec4u(T - 1)) * qStride;
        let ds0 = subgroupShuffle(dp0, lane0 + j);
        let ds1 = subgroupShuffle(dp1, lane0 + j);
        let ds2 = subgroupShuffle(dp2, lane0 + j);
        let ds3 = subgroupShuffle(dp3, lane0 + j);
        let ds4 = subgroupShuffle(dp4, lane0 + j);
        let ds5 = subgroupShuffle(dp5, lane0 + j);
        let ds6 = subgroupShuffle(dp6, lane0 + j);
        let ds7 = subgroupShuffle(dp7, lane0 + j);
        let qa = qHead + columnA + near;
        let a = mat4x4f(q[qa.x], q[qa.y], q[qa.z], q[qa.w]);
        dk0a += a * ds0;
        dk1a += a * ds1;
        dk2a += a * ds2;
        dk3a += a * ds3;
        dk4a += a * ds4;
        dk5a += a * ds5;
        dk6a += a * ds6;
        dk7a += a * ds7;
        if (WIDE) {
          let qb = qHead + columnB + near;
          let c = mat4x4f(q[qb.x], q[qb.y], q[qb.z], q[qb.w]);
          dk0b += c * ds0;
          dk1b += c * ds1;
          dk2b += c * ds2;
          dk3b += c * ds3;
          dk4b += c * ds4;
          dk5b += c * ds5;
          dk6b += c * ds6;
          dk7b += c * ds7;
        }
      }
      // A loop of its own: one with twice the sums runs out of registers.
      for (var j = 0u; j < quads; j++) {
        let near = min(vec4u(first + j * 4) + vec4u(0, 1, 2, 3), vec4u(T - 1)) * dyStride;
        let p0 = subgroupShuffle(s0, lane0 + j);
        let p1 = subgroupShuffle(s1, lane0 + j);
        let p2 = subgroupShuffle(s2, lane0 + j);
        let p3 = subgroupShuffle(s3, lane0 + j);
        let p4 = subgroupShuffle(s4, lane0 + j);
        let p5 = subgroupShuffle(s5, lane0 + j);
        let p6 = subgroupShuffle(s6, lane0 + j);
        let p7 = subgroupShuffle(s7, lane0 + j);
        let ya = dyHead + columnA + near;
        let a = mat4x4f(dy[ya.x], dy[ya.y], dy[ya.z], dy[ya.w]);
        dv0a += a * p0;
        dv1a += a * p1;
        dv2a += a * p2;
        dv3a += a * p3;
        dv4a += a * p4;
        dv5a += a * p5;
        dv6a += a * p6;
        dv7a += a * p7;
        if (WIDE) {
          let yb = dyHead + columnB + near;
          let c = mat4x4f(dy[yb.x], dy[yb.y], dy[yb.z], dy[yb.w]);
          dv0b += c * p0;
          dv1b += c * p1;
          dv2b += c * p2;
          dv3b += c * p3;
          dv4b += c * p4;
          dv5b += c * p5;
          dv6b += c * p6;
          dv7b += c * p7;
        }
      }
    }
  }

  let end = min(key + 8, T);
  for (var m = 0u; m < end - key; m++) {
    // A loop over the keys keeps the stores few: each is compiled into many blocks on software drivers.
    var ka = dk0a;
    var kb = dk0b;
    var va = dv0a;
    var vb = dv0b;
    if (m == 1) { ka = dk1a; kb = dk1b; va = dv1a; vb = dv1b; }
    if (m == 2) { ka = dk2a; kb = dk2b; va = dv2a; vb = dv2b; }
    if (m == 3) { ka = dk3a; kb = dk3b; va = dv3a; vb = dv3b; }
    if (m == 4) { ka = dk4a; kb = dk4b; va = dv4a; vb = dv4b; }
    if (m == 5) { ka = dk5a; kb = dk5b; va = dv5a; vb = dv5b; }
    if (m == 6) { ka = dk6a; kb = dk6b; va = dv6a; vb = dv6b; }
    if (m == 7) { ka = dk7a; kb = dk7b; va = dv7a; vb = dv7b; }
    let kTo = kHead + (key + m) * (sizes.kStride / 4) + column;
    let vTo = vHead + (key + m) * (sizes.vStride / 4) + column;
    if (column < D) {
      dkv[kTo] = ka * sizes.scale;
      dkv[vTo] = va;
    }
    if (WIDE) {
      if (column + LANES < D) {
        dkv[kTo + LANES] = kb * sizes.scale;
        dkv[vTo + LANES] = vb;
      }
    }
  }
}
