// y[i] = Σ_p c[p] · parts[p, i], in the order of p; with ADD y[i] += that sum.
// The parts lie one after the other in one buffer, `stride` elements apart.
//
// Grid: one invocation per element, 64 a workgroup, workgroups folded into x and y. Workgroup memory: none.

override ADD: bool = false;

struct Sizes { count: u32, parts: u32, stride: u32 }

@group(0) @binding(0) var<storage, read_write> y: array<f32>; // (count)
@group(0) @binding(1) var<storage, read> parts: array<f32>;   // (parts, stride)
@group(0) @binding(2) var<storage, read> c: array<f32>;       // (parts)
@group(0) @binding(3) var<uniform> sizes: Sizes;

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let i = (group.x + group.y * groups.x) * 64 + local;
  if (i >= sizes.count) { return; }
  var sum = 0.0;
  if (ADD) { sum = y[i]; }
  for (var p = 0u; p < sizes.parts; p++) { sum += c[p] * parts[p * sizes.stride + i]; }
  y[i] = sum;
}
