// dw[n, l, j] += Σ_p dwide[p · N + n, l, j + p · stride]: what neighbouring windows want of the same weight.
//
// Grid: 64 invocations a workgroup, one for each element of dw, folded into x and y. Workgroup memory: none.

struct Sizes { N: u32, lines: u32, size: u32, stride: u32, across: u32 }

@group(0) @binding(0) var<storage, read_write> dw: array<f32>; // (N, lines, size)
@group(0) @binding(1) var<storage, read> dwide: array<f32>;    // (across · N, lines, size + (across - 1) · stride)
@group(0) @binding(2) var<uniform> sizes: Sizes;

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let id = (group.x + group.y * groups.x) * 64 + local;
  if (id >= sizes.N * sizes.lines * sizes.size) { return; }
  let width = sizes.size + (sizes.across - 1) * sizes.stride;
  var sum = 0.0;
  for (var p = 0u; p < sizes.across; p++) {
    sum += dwide[(p * sizes.N * sizes.lines + id / sizes.size) * width + id % sizes.size + p * sizes.stride];
  }
  dw[id] += sum;
}
