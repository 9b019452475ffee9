// flag = 1 where any x is NaN or infinite; left alone otherwise. x is read as bits, because a shader compiler may assume
// that no float is NaN or infinite.
//
// Grid: 64 invocations a workgroup, any number of workgroups along x; each goes through x in steps of all invocations.
// Workgroup memory: none.

struct Sizes { count: u32 }

@group(0) @binding(0) var<storage, read_write> flag: array<atomic<u32>>; // (1)
@group(0) @binding(1) var<storage, read> x: array<u32>;                  // (count), the bits of f32
@group(0) @binding(2) var<uniform> sizes: Sizes;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  var isBad = false;
  for (var i = id.x; i < sizes.count; i += groups.x * 64) { isBad |= (x[i] & 0x7f800000u) == 0x7f800000u; }
  if (isBad) { atomicStore(&flag[0], 1u); }
}
