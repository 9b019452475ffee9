// y[i] = Σ_p c[p] · parts[p, i], in the order of p; with ADD y[i] += that sum.
// The parts lie one after the other in one buffer, `stride` elements apart: any number of them, so that fours may begin anywhere.
//
// Grid: one invocation per four elements, 64 a workgroup, workgroups folded into x and y: with a loop over fours around the one over
// parts a software driver takes four times as long. Workgroup memory: none.

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
  let i = ((group.x + group.y * groups.x) * 64 + local) * 4;
  if (i >= sizes.count) { return; }
  // Beyond the end the last element is computed again.
  let at = min(i + vec4u(0, 1, 2, 3), vec4u(sizes.count - 1));
  var sum = vec4f(0);
  if (ADD) { sum = vec4f(y[at.x], y[at.y], y[at.z], y[at.w]); }
  for (var p = 0u; p < sizes.parts; p++) {
    let source = p * sizes.stride + at;
    sum += c[p] * vec4f(parts[source.x], parts[source.y], parts[source.z], parts[source.w]);
  }
  y[at.x] = sum.x;
  y[at.y] = sum.y;
  y[at.z] = sum.z;
  y[at.w] = sum.w;
}
