// rmsnorm.wgsl for C a multiple of 4, with loads of four: y = x · r · w over each row, r = 1 / √(mean(x²) + eps).
//
// Grid: one workgroup of LANES per row, folded into x and y. Workgroup memory: 4 LANES bytes.

override LANES: u32 = 64;

struct Sizes { M: u32, C: u32, eps: f32 }

@group(0) @binding(0) var<storage, read_write> y: array<vec4f>;   // (M, C)
@group(0) @binding(1) var<storage, read_write> stats: array<f32>; // (M): r
@group(0) @binding(2) var<storage, read> x: array<vec4f>;         // (M, C)
@group(0) @binding(3) var<storage, read> w: array<vec4f>;         // (C)
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
  let fours = sizes.C / 4;
  let at = row * fours;
  var squares = 0.0;
  for (var c = local; c < fours; c += LANES) { squares += dot(x[at + c], x[at + c]); }
  shares[local] = squares;
  workgroupBarrier();

  var total = 0.0;
  for (var k = 0u; k < LANES; k++) { total += shares[k]; }
  let r = inverseSqrt(total / f32(sizes.C) + sizes.eps);
  if (local == 0) { stats[row] = r; }
  for (var c = local; c < fours; c += LANES) { y[at + c] = x[at + c] * r * w[c]; }
}
