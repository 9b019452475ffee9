// y[i] = w[ids[i] - first] for the rows i whose id lies in [first, first + count); with ADD y[i] += that. Other rows are left
// alone, so that a table beyond one binding comes in windows.
//
// Grid: one workgroup of 64 per row, folded into x and y. Workgroup memory: none.

override ADD: bool = false;

struct Sizes { rows: u32, C: u32, first: u32, count: u32 }

@group(0) @binding(0) var<storage, read_write> y: array<f32>; // (rows, C)
@group(0) @binding(1) var<storage, read> ids: array<i32>;     // (rows)
@group(0) @binding(2) var<storage, read> w: array<f32>;       // (count, C)
@group(0) @binding(3) var<uniform> sizes: Sizes;

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let row = group.x + group.y * groups.x;
  if (row >= sizes.rows) { return; }
  let entry = u32(ids[row]) - sizes.first; // huge where the id is below first or negative
  if (entry >= sizes.count) { return; }
  for (var c = local; c < sizes.C; c += 64) {
    var value = w[entry * sizes.C + c];
    if (ADD) { value += y[row * sizes.C + c]; }
    y[row * sizes.C + c] = value;
  }
}
