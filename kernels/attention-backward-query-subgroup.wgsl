// dq of attention.wgsl: with p[t, s] = exp(scale · q[t] · k[s] - lse[t]) and dp[t, s] = dy[t] · v[s] (0 where dropped, times gain
// where not), dq[t] = scale · Σ_{s ≤ t} p[t, s] (dp[t, s] - delta[t]) k[s]. D, strides and offsets are multiples of 4.
//
// Grid: clusters of LANES invocations, 32 / LANES clusters a workgroup, workgroups folded into x and y. A cluster computes
// 8 rows × 4·LANES columns (8·LANES if WIDE) of one head's dq: its lanes divide the keys among them for the scores, then the
// columns. Later rows, which are longer, come first. Workgroup memory: none; what lanes share goes by shuffle.

enable subgroups;
// The lanes of a cluster, which follow one another in a subgroup, never part, and no cluster reads another's: that is all that
// the shuffles need.
diagnostic(off, subgroup_uniformity);

struct Sizes {
  B: u32, T: u32, H: u32, G: u32, D: u32,
  qStride: u32, kStride: u32, vStride: u32, qOffset: u32, kOffset: u32, vOffset: u32,
  scale: f32, seed: u32, threshold: u32, gain: f32,
}

@group(0) @binding(0) var<storage, read_write> dq: array<vec4f>;  // (B, T, qStride / 4)
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
  let units = sizes.B * sizes.H * blocks;
  let perGroup = 32 / LANES;
  let groupsPerTile = (units + perGroup - 1) / perGroup;
  let tiles = (T + 7) / 8;
  let place = group.x + group.y * groups.x;
  let unit = place % groupsPerTile * perGroup + local / LANES;
  if (place / groupsPerTile >= tiles || unit >= units) { return; }
  let row = (tiles - 1 - place / groupsPerTile) * 8;
  let headRow = unit / blocks; // b · H + h
  let b = headRow / sizes.H;
  let h = headRow % sizes.H;
  let g = h / (sizes.H / sizes.G);
  let lane = invocation % LANES;
  let lane0 = invocation - lane;
  let lane4 = select(lane0, lane0 + 4, LANES == 8);

  // Rows, keys and columns beyond the edge repeat the last one; their results are masked or not stored.
  let qHead = (sizes.qOffset + h * sizes.D + b * T * sizes.qStride) / 4;
  let kHead = (sizes.kOffset + g * sizes.D + b * T * sizes.kStride) / 4;
  let vHead = (sizes.vOffset + g * sizes.D + b * T * sizes.vStride) / 4;
  let qStride = sizes.qStride / 4;
  let kStride = sizes.kStride / 4;
  let vStride = sizes.vStride / 4;
  let own0 = min(row + lane, T - 1);
  let own4 = min(row + 4 + lane, T - 1);
  let qAt0 = qHead + own0 * qStride;
  let qAt4 = qHead + own4 * qStride;
  let dyAt0 = ((b * T + own0) * sizes.H + h) * D;
  let dyAt4 = ((b * T + own4) * sizes.H + h) * D;
  let lse0 = lse[headRow * T + own0]; // of row `lane`
  let delta0 = delta[headRow * T + own0];
  var lse4 = lse0;
  var delta4 = delta0;
  if (LANES == 4) {
    lse4 = lse[headRow * T + own4];
    delta4 = delta[headRow * T + own4];
  }
  let column = unit % blocks * columns + lane;
  let ka = kHead + min(column, D - 1);
  let kb = kHead + min(column + LANES, D - 1);

  // Columns of this lane, and if WIDE those LANES further.
  var dq0a = vec4f(0); var dq0b = vec4f(0);
  var dq1a = vec4f(0); var dq1b = vec4f(0);
  var dq2a = vec4f(0); var dq2b = vec4f(0);
  var dq3a = vec4f(0); var dq3b = vec4f(0);
  var dq4a = vec4f(0); var dq4b = vec4f(0);
  var dq5a = vec4f(0); var dq5b = vec4f(0);
  var dq6a = vec4f(0); var dq6b = vec4f(0);
  var dq7a = vec4f(0); var dq7b = vec4f(0);

  let end = min(row + 8, T);
  for (var first = 0u; first < end; first += LANES * 4) {
    let keys = first + lane * 4 + vec4u(0, 1, 2, 3);
    let inside = min(keys, vec4u(T - 1));
    let kAt = kHead + inside * kStride;
    let vAt = vHead + inside * vStride;
    var s0 = vec4f(0); // row 0, four keys of this lane
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
      let q0 = q[qAt0 + d];
      let dy0 = dy[dyAt0 + d];
      var q4 = q0;
      var dy4 = dy0;
      if (LANES == 4) {
        q4 = q[qAt4 + d];
        dy4 = dy[dyAt4 + d];
      }
      let kd = mat4x4f(k[kAt.x + d], k[kAt.y + d], k[kAt.z + d], k[kAt.w + d]);
      s0 += subgroupShuffle(q0, lane0) * kd;
      s1 += subgroupShuffle(q0, lane0 + 1) * kd;
      s2 += subgroupShuffle(q0, lane0 + 2) * kd;
      s3 += subgroupShuffle(q0, lane0 + 3) * kd;
      s4 += subgroupShuffle(q4, lane4) * kd;
      s5 += subgroupShuffle(q4, lane4 + 1) * kd;
      s6 += subgroupShuffle(q4, lane4 + 2) * kd;
      s7 += subgroupShuffle(q4, lane4 + 3) * kd;
      let vd = mat4x4f(v[vAt.x + d], v[vAt.y + d], v[vAt.z + d], v[vAt.w + d]);
      dp0 += subgroupShuffle(dy0, lane0) * vd;
      dp1 += subgroupShuffle(dy0, lane0 + 1) * vd;
      dp2 += subgroupShuffle(dy0, lane0 + 2) * vd;
      dp3 += subgroupShuffle(dy0, lane0 + 3) * vd;
      dp4 += subgroupShuffle(dy4, lane4) * vd;
      dp5 += subgroupShuffle(dy4, lane4 + 1) * vd;
      dp6 += subgroupShuffle(dy4, lane4 + 2) * vd;
      dp7 += subgroupShuffle(dy4, lane4 + 3) * vd;
    }
    let mask = headRow * T + row;
    s0 = slope(s0, dp0 * kept(mask, keys), subgroupShuffle(lse0, lane0), subgroupShuffle(delta0, lane0), row, keys);
    s1 = slope(s1, dp1 * kept(mask + 1, keys), subgroupShuffle(lse0, lane0 + 1), subgroupShuffle(delta0, lane0 + 1), row + 1, keys);
    s2 = slope(s2, dp2 * kept(mask + 2, keys), subgroupShuffle(lse0, lane0 + 2), subgroupShuffle(delta0, lane0 + 2), row + 2, keys);
    s3 = slope(s3, dp3 * kept(mask + 3, keys), subgroupShuffle(lse0, lane0 + 3), subgroupShuffle(delta0, lane0 + 3), row + 3, keys);
    s4 = slope(s4, dp4 * kept(mask + 4, keys), subgroupShuffle(lse4, lane4), subgroupShuffle(delta4, lane4), row + 4, keys);
    s5 = slope(s5, dp5 * kept(mask + 5, keys), subgroupShuffle(lse4, lane4 + 1), subgroupShuffle(delta4, lane4 + 1), row + 5, keys);
    s6 = slope(s6, dp6 * kept(mask + 6, keys), subgroupShuffle(lse4, lane4 + 2), subgroupShuffle(delta4, lane4 + 2), row + 6, keys);
    s7 = slope(s7, dp7 * kept(mask + 7, keys), subgroupShuffle(lse4, lane4 + 3), subgroupShuffle(delta4, lane4 + 3), row + 7, keys);

    let quads = min(LANES, (end - first + 3) / 4); // lanes with a key that counts
    for (var j = 0u; j < quads; j++) {
      let at = min(vec4u(first + j * 4) + vec4u(0, 1, 2, 3), vec4u(T - 1)) * kStride;
      let ds0 = subgroupShuffle(s0, lane0 + j);
      let ds1 = subgroupShuffle(s1, lane0 + j);
      let ds2 = subgroupShuffle(s2, lane0 + j);
      let ds3 = subgroupShuffle(s3, lane0 + j);
      let ds4 = subgroupShuffle(s4, lane0 + j);
      let ds5 = subgroupShuffle(s5, lane0 + j);
      let ds6 = subgroupShuffle(s6, lane0 + j);
      let ds7 = subgroupShuffle(s7, lane0 + j);
      let a = mat4x4f(k[ka + at.x], k[ka + at.y], k[ka + at.z], k[ka + at.w]);
      dq0a += a * ds0;
      dq1a += a * ds1;
      dq2a += a * ds2;
      dq3a += a * ds3;
      dq4a += a * ds4;
      dq5a += a * ds5;
      dq6a += a * ds6;
      dq7a += a * ds7;
      if (WIDE) {
        let c = mat4x4f(k[kb + at.x], k[kb + at.y], k[kb + at.z], k[kb + at.w]);
        dq0b += c * ds0;
        dq1b += c * ds1;
        dq2b += c * ds2;
        dq3b += c * ds3;
        dq4b += c * ds4;
        dq5b += c * ds5;
        dq6b += c * ds6;
        dq7b += c * ds7;
      }
    }
  }

  for (var m = 0u; m < end - row; m++) {
    // A loop over the rows keeps the stores few: each is compiled into many blocks on software drivers.
    var a = dq0a;
    var b = dq0b;
    if (m == 1) { a = dq1a; b = dq1b; }
    if (m == 2) { a = dq2a; b = dq2b; }
    if (m == 3) { a = dq3a; b = dq3b; }
    if (m == 4) { a = dq4a; b = dq4b; }
    if (m == 5) { a = dq5a; b = dq5b; }
    if (m == 6) { a = dq6a; b = dq6b; }
    if (m == 7) { a = dq7a; b = dq7b; }
    let at = qHead + (row + m) * qStride + column;
    if (column < D) { dq[at] = a * sizes.scale; }
    if (WIDE) { if (column + LANES < D) { dq[at + LANES] = b * sizes.scale; } }
  }
}
