// layernorm.wgsl for C a multiple of 4, with loads of four: y = (x - mean) · rstd · w + b over each row,
// rstd = 1 / √(variance + eps); without BIAS no b.
// Shares are merged as there.
//
// Grid: one workgroup of LANES per row, folded into x and y. Workgroup memory: 8 LANES bytes.

override BIAS: bool = true;
override LANES: u32 = 64;

struct Sizes { M: u32, C: u32, eps: f32 }

@group(0) @binding(0) var<storage, read_write> y: array<vec4f>;     // (M, C)
@group(0) @binding(1) var<storage, read_write> stats: array<vec2f>; // (M): mean and rstd
@group(0) @binding(2) var<storage, read> x: array<vec4f>;           // (M, C)
@group(0) @binding(3) var<storage, read> w: array<vec4f>;           // (C)
@group(0) @binding(4) var<storage, read> b: array<vec4f>;           // (C), anything without BIAS
@group(0) @binding(5) var<uniform> sizes: Sizes;

var<workgroup> shares: array<vec2f, LANES>; // sum, and squares about the share's own mean

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let row = group.x + group.y * groups.x;
  if (row >= sizes.M) { return; }
  let fours = sizes.C / 4;
  let at = row * fours;

  var sums = vec4f(0);
  for (var c = local; c < fours; c += LANES) { sums += x[at + c]; }
  let sum = dot(sums, vec4f(1));
  let own = sum / f32(max(4, (fours + LANES - 1 - local) / LANES * 4));
  var squares = 0.0;
  for (var c = local; c < fours; c += LANES) {
    let d = x[at + c] - own;
    squares += dot(d, d);
  }
  shares[local] = vec2f(sum, squares);
  workgroupBarrier();

  var total = 0.0;
  for (var k = 0u; k < LANES; k++) { total += shares[k].x; }
  let mean = total / f32(sizes.C);
  var deviation = 0.0;
  for (var k = 0u; k < LANES; k++) {
    let n = f32((fours + LANES - 1 - k) / LANES * 4);
    let d = shares[k].x - n * mean;
    deviation += shares[k].y + d * d / max(n, 1.0);
  }
  let rstd = inverseSqrt(deviation / f32(sizes.C) + sizes.eps);
  if (local == 0) { stats[row] = vec2f(mean, rstd); }
  for (var c = local; c < fours; c += LANES) {
    var value = (x[at + c] - mean) * rstd * w[c];
    if (BIAS) { value += b[c]; }
    y[at + c] = value;
  }
}
