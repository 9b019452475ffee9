// y = x · r · w over the C channels of each row, r = 1 / √(mean(x²) + eps) (Zhang & Sennrich 2019).
//
// Grid: one workgroup of LANES per row, folded into x and y. Workgroup memory: 4 LANES bytes.

override LANES: u32 = 64;

struct Sizes { M: u32, C: u32, eps: f32 }

@group(0) @binding(0) var<storage, read_write> y: array<f32>;     // (M, C)
@group(0) @binding(1) var<storage, read_write> stats: array<f32>; // (M): r
@group(0) @binding(2) var<storage, read> x: array<f32>;           // (M, C)
@group(0) @binding(3) var<storage, read> w: array<f32>;           // (C)
@group(0) @binding(4) var<uniform> sizes: Sizes;

var<workgroup> shares: array<f32, LANES>; // sums of squares

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
  var squares = 0.0;
  for (var c = local; c < C; c += LANES) { squares += x[at + c] * x[at + c]; }
  shares[local] = squares;
  workgroupBarrier();

  var total = 0.0;
  for (var k = 0u; k < LANES; k++) { total += shares[k]; }
  let r = inverseSqrt(total / f32(C) + sizes.eps);
  if (local == 0) { stats[row] = r; }
  for (var c = local; c < C; c += LANES) { y[at + c] = x[at + c] * r * w[c]; }
}
