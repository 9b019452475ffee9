// db[n] += Σ_m dy[m, n]: the gradient of a bias, added to what is there.
//
// Grid: one invocation per column, 64 a workgroup, workgroups folded into x and y. Workgroup memory: none.

struct Sizes { M: u32, N: u32 }

@group(0) @binding(0) var<storage, read_write> db: array<f32>; // (N)
@group(0) @binding(1) var<storage, read> dy: array<f32>;       // (M, N)
@group(0) @binding(2) var<uniform> sizes: Sizes;

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let col = (group.x + group.y * groups.x) * 64 + local;
  if (col >= sizes.N) { return; }
  var sum = 0.0;
  for (var row = 0u; row < sizes.M; row++) { sum += dy[row * sizes.N + col]; }
  db[col] += sum;
}
