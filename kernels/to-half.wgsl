// Packs f32 to 16 bits, two to a word, the first in the low half: f16, or with BRAIN bfloat16. Rounds to the nearest, ties to
// even; what is too large becomes infinite, NaN stays NaN. All of it in integers, because a driver may round pack2x16float as it
// likes and may flush small values to zero.
//
// Grid: 64 invocations a workgroup, any number of workgroups along x; each goes through one stretch of fours, because an
// invocation costs a software driver more than a four. Workgroup memory: none.

override BRAIN: bool = false;

struct Sizes { count: u32 }

@group(0) @binding(0) var<storage, read_write> y: array<vec2u>; // (count / 2 words, the last half 0 where count is odd)
@group(0) @binding(1) var<storage, read> x: array<vec4u>;       // (count), the bits of f32, padded to fours
@group(0) @binding(2) var<uniform> sizes: Sizes;

fn toBrain(bits: vec4u) -> vec4u {
  let isNan = (bits & vec4u(0x7fffffff)) > vec4u(0x7f800000);
  let rounded = (bits + 0x7fff + ((bits >> vec4u(16)) & vec4u(1))) >> vec4u(16);
  return select(rounded, (bits >> vec4u(16)) | vec4u(0x40), isNan);
}

fn toHalf(bits: vec4u) -> vec4u {
  let f = bits & vec4u(0x7fffffff);
  // From 2⁻¹⁴: the exponent moves from bias 127 to 15, and 13 bits are rounded away; a carry moves on into the exponent.
  let normal = (f - 0x38000000 + 0xfff + ((f >> vec4u(13)) & vec4u(1))) >> vec4u(13);
  // Below it the last place of a half is 2⁻²⁴, which is the last place of 0.5 in f32: that addition rounds.
  let small = bitcast<vec4u>(bitcast<vec4f>(min(f, vec4u(0x38800000))) + 0.5) - 0x3f000000;
  let huge = select(vec4u(0x7c00), vec4u(0x7e00), f > vec4u(0x7f800000));
  let half = select(select(normal, small, f < vec4u(0x38800000)), huge, f >= vec4u(0x47800000));
  return half | ((bits >> vec4u(16)) & vec4u(0x8000));
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
    let bits = select(vec4u(0), x[i], i * 4 + vec4u(0, 1, 2, 3) < vec4u(sizes.count));
    var half: vec4u;
    if (BRAIN) { half = toBrain(bits); } else { half = toHalf(bits); }
    let words = half.xz | (half.yw << vec2u(16));
    y[i] = vec2u(words.x, select(y[i].y, words.y, i * 4 + 2 < sizes.count));
  }
}
