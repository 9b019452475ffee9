// Causal self-attention: y[t] = Σ_{s ≤ t} softmax_s(scale · q[t] · k[s]) v[s], and lse[t] = log Σ_{s ≤ t} exp(scale · q[t] · k[s]),
// per head, in one pass over the keys with a running maximum and sum; no (T, T) matrix. D and all strides and offsets are
// multiples of 4: attention.wgsl is for the rest. Query head h reads key/value head h / (H / G).
// DROPOUT: a weight is dropped where its hash is below `threshold`, and the others are multiplied by `gain`.
//
// Grid: clusters of LANES invocations, 32 / LANES clusters a workgroup, workgroups folded into x and y. A cluster computes
// 8 rows × 4·LANES columns (8·LANES if WIDE) of one head's y: its lanes divide the keys among them for the scores, then the
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

@group(0) @binding(0) var<storage, read_write> y: array<vec4f>;   // (B, T, H, D / 4)
@group(0) @binding(1) var<storage, read_write> lse: array<f32>;   // (B, H, T)
@group(0) @binding(2) var<storage, read> q: array<vec4f>;         // (B, T, qStride / 4)
@group(0) @binding(3) var<storage, read> k: array<vec4f>;         // (B, T, kStride / 4)
@group(0) @binding(4) var<storage, read> v: array<vec4f>;         // (B, T, vStride / 4)
@group(0) @binding(5) var<uniform> sizes: Sizes;

override LANES = 8u; // 4 or 8, at most a subgroup
override WIDE = true;
override DROPOUT = false;

const MASKED = -1e30;

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

fn clusterMax(x: vec4f) -> vec4f {
  var m = max(x, subgroupShuffleXor(x, 1));
  m = max(m, subgroupShuffleXor(m, 2));
  if (LANES == 8) { m = max(m, subgroupShuffleXor(m, 4)); }
  return m;
}

fn clusterSum(x: vec4f) -> vec4f {
  var m = x + subgroupShuffleXor(x, 1);
  m += subgroupShuffleXor(m, 2);
  if (LANES == 8) { m += subgroupShuffleXor(m, 4); }
  return m;
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
  let qAt = qHead + min(row + lane, T - 1) * qStride;
  let qAt4 = qHead + min(row + 4 + lane, T - 1) * qStride;
  let column = unit % blocks * columns + lane;
  let va = vHead + min(column, D - 1);
  let vb = vHead + min(column + LANES, D - 1);

  var top0 = vec4f(MASKED); // largest score so far of rows 0 to 3
  var top4 = vec4f(MASKED);
  var total0 = vec4f(0); // of this lane's keys
  var total4 = vec4f(0);
  // Columns of this lane, and if WIDE those LANES further.
  var y0a = vec4f(0); var y0b = vec4f(0);
  var y1a = vec4f(0); var y1b = vec4f(0);
  var y2a = vec4f(0); var y2b = vec4f(0);
  var y3a = vec4f(0); var y3b = vec4f(0);
  var y4a = vec4f(0); var y4b = vec4f(0);
  var y5a = vec4f(0); var y5b = vec4f(0);
  var y6a = vec4f(0); var y6b = vec4f(0);
  var y7a = vec4f(0); var y7b = vec4f(0);

  let end = min(row + 8, T);
  for (var first = 0u; first < end; first += LANES * 4) {
    let keys = first + lane * 4 + vec4u(0, 1, 2, 3);
    let kAt = kHead + min(keys, vec4u(T - 1)) * kStride;
    var s0 = vec4f(0); // row 0, four keys of this lane
    var s1 = vec4f(0);
    var s2 = vec4f(0);
    var s3 = vec4f(0);
    var s4 = vec4f(0);
    var s5 = vec4f(0);
    var s6 = vec4f(0);
    var s7 = vec4f(0);
    for (var d = 0u; d < D; d++) {
      let q0 = q[qAt + d];
      var q4 = q0;
      if (LANES == 4) { q4 = q[qAt4 + d]; }
      let kd = mat4x4f(k[kAt.x + d], k[kAt.y + d], k[kAt.z + d], k[kAt.w + d]);
      s0 += subgroupShuffle(q0, lane0) * kd;
      s1 += subgroupShuffle(q0, lane0 + 1) * kd;
      s2 += subgroupShuffle(q0, lane0 + 2) * kd;
      s3 += subgroupShuffle(q0, lane0 + 3) * kd;
      s4 += subgroupShuffle(q4, lane4) * kd;
      s5 += subgroupShuffle(q4, lane4 + 1) * kd;
      s6 += subgroupShuffle(q4, lane4 + 2) * kd;
      s7 += subgroupShuffle(q4, lane4 + 3) * kd;
    }
    s0 = select(vec4f(MASKED), s0 * sizes.scale, keys <= vec4u(row));
    s1 = select(vec4f(MASKED), s1 * sizes.scale, keys <= vec4u(row + 1));
    s2 = select(vec4f(MASKED), s2 * sizes.scale, keys <= vec4u(row + 2));
    s3 = select(vec4f(MASKED), s3 * sizes.scale, keys <= vec4u(row + 3));
    s4 = select(vec4f(MASKED), s4 * sizes.scale, keys <= vec4u(row + 4));
    s5 = select(vec4f(MASKED), s5 * sizes.scale, keys <= vec4u(row + 5));
    s6 = select(vec4f(MASKED), s6 * sizes.scale, keys <= vec4u(row + 6));
    s7 = select(vec4f(MASKED), s7 * sizes.scale, keys <= vec4u(row + 7));

    let new0 = max(top0, clusterMax(vec4f(largest(s0), largest(s1), largest(s2), largest(s3))));
    let new4 = max(top4, clusterMax(vec4f(largest(s4), largest(s5), largest(s6), largest(s7))));
    let shrink0 = exp(top0 - new0);
    let shrink4 = exp(top4 - new4);
    top0 = new0;
    top4 = new4;
    s0 = exp(s0 - new0.x);
    s1 = exp(s1 - new0.y);
    s2 = exp(s2 - new0.z);
    s3 = exp(s3 - new0.w);
    s4 = exp(s4 - new4.x);
    s5 = exp(s5 - new4.y);
    s6 = exp(s6 - new4.z);
    s7 = exp(s7 - new4.w);
    total0 = total0 * shrink0 + vec4f(sum(s0), sum(s1), sum(s2), sum(s3));
    total4 = total4 * shrink4 + vec4f(sum(s4), sum(s5), sum(s6), sum(s7));
    y0a *= shrink0.x;
    y1a *= shrink0.y;
    y2a *= shrink0.z;
    y3a *= shrink0.w;
    y4a *= shrink4.x;
    y5a *= shrink4.y;
    y6a *= shrink4.z;
    y7a *= shrink4.w;
    if (WIDE) {
      y0b *= shrink0.x;
      y1b *= shrink0.y;
      y2b *= shrink0.z;
      y3b *= shrink0.w;
      y4b *= shrink4.x;
      y5b *= shrink4.y;
      y6b *= shrink4.z;
      y7b *= shrink4.w;
    }
    let mask = headRow * T + row;
    s0 *= kept(mask, keys);
    s1 *= kept(mask + 1, keys);
    s2 *= kept(mask + 2, keys);
    s3 *= kept(mask + 3, keys);
    s4 *= kept(mask + 4, keys);
    s5 *= kept(mask + 5, keys);
    s6 *= kept(mask + 6, keys);
    s7 *= kept(mask + 7, keys);

    let quads = min(LANES, (end - first + 3) / 4); // lanes with a key that counts
    for (var j = 0u; j < quads; j++) {
      let vAt = min(vec4u(first + j * 4) + vec4u(0, 1, 2, 3), vec4u(T - 1)) * vStride;
      let p0 = subgroupShuffle(s0, lane0 + j);
      let p1 = subgroupShuffle(s1, lane0 + j);
      let p2 = subgroupShuffle(s2, lane0 + j);
      let p3 = subgroupShuffle(s3, lane0 + j);
      let p4 = subgroupShuffle(s4, lane0 + j);
      let p5 = subgroupShuffle(s5, lane0 + j);
      let p6 = subgroupShuffle(s6, lane0 + j);
      let p7 = subgroupShuffle(s7, lane0 + j);
      let a = mat4x4f(v[va + vAt.x], v[va + vAt.y], v[va + vAt.z], v[va + vAt.w]);
      y0a += a * p0;
      y1a += a * p1;
      y2a += a * p2;
      y3a += a * p3;
      y4a += a * p4;
      y5a += a * p5;
      y6a += a * p6;
      y7a += a * p7;
      if (WIDE) {
        let c = mat4x4f(v[vb + vAt.x], v[vb + vAt.y], v[vb + vAt.z], v[vb + vAt.w]);
        y0b += c * p0;
        y1b += c * p1;
        y2b += c * p2;
        y3b += c * p3;
        y4b += c * p4;
        y5b += c * p5;
        y6b += c * p6;
        y7b += c * p7;
      }
    }
  }

  total0 = clusterSum(total0);
  total4 = clusterSum(total4);
  for (var m = 0u; m < end - row; m++) {
    // A loop over the rows keeps the stores few: each is compiled into many blocks on software drivers.
    var a = y0a; var c = y0b; var rowTotal = total0.x; var rowTop = top0.x;
    if (m == 1) { a = y1a; c = y1b; rowTotal = total0.y; rowTop = top0.y; }
    if (m == 2) { a = y2a; c = y2b; rowTotal = total0.z; rowTop = top0.z; }
    if (m == 3) { a = y3a; c = y3b; rowTotal = total0.w; rowTop = top0.w; }
    if (m == 4) { a = y4a; c = y4b; rowTotal = total4.x; rowTop = top4.x; }
    if (m == 5) { a = y5a; c = y5b; rowTotal = total4.y; rowTop = top4.y; }
    if (m == 6) { a = y6a; c = y6b; rowTotal = total4.z; rowTop = top4.z; }
    if (m == 7) { a = y7a; c = y7b; rowTotal = total4.w; rowTop = top4.w; }
    let yAt = ((b * T + row + m) * sizes.H + h) * D + column;
    if (column < D) { y[yAt] = a / rowTotal; }
    if (WIDE) { if (column + LANES < D) { y[yAt + LANES] = c / rowTotal; } }
    if (column == 0) { lse[headRow * T + row + m] = rowTop + log(rowTotal); }
  }
}
