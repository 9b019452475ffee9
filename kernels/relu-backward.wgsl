// dx = dy where x > 0, else 0 (0 at x = 0, as PyTorch has it)
//
// Grid: one invocation per element, 64 a workgroup, workgroups folded into x and y. Workgroup memory: none.

struct Sizes { count: u32 }

@group(0) @binding(0) var<storage, read_write> dx: array<f32>; // (count)
@group(0) @binding(1) var<storage, read> dy: array<f32>;       // (count)
@group(0) @binding(2) var<storage, read> x: array<f32>;        // (count)
@group(0) @binding(3) var<uniform> sizes: Sizes;

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let i = (group.x + group.y * groups.x) * 64 + local;
  if (i >= sizes.count) { return; }
  dx[i] = select(0.0, dy[i], x[i] > 0.0);
}
