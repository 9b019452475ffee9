// dwParts[k, c] = Σ dy · (x - mean) · rstd and dbParts[k, c] = Σ dy over the k-th `span` rows of column c: partial sums, which
// bias-backward.wgsl adds to dw and db in an order that never changes.
//
// Grid: one invocation per column, 64 a workgroup, the columns of one span of rows after those of another, folded into x and y.
// Workgroup memory: none.

struct Sizes { M: u32, C: u32, span: u32 }

@group(0) @binding(0) var<storage, read_write> dwParts: array<f32>; // (⌈M / span⌉, C)
@group(0) @binding(1) var<storage, read_write> dbParts: array<f32>; // (⌈M / span⌉, C)
@group(0) @binding(2) var<storage, read> dy: array<f32>;            // (M, C)
@group(0) @binding(3) var<storage, read> x: array<f32>;             // (M, C)
@group(0) @binding(4) var<storage, read> stats: array<vec2f>;       // (M): mean and rstd
@group(0) @binding(5) var<uniform> sizes: Sizes;

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let number = group.x + group.y * groups.x;
  let blocks = (sizes.C + 63) / 64;
  let part = number / blocks;
  let col = number % blocks * 64 + local;
  let begin = part * sizes.span;
  if (begin >= sizes.M || col >= sizes.C) { return; }
  var dw = 0.0;
  var db = 0.0;
  for (var row = begin; row < min(begin + sizes.span, sizes.M); row++) {
    let g = dy[row * sizes.C + col];
    dw += g * (x[row * sizes.C + col] - stats[row].x) * stats[row].y;
    db += g;
  }
  dwParts[part * sizes.C + col] = dw;
  dbParts[part * sizes.C + col] = db;
}
