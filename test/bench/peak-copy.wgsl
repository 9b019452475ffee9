// y = x, in fours: the rate at which a device reads and writes memory, where both are larger than its caches.
//
// Grid: 64 invocations a workgroup, any number of workgroups along x; all of them go through the fours together. Workgroup
// memory: none.

struct Sizes { fours: u32 }

@group(0) @binding(0) var<storage, read_write> y: array<vec4f>; // (fours)
@group(0) @binding(1) var<storage, read> x: array<vec4f>;       // (fours)
@group(0) @binding(2) var<uniform> sizes: Sizes;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  for (var i = id.x; i < sizes.fours; i += groups.x * 64) { y[i] = x[i]; }
}
