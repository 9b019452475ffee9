// y = max(x, 0)
//
// Grid: one invocation per element, 64 a workgroup, workgroups folded into x and y. Workgroup memory: none.

struct Sizes { count: u32 }

@group(0) @binding(0) var<storage, read_write> y: array<f32>; // (count)
@group(0) @binding(1) var<storage, read> x: array<f32>;       // (count)
@group(0) @binding(2) var<uniform> sizes: Sizes;

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let i = (group.x + group.y * groups.x) * 64 + local;
  if (i >= sizes.count) { return; }
  y[i] = max(x[i], 0.0);
}
