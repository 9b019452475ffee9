// x = gain · x where the random bits of an element reach threshold, else 0: dropout.wgsl with one buffer, bit for bit.
//
// Grid: 64 invocations a workgroup, any number of workgroups along x; each goes through one stretch of fours, because an
// invocation costs a software driver more than a four. Workgroup memory: none.

struct Sizes { count: u32, seed: u32, threshold: u32, gain: f32 }

@group(0) @binding(0) var<storage, read_write> x: array<vec4f>; // (count), padded to fours
@group(0) @binding(1) var<uniform> sizes: Sizes;

// As in dropout.wgsl.
fn mix(v: vec4u) -> vec4u {
  var h = v;
  h = (h ^ (h >> vec4u(16))) * 0x7feb352du;
  h = (h ^ (h >> vec4u(15))) * 0x846ca68bu;
  return h ^ (h >> vec4u(16));
}

fn isKept(i: u32) -> vec4<bool> {
  let words = mix(vec4u(sizes.seed, ~sizes.seed, 0, 0)).xy;
  let bits = mix(mix((i * 4 + vec4u(0, 1, 2, 3)) ^ vec4u(words.x)) + vec4u(words.y));
  return bits >= vec4u(sizes.threshold);
}

// The last four may reach beyond count: what lies there stays.
fn store(i: u32, value: vec4f) {
  if (i * 4 + 4 <= sizes.count) {
    x[i] = value;
  } else {
    x[i] = select(x[i], value, i * 4 + vec4u(0, 1, 2, 3) < vec4u(sizes.count));
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
    store(i, select(vec4f(0), sizes.gain * x[i], isKept(i)));
  }
}
