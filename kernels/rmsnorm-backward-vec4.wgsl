// rmsnorm-backward.wgsl for C a multiple of 4, with loads of four: dx = r · (g - n · mean(g · n)), g = dy · w,
// n = x · r, the mean over the C channels of the row. With ADD dx += that.
//
// Grid: one workgroup of LANES per row, folded into x and y. Workgroup memory: 4 LANES bytes.

override ADD: bool = false;
override LANES: u32 = 64;

struct Sizes { M: u32, C: u32 }

@group(0) @binding(0) var<storage, read_write> dx: array<vec4f>; // (M, C)
@group(0) @binding(1) var<storage, read> dy: array<vec4f>;       // (M, C)
@group(0) @binding(2) var<storage, read> x: array<vec4f>;        // (M, C)
@group(0) @binding(3) var<storage, read> stats: array<f32>;      // (M): r
@group(0) @binding(4) var<storage, read> w: array<vec4f>;        // (C)
@group(0) @binding(5) var<uniform> sizes: Sizes;

var<workgroup> shares: array<f32, LANES>; // sums of g · n

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
  let r = stats[row];
  var share = 0.0;
  for (var c = local; c < fours; c += LANES) { share += dot(dy[at + c] * w[c], x[at + c]) * r; }
  shares[local] = share;
  workgroupBarrier();

  var total = 0.0;
  for (var k = 0u; k < LANES; k++) { total += shares[k]; }
  total /= f32(sizes.C);
  for (var c = local; c < fours; c += LANES) {
    var value = r * (dy[at + c] * w[c] - x[at + c] * r * total);
    if (ADD) { value += dx[at + c]; }
    dx[at + c] = value;
  }
}
