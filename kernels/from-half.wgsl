// Unpacks what to-half.wgsl packs: f16, or with BRAIN bfloat16, to f32. Exact.
//
// Grid: 64 invocations a workgroup, any number of workgroups along x; each goes through one stretch of fours, because an
// invocation costs a software driver more than a four. Workgroup memory: none.

override BRAIN: bool = false;

struct Sizes { count: u32 }

@group(0) @binding(0) var<storage, read_write> y: array<vec4f>; // (count), padded to fours
@group(0) @binding(1) var<storage, read> x: array<vec2u>;       // (count / 2 words), padded to twos
@group(0) @binding(2) var<uniform> sizes: Sizes;

fn fromHalf(half: vec4u) -> vec4f {
  let f = (half & vec4u(0x7fff)) << vec4u(13);
  let magnitude = select(f + 0x38000000, f + 0x70000000, f >= vec4u(0x0f800000)); // infinity and NaN stay so
  // A half below 2⁻¹⁴ has no leading one: it gets one, and gives it back as a subtraction.
  let small = bitcast<vec4u>(bitcast<vec4f>(f + 0x38800000) - bitcast<f32>(0x38800000u));
  let bits = select(magnitude, small, f < vec4u(0x00800000));
  return bitcast<vec4f>(bits | ((half & vec4u(0x8000)) << vec4u(16)));
}

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
    let words = x[i];
    let half = vec4u(words.x & 0xffff, words.x >> 16, words.y & 0xffff, words.y >> 16);
    if (BRAIN) { store(i, bitcast<vec4f>(half << vec4u(16))); } else { store(i, fromHalf(half)); }
  }
}
