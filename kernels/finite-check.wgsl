// flag = 1 where any x is NaN or infinite; left alone otherwise. x is read as bits, because a shader compiler may assume
// that no float is NaN or infinite.
//
// Grid: one invocation per element, 64 a workgroup, workgroups folded into x and y. Workgroup memory: none.

struct Sizes { count: u32 }

@group(0) @binding(0) var<storage, read_write> flag: array<atomic<u32>>; // (1)
@group(0) @binding(1) var<storage, read> x: array<u32>;                  // (count), the bits of f32
@group(0) @binding(2) var<uniform> sizes: Sizes;

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let i = (group.x + group.y * groups.x) * 64 + local;
  if (i >= sizes.count) { return; }
  if ((x[i] & 0x7f800000u) == 0x7f800000u) { atomicStore(&flag[0], 1u); }
}
