// Puts merged values in the place of what was trained from, without losing what was trained meanwhile:
// live' = live + (s - shown), shown' = s.
//
// Grid: one workgroup of 64 per item, a stretch of a unit, folded into x and y. Workgroup memory: none.

struct Sizes { items: u32 }

@group(0) @binding(0) var<storage, read_write> live: array<f32>;
@group(0) @binding(1) var<storage, read_write> shown: array<f32>;
@group(0) @binding(2) var<storage, read> s: array<f32>;
@group(0) @binding(3) var<storage, read> items: array<vec4u>; // (items): begin in live and shown, begin in s, elements, unused
@group(0) @binding(4) var<uniform> sizes: Sizes;

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let number = group.x + group.y * groups.x;
  if (number >= sizes.items) { return; }
  let item = items[number];
  for (var i = local; i < item.z; i += 64) {
    let after = s[item.y + i];
    live[item.x + i] += after - shown[item.x + i];
    shown[item.x + i] = after;
  }
}
