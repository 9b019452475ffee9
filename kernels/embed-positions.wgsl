// y[i] += w[start + i mod T]: learned positions, added to the embedded tokens of sequences of T tokens.
//
// Grid: one workgroup of 64 per row, folded into x and y. Workgroup memory: none.

struct Sizes { rows: u32, T: u32, C: u32, start: u32 }

@group(0) @binding(0) var<storage, read_write> y: array<f32>; // (rows, C)
@group(0) @binding(1) var<storage, read> w: array<f32>;       // (start + T or more, C)
@group(0) @binding(2) var<uniform> sizes: Sizes;

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let row = group.x + group.y * groups.x;
  if (row >= sizes.rows) { return; }
  let entry = sizes.start + row % sizes.T;
  for (var c = local; c < sizes.C; c += 64) { y[row * sizes.C + c] += w[entry * sizes.C + c]; }
}
