// dw[t] += Σ dy[i] over the rows i with i mod T = t.
//
// Grid: one workgroup of 64 per position, folded into x and y. Workgroup memory: none.

struct Sizes { rows: u32, T: u32, C: u32 }

@group(0) @binding(0) var<storage, read_write> dw: array<f32>; // (T or more, C)
@group(0) @binding(1) var<storage, read> dy: array<f32>;       // (rows, C)
@group(0) @binding(2) var<uniform> sizes: Sizes;

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let t = group.x + group.y * groups.x;
  if (t >= sizes.T) { return; }
  for (var c = local; c < sizes.C; c += 64) {
    var sum = 0.0;
    for (var row = t; row < sizes.rows; row += sizes.T) { sum += dy[row * sizes.C + c]; }
    dw[t * sizes.C + c] += sum;
  }
}
