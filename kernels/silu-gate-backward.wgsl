// dup = dy · silu(gate), dgate = dy · up · s · (1 + gate · (1 - s)), s = 1 / (1 + exp(-gate)).
//
// Grid: 64 invocations a workgroup, any number of workgroups along x; each goes through one stretch of fours, because an
// invocation costs a software driver more than a four. Workgroup memory: none.

struct Sizes { count: u32 }

@group(0) @binding(0) var<storage, read_write> dgate: array<vec4f>; // (count), padded to fours
@group(0) @binding(1) var<storage, read_write> dup: array<vec4f>;   // (count), padded to fours
@group(0) @binding(2) var<storage, read> dy: array<vec4f>;          // (count), padded to fours
@group(0) @binding(3) var<storage, read> gate: array<vec4f>;        // (count), padded to fours
@group(0) @binding(4) var<storage, read> up: array<vec4f>;          // (count), padded to fours
@group(0) @binding(5) var<uniform> sizes: Sizes;

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
    let g = gate[i];
    let s = 1 / (1 + exp(min(-g, vec4f(87)))); // clamped as in silu-gate.wgsl
    let d = dy[i];
    let toGate = d * up[i] * s * (1 + g * (1 - s));
    let toUp = d * g * s;
    if (i * 4 + 4 <= sizes.count) {
      dgate[i] = toGate;
      dup[i] = toUp;
    } else { // the last four may reach beyond count: what lies there stays
      let isInside = i * 4 + vec4u(0, 1, 2, 3) < vec4u(sizes.count);
      dgate[i] = select(dgate[i], toGate, isInside);
      dup[i] = select(dup[i], toUp, isInside);
    }
  }
}
