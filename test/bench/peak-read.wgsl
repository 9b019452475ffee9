// y[i] = the sum of the fours that invocation i reads of x: the rate at which a device reads memory, where x is larger than its
// caches and little is written.
//
// Grid: 64 invocations a workgroup, any number of workgroups along x; all of them go through the fours together. Workgroup
// memory: none.

struct Sizes { fours: u32 }

@group(0) @binding(0) var<storage, read_write> y: array<vec4f>; // (invocations)
@group(0) @binding(1) var<storage, read> x: array<vec4f>;       // (fours)
@group(0) @binding(2) var<uniform> sizes: Sizes;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  var sum = vec4f(0);
  for (var i = id.x; i < sizes.fours; i += groups.x * 64) { sum += x[i]; }
  y[id.x] = sum;
}
