// dx = rstd · (g - mean(g) - n · mean(g · n)), g = dy · w, n = (x - mean) · rstd, means over the C channels of the row.
// With ADD dx += that. The gradients of w and b are layernorm-backward-weights.wgsl.
//
// Grid: one workgroup of LANES per row, folded into x and y. Workgroup memory: 8 LANES bytes.

override ADD: bool = false;
override LANES: u32 = 64;

struct Sizes { M: u32, C: u32 }

@group(0) @binding(0) var<storage, read_write> dx: array<f32>; // (M, C)
@group(0) @binding(1) var<storage, read> dy: array<f32>;       // (M, C)
@group(0) @binding(2) var<storage, read> x: array<f32>;        // (M, C)
@group(0) @binding(3) var<storage, read> stats: array<vec2f>;  // (M): mean and rstd
@group(0) @binding(4) var<storage, read> w: array<f32>;        // (C)
@group(0) @binding(5) var<uniform> sizes: Sizes;

var<workgroup> shares: array<vec2f, LANES>; // sums of g and of g · n

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
  let mean = stats[row].x;
  let rstd = stats[row].y;

  var share = vec2f(0);
  for (var c = local; c < C; c += LANES) {
    let g = dy[at + c] * w[c];
    share += vec2f(g, g * (x[at + c] - mean) * rstd);
  }
  shares[local] = share;
  workgroupBarrier();

  var total = vec2f(0);
  for (var k = 0u; k < LANES; k++) { total += shares[k]; }
  total /= f32(C);
  for (var c = local; c < C; c += LANES) {
    let n = (x[at + c] - mean) * rstd;
    var value = rstd * (dy[at + c] * w[c] - total.x - n * total.y);
    if (ADD) { value += dx[at + c]; }
    dx[at + c] = value;
  }
}
