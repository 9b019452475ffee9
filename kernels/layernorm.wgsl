// y = (x - mean) · rstd · w + b over the C channels of each row, rstd = 1 / √(variance + eps); without BIAS no b.
// The variance is about the true mean: each invocation takes the sum of its share and the squares about its own mean, and the
// shares are merged (Chan, Golub & LeVeque 1983), which costs one barrier and loses nothing where the mean is large.
//
// Grid: one workgroup of LANES per row, folded into x and y. Workgroup memory: 8 LANES bytes.

override BIAS: bool = true;
override LANES: u32 = 64;

struct Sizes { M: u32, C: u32, eps: f32 }

@group(0) @binding(0) var<storage, read_write> y: array<f32>;       // (M, C)
@group(0) @binding(1) var<storage, read_write> stats: array<vec2f>; // (M): mean and rstd
@group(0) @binding(2) var<storage, read> x: array<f32>;             // (M, C)
@group(0) @binding(3) var<storage, read> w: array<f32>;             // (C)
@group(0) @binding(4) var<storage, read> b: array<f32>;             // (C), anything without BIAS
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
  let C = sizes.C;
  let at = row * C;

  var sum = 0.0;
  for (var c = local; c < C; c += LANES) { sum += x[at + c]; }
  let own = sum / f32(max(1, (C + LANES - 1 - local) / LANES));
  var squares = 0.0;
  for (var c = local; c < C; c += LANES) {
    let d = x[at + c] - own;
    squares += d * d;
  }
  shares[local] = vec2f(sum, squares);
  workgroupBarrier();

  var total = 0.0;
  for (var k = 0u; k < LANES; k++) { total += shares[k].x; }
  let mean = total / f32(C);
  var deviation = 0.0;
  for (var k = 0u; k < LANES; k++) {
    let n = f32((C + LANES - 1 - k) / LANES);
    let d = shares[k].x - n * mean;
    deviation += shares[k].y + d * d / max(n, 1.0);
  }
  let rstd = inverseSqrt(deviation / f32(C) + sizes.eps);
  if (local == 0) { stats[row] = vec2f(mean, rstd); }
  for (var c = local; c < C; c += LANES) {
    var value = (x[at + c] - mean) * rstd * w[c];
    if (BIAS) { value += b[c]; }
    y[at + c] = value;
  }
}
