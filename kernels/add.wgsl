// y += x
//
// Grid: 64 invocations a workgroup, any number of workgroups along x; each goes through one stretch of fours, because an
// invocation costs a software driver more than a four. Workgroup memory: none.

struct Sizes { count: u32 }

@group(0) @binding(0) var<storage, read_write> y: array<vec4f>; // (count), padded to fours
@group(0) @binding(1) var<storage, read> x: array<vec4f>;       // (count), padded to fours
@group(0) @binding(2) var<uniform> sizes: Sizes;

// The last four may reach beyond count: what lies there stays.
fn store(i: u32, value: vec4f) {
  if (i * 4 + 4 <= sizes.count) {
    y[i] = value;
  } else {
    y[i] = select(y[i], value, i * 4 + vec4u(0, 1, 2, 3) < vec4u(sizes.count));
  }
}

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  // Each workgroup goes through one stretch, so that what is near in memory is near in time.
  let stretch = (sizes.count + groups.x * 256 - 1) / (groups.x * 256) * 64;
  let end = min((group.x + 1) * stretch, (sizes.count + 3) / 4);
  for (var i = group.x * stretch + local; i < end; i += 64) {
    store(i, y[i] + x[i]);
  }
}
