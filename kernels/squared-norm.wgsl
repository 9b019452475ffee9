// partial[j] = Σ_{i ≡ j mod lanes} x[i]²: `lanes` partial sums, which the reader adds up in double precision.
//
// Grid: one invocation per partial sum, 64 a workgroup, workgroups along x only. Workgroup memory: none.

struct Sizes { count: u32, lanes: u32 }

@group(0) @binding(0) var<storage, read_write> partial: array<f32>; // (lanes)
@group(0) @binding(1) var<storage, read> x: array<f32>;             // (count)
@group(0) @binding(2) var<uniform> sizes: Sizes;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= sizes.lanes) { return; }
  var sum = 0.0;
  for (var i = id.x; i < sizes.count; i += sizes.lanes) { sum += x[i] * x[i]; }
  partial[id.x] = sum;
}
